"""The tables of `show` and `run`: trials among baselines, aligned digits, what is left out, choices."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from summaries import BASELINES, record, running, summary_of
from tiny import trial

from pipeline.cli.leaderboard import choices, leaderboard, setting, training_table
from pipeline.results.lookup import StoredTraining

SETTINGS: dict[str, Any] = {"width": "auto", "batch_norm": True, "loss": "bce", "batch_size": 64}
ESCAPE = "\x1b[31m[/nope] " * 9


def printed(parts: Iterable[Any]) -> list[str]:
    screen = Console(file=io.StringIO(), width=240)
    for part in parts:
        screen.print(part)
    return screen.file.getvalue().splitlines()  # type: ignore[attr-defined]


def summary(count: int = 4) -> Any:
    trials = [record(n, 18.0 - n, lr=10.0**-n, **SETTINGS) for n in range(count)]
    ends = [record(count, 8.0, "PRUNED", "median pruner, after epoch 1", lr=0.1, **SETTINGS)]
    ends += [record(count + 1, 7.0, "PRUNED", "median pruner, after epoch 1", lr=0.1, **SETTINGS)]
    ends += [record(count + 2, None, "FAIL", ESCAPE, lr=0.1, **SETTINGS)]
    return summary_of([*trials, *ends, running(count + 3, lr=0.1, **SETTINGS)], BASELINES)


def test_baselines_stand_among_the_trials_and_gains_are_of_the_best_one() -> None:
    lines = printed(leaderboard(summary(), "stopped", top=2))
    assert lines[1] == "small: stopped, 7 of 20 trials ended (4 complete, 2 pruned, 1 failed, 1 unfinished)"
    cells = [line.split() for line in lines[4:9]]
    assert [row[:4] for row in cells[:3]] == [
        ["1", "0", "complete", "18.00"],
        ["linear", "baseline", "17.00", "+0.00"],  # before a trial that is as good
        ["2", "1", "complete", "17.00"],
    ]
    assert cells[3][:3] == ["…", "2", "more"]
    assert cells[4][:4] == ["degraded", "baseline", "9.50", "-7.50"]
    assert "dB" in lines[2] + lines[3]
    assert cells[0][4] == "+1.00"
    assert lines[9] == "Of 4 complete trials, 4 beat degraded and 1 beats linear."
    assert lines[10] == "2 pruned: median pruner, after epoch 1"


def test_all_shows_the_other_trials_and_control_characters_as_text() -> None:
    lines = printed(leaderboard(summary(), "running", top=9, others=True))
    assert "1 running" in lines[1]
    states = [line.split()[1] for line in lines[10:14]]
    assert states == ["pruned", "pruned", "failed", "running"]
    assert "\x1b" not in "\n".join(lines)
    assert r"1 failed: \x1b[31m[/nope]" in "\n".join(lines)


def test_a_study_without_trials_or_baselines_is_shown() -> None:
    assert printed(leaderboard(summary_of([]), "stopped")) == ["", "small: stopped, 0 of 20 trials ended"]
    assert "gain vs" not in "\n".join(printed(leaderboard(summary_of([record(0, 9.0, **SETTINGS)]), "stopped")))


def test_digits_of_a_column_are_aligned() -> None:
    assert setting("lr", [0.001, 0.25, None]).cells == ["0.00100", "0.25000", ""]
    assert setting("lr", [1e-7, 0.5]).cells == ["1.00e-07", "5.00e-01"]
    assert setting("dropout", [0.0, 0.1]).cells == ["0.000", "0.100"]
    assert setting("width", ["auto", 512]).cells == ["auto", "512"]
    assert setting("skip", [True, False]).cells == ["true", "false"]


def test_choices_have_n_median_and_best_and_ranges_are_named() -> None:
    lines = printed(choices(summary()))
    assert next(line for line in lines if line.startswith("loss")).split() == ["loss", "bce", "4", "16.50", "18.00"]
    assert lines[-1] == "ranges are left out: lr"


def test_trainings_show_the_settings_of_every_kind_of_network() -> None:
    """Whatever the first one is: a linear network has no channels, and of an edited run nothing is known."""
    kinds = [None, trial(layer_type="linear"), trial(layer_type="conv", channels=24, convs=2)]
    made = [
        StoredTraining("s", f"train-{n}", "0" * 32, "FINISHED", datetime(2026, 1, 2), {}, config)
        for n, config in enumerate(kinds)
    ]
    head = " ".join(printed(training_table(made))[1:3]).split()
    assert {"layer_type", "channels", "convs"} <= set(head)
