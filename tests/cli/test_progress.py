"""The live table in a terminal, and the plain lines elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.live import Live
from summaries import record

from pipeline.cli.progress import LiveTable, open_reporter
from pipeline.config import load_study_file
from pipeline.data import load
from pipeline.study.lines import PlainLines
from pipeline.study.reporter import figure

METRICS = {
    "train/loss": 0.25,
    "val/psnr": 17.123456,
    "val/ssim": 0.5,
    "time/epoch_s": 1.25,
    "time/images_per_s": 2800.0,
}
# Messages of libraries and paths of users may contain brackets, which rich takes for markup.
AWKWARD = "RuntimeError in epoch 2: [enforce fail at alloc_cpu.cpp:117] no memory [/tmp/a[b]/c]"


def report_events(reporter: Any, config: Any, data: Any) -> None:
    trial = config.trial(config.space.resolve(lambda _, dimension: dimension.first), 3, "cpu", "float32")
    reporter.begun(config, data, [record(0, 16.5)], 2, 65.0)
    reporter.baseline("degraded", {"val/psnr": 9.5})
    reporter.opened(3, trial, 0)
    reporter.opened(4, trial.model_copy(update={"number": 4}), 1)
    reporter.baseline("linear", {"val/psnr": 14.25})
    for epoch in (1, 2):
        reporter.epoch(3, epoch, 10, METRICS)
    reporter.trial(3, "COMPLETE", 17.123456, "", 2)
    reporter.trial(4, "PRUNED", 15.0, "median pruner, after epoch 1", 3)
    reporter.trial(5, "FAIL", None, AWKWARD, 4)
    reporter.note(AWKWARD)


@pytest.fixture
def known(tiny_study: Path, tmp_path: Path) -> tuple[Any, Any]:
    config = load_study_file(tiny_study).config
    return config, load(config.dataset, tmp_path)


def test_plain_lines_print_one_line_per_event(known: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    report_events(PlainLines(), *known)
    lines = capsys.readouterr().out.splitlines()
    for line, words in zip(
        lines,
        [
            ("study tiny: gaussian on mnist-5k",),
            ("3 trials of at most 2 epochs; 2 workers, at most 2 open trials",),
            ("1 of 3 trials ended, 1:05 in earlier sessions",),
            ("best so far: trial 0", "psnr 16.50 dB"),
            ("baseline degraded", "psnr 9.50 dB"),
            ("trial    3", "bottleneck 16, lr 0.001"),
            ("trial    4", "resumed after epoch 1: bottleneck 16"),
            ("baseline linear", "psnr 14.25 dB"),
            ("trial    3", "epoch 1/10", "loss 0.25", "psnr 17.12 dB"),
            ("trial    3", "epoch 2/10"),
            ("trial    3", "COMPLETE", "psnr 17.12 dB", "[2/3]", "1:05 elapsed, about 0:0", "images/s"),
            ("trial    4", "PRUNED", "median pruner"),
            ("trial    5", "FAIL", AWKWARD),
            ("note: ", AWKWARD),
        ],
        strict=True,
    ):
        assert all(word in line for word in words), line
    assert "ssim" not in lines[8]
    assert "\x1b" not in "".join(lines)


def test_verbose_lines_have_all_settings_and_metrics(
    known: tuple[Any, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    report_events(PlainLines(verbose=True), *known)
    lines = capsys.readouterr().out.splitlines()
    assert "depth 2" in lines[5]
    assert "psnr 17.12 dB, ssim 0.5000" in lines[8]


def test_quiet_prints_nothing(known: tuple[Any, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with open_reporter(quiet=True) as reporter:
        report_events(reporter, *known)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_live_table_shows_the_same_events(known: tuple[Any, Any], verbose: bool) -> None:
    screen = io.StringIO()
    with Live(console=Console(file=screen, force_terminal=True, width=200), transient=True) as live:
        report_events(LiveTable(live, verbose), *known)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for words in (
        "tiny",
        "bottleneck 16, lr 0.001" if not verbose else "depth 2",
        "COMPLETE",
        "psnr 17.12 dB",
        "PRUNED",
        "FAIL",
        "best so far: trial 3, psnr 17.12 dB",
        "degraded psnr 9.50 dB, linear psnr 14.25 dB",
        "1:05 elapsed, about 0:0",
    ):
        assert words in text
    assert text.count(AWKWARD) == 2
    assert ("epoch 2/10" in text) is verbose


def test_live_table_of_a_resumed_study_starts_with_its_best_trial(known: tuple[Any, Any]) -> None:
    screen = io.StringIO()
    with Live(console=Console(file=screen, force_terminal=True, width=200), transient=True) as live:
        table = LiveTable(live)
        table.begun(*known, [record(0, 16.5)], 2, 65.0)
        table.trial(1, "COMPLETE", 15.0, "", 2)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "best so far: trial 0, psnr 16.50 dB" in text


@pytest.mark.parametrize(
    ("value", "shown"), [(None, ""), (float("nan"), ""), (17.123456, "17.12"), (0.5, "0.5"), (1e-5, "1e-05")]
)
def test_figures_have_four_digits(value: float | None, shown: str) -> None:
    assert figure(value) == shown
