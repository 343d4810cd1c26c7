"""The driver: the same study whatever runs it, whatever kills it, however often it is taken up again."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from studies_for_tests import (
    EPOCHS,
    SMALL,
    TRIALS,
    Command,
    Launcher,
    Place,
    Recorder,
    assert_sound,
    facts,
    study,
    wait_for,
)

from pipeline.errors import ConfigError, InputError, Interrupted

pytest_plugins = ["study_fixtures"]


def acting(*wanted: Any, action: Callable[[], None]) -> Recorder:
    """A reporter that does something, once, when it is told of an event that begins so."""
    done: list[None] = []

    def act(event: tuple[Any, ...]) -> None:
        if event[: len(wanted)] == wanted and not done:
            done.append(None)
            action()

    return Recorder(act)


def processes_of(command: Command) -> list[int]:
    """What lives of a command's process and those that it started: they are one session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = entry.read_text().rpartition(")")[2].split()[:4]
            if int(session) == command.pid and state != "Z":
                found.append(int(entry.parent.name))
    return found


def status(place: Place) -> set[str]:
    return {run.info.status for run in place.runs()}


# --- one study --------------------------------------------------------------------------------------------------------


def test_a_finished_study_is_sound_and_has_trials_of_every_kind(finished: Place) -> None:
    assert_sound(finished)
    records = finished.search().records()
    assert {record.state for record in records} == {"COMPLETE", "PRUNED", "FAIL"}
    first = records[0]
    assert first.summary is not None
    assert (first.values["optimizer"], first.values["lr"], first.state) == ("sgd", 1e9, "FAIL"), "it was enqueued"
    assert first.summary.reason.startswith("non-finite loss (nan) in epoch 1")
    pruned = next(record for record in records if record.state == "PRUNED")
    assert pruned.summary is not None
    assert pruned.summary.reason == f"median pruner, after epoch {pruned.summary.epochs}"


def test_a_trial_s_value_is_its_best_epoch_s(finished: Place) -> None:
    for record in finished.search().records():
        if record.state == "COMPLETE":
            assert record.summary is not None
            assert record.value == record.summary.metrics["val/psnr"]
            assert record.value == max(record.reported.values())
            assert record.reported[record.summary.best_epoch] == record.value


def test_every_epoch_is_reported_as_it_comes(place: Place) -> None:
    outcome, told = place.run(trials=2)
    assert [event[0] for event in told.events[:3]] == ["begun", "baseline", "baseline"]
    assert told.kind("begun") == [(0, 1)]
    assert [name for name, _ in told.kind("baseline")] == ["bicubic", "linear"]
    epochs = [event[:3] for event in told.kind("epoch")]
    assert epochs == [(1, epoch, EPOCHS) for epoch in range(1, EPOCHS + 1)]
    assert [(number, state, ended) for number, state, _, _, ended in told.kind("trial")] == [
        (0, "FAIL", 1),
        (1, "COMPLETE", 2),
    ]
    assert outcome.best is not None
    assert outcome.best.number == 1
    assert outcome.contact_sheet is not None
    assert outcome.contact_sheet.is_file()


@pytest.mark.slow  # the routine suite has it of two workers in test_cli, and of one that is killed below
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_number(finished: Place, place: Place, workers: int) -> None:
    _, told = place.run(workers=workers)
    assert_sound(place)
    assert facts(place) == facts(finished)
    idle = [text for (text,) in told.kind("note") if "idle" in text]
    assert bool(idle) == (workers > 1), "a window of three has work for one worker at all times"


def test_a_total_raised_later_changes_no_number(finished: Place, place: Place) -> None:
    for trials in (1, 4):
        place.run(trials=trials)
        assert_sound(place, trials)
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def contents(place: Place) -> dict[str, Any]:
    """Every row of the two databases and every file's size and time."""
    found: dict[str, Any] = {}
    for name in ("optuna.db", "mlflow.db"):
        with contextlib.closing(sqlite3.connect(place.path / name)) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                found[f"{name}/{table}"] = sorted(map(repr, database.execute(f"select * from '{table}'").fetchall()))
    files = [path for path in place.path.rglob("*") if path.is_file() and path.suffix != ".db"]
    return found | {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if "lock" not in str(path)
    }


def test_run_again_a_finished_study_is_left_as_it_is(finished: Place, finished_copy: Place) -> None:
    before = contents(finished_copy)
    outcome, told = finished_copy.run()
    assert contents(finished_copy) == before
    assert told.events == []
    assert outcome.best is not None
    assert outcome.best == finished.search().records()[outcome.best.number]


def test_a_smaller_total_takes_nothing_away(finished_copy: Place) -> None:
    outcome, _ = finished_copy.run(trials=2)
    assert len(outcome.records) == TRIALS


@pytest.mark.slow
def test_two_studies_run_side_by_side_in_one_home(finished: Place, place: Place, launcher: Launcher) -> None:
    other = launcher.start(*place.arguments("--workers", "1", "--name", "other"))
    place.run()
    assert other.code() == 0, other.stderr
    for name in ("small", "other"):
        assert_sound(place, name=name)
    assert facts(place) == facts(finished)
    trials = [[fact["trial"] for fact in facts(place, name)[:TRIALS]] for name in ("small", "other")]
    assert trials[0] == trials[1], "the name is no part of what decides the numbers, but for Hyperband"


# --- the driver dies --------------------------------------------------------------------------------------------------

# Moments named by the statement that was about to be sent to a database, and which of its kind it was.
MOMENTS = [
    ("UPDATE trials SET state", 2),  # a trial's end is written, but for the last word
    ("UPDATE logged_models", 1),  # a model is half logged
]
MORE_MOMENTS = [
    ("INSERT INTO studies", 1),
    ("INSERT INTO study_user_attributes", 3),  # the study is there, but not yet what it is
    ("INSERT INTO experiments", 1),
    ("INSERT INTO trials", 1),
    ("INSERT INTO trials", 4),  # the first asked after a trial was told
    ("INSERT INTO trial_params", 3),
    ("INSERT INTO runs", 2),  # asked, and no run yet
    ("INSERT INTO params", 2),
    ("INSERT INTO inputs", 2),
    ("INSERT INTO metrics", 2),  # of a baseline
    ("INSERT INTO metrics", 5),  # of an epoch
    ("UPDATE study_user_attributes", 1),  # a baseline is done and not yet known to be
    ("INSERT INTO trial_intermediate_values", 2),
    ("INSERT INTO trial_user_attributes", 2),
    ("INSERT INTO logged_models", 2),
    ("INSERT INTO tags", 12),
    ("UPDATE runs SET status", 4),
    ("UPDATE runs SET status", 9),  # the study's own run is about to end
]


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE_MOMENTS)], ids=str
)
def test_killed_at_a_certain_moment_and_taken_up_again(
    finished: Place, place: Place, launcher: Launcher, moment: tuple[str, int]
) -> None:
    killed = launcher.run(*place.arguments("--workers", "0"), kill_before=moment)
    assert killed.code() == -signal.SIGKILL, killed.stderr
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_killed_with_its_workers_at_work(finished: Place, place: Place, launcher: Launcher) -> None:
    command = launcher.start(*place.arguments("--workers", "1"))
    command.until("epoch 2/")
    assert len(processes_of(command)) >= 2
    os.kill(command.pid, signal.SIGKILL)
    assert command.code() == -signal.SIGKILL
    wait_for(lambda: not processes_of(command), "end of the workers")
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_over_and_over(finished: Place, place: Place, launcher: Launcher, workers: int) -> None:
    codes = []
    for commits in range(120, 1000, 40):  # a little later each time: opening a study takes a hundred by itself
        command = launcher.run(*place.arguments("--workers", str(workers)), kill_before=("COMMIT", commits))
        codes.append(command.code())
        if codes[-1] != -signal.SIGKILL:
            break
    assert codes[-1] == 0, command.stderr
    assert len(codes) >= 3
    assert_sound(place)
    assert facts(place) == facts(finished)


# A home's first minutes: the databases are being made.
BEGINNINGS = [("CREATE TABLE", 7), ("UPDATE alembic_version", 30), ("ALTER TABLE", 6), ("INSERT INTO studies", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("moment", BEGINNINGS, ids=str)
def test_killed_while_its_home_is_made(tmp_path: Path, launcher: Launcher, moment: tuple[str, int]) -> None:
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL)
    killed = launcher.run(*place.arguments("--workers", "0", "--trials", "2"), kill_before=moment)
    assert killed.code() == -signal.SIGKILL, killed.stderr
    again = launcher.run(*place.arguments("--workers", "0", "--trials", "2"))
    assert again.code() == 0, again.stderr
    assert_sound(place, 2)


# --- a worker dies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_changes_no_number(finished: Place, place: Place, workers: int) -> None:
    def kill_one() -> None:
        worker = multiprocessing.active_children()[0]
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)

    place.run(workers=workers, reporter=acting("epoch", 1, 1, action=kill_one))
    assert_sound(place)
    assert facts(place) == facts(finished)
    assert multiprocessing.active_children() == []


# --- the user stops it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "which"), [(1, signal.SIGINT), (0, signal.SIGTERM)])
def test_stopped_by_a_signal_and_taken_up_again(
    finished: Place, place: Place, launcher: Launcher, workers: int, which: signal.Signals
) -> None:
    command = launcher.start(*place.arguments("--workers", str(workers)))
    command.until("epoch 1/")
    os.killpg(command.pid, which)  # a terminal's Ctrl-C reaches the workers too
    assert command.code() == 130, command.stderr
    assert command.stderr.splitlines() == ["stopped: run the same command again to resume"]
    wait_for(lambda: not processes_of(command), "end of the workers")
    assert "RUNNING" not in status(place)
    assert "SCHEDULED" in status(place)
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_stopped_twice_it_ends_at_once(place: Place, launcher: Launcher) -> None:
    command = launcher.start(*place.arguments("--workers", "0"))
    command.until("epoch 1/")
    while not command.ended():
        with contextlib.suppress(ProcessLookupError):
            os.kill(command.pid, signal.SIGINT)
    assert command.code() == 130, (command.stdout, command.stderr)


def test_within_a_program_stopping_is_an_exception_and_the_program_keeps_its_signals(place: Place) -> None:
    before = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        place.run(reporter=acting("epoch", action=lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == before
    assert status(place) <= {"SCHEDULED", "FINISHED", "FAILED"}


def test_outside_the_main_thread_a_study_runs_without_catching_signals(finished: Place, place: Place) -> None:
    thread = threading.Thread(target=lambda: place.run(trials=2))
    thread.start()
    thread.join()
    assert facts(place)[:2] == facts(finished)[:2]


# --- checkpoints are damaged ------------------------------------------------------------------------------------------


def checkpoints(place: Place) -> list[Path]:
    """The checkpoints that lie in the home, the latest epoch last."""
    return sorted((place.path / "checkpoints").rglob("*.safetensors"), key=lambda path: path.name)


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_checkpoint_damaged_between_two_runs_is_not_used(finished: Place, place: Place, damaged: int) -> None:
    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        place.run(trials=2, reporter=acting("epoch", 1, 2, action=stop))
    assert [path.name[:10] for path in checkpoints(place)] == ["epoch-0001", "epoch-0002"]
    for path in checkpoints(place)[-damaged:]:
        flip(path)
    _, told = place.run(trials=2)
    notes = [text for (text,) in told.kind("note")]
    assert sum("damaged" in text and "falling back" in text for text in notes) == damaged, notes
    assert_sound(place, 2)
    assert facts(place)[:2] == facts(finished)[:2]


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_checkpoint_damaged_while_the_study_runs_is_not_used(finished: Place, place: Place, epoch: int) -> None:
    """In the middle of a trial, and the best one after its last epoch."""
    _, told = place.run(trials=2, reporter=acting("epoch", 1, epoch, action=lambda: flip(checkpoints(place)[-1])))
    notes = [text for (text,) in told.kind("note")]
    assert sum("damaged" in text for text in notes) == 1, notes
    assert_sound(place, 2)
    assert facts(place)[:2] == facts(finished)[:2]


# --- refused ----------------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_is_refused_with_the_difference(finished_copy: Place) -> None:
    before = contents(finished_copy)
    finished_copy.file.write_text(
        SMALL.replace("batch_size = 32", "batch_size = 64").replace("factor = 7", "factor = 4")
    )
    done = study(*finished_copy.arguments("--workers", "0"))
    assert (done.code, done.stdout) == (2, "")
    assert "degrade.factor: 7 is stored, 4 is asked; train.batch_size: 32 is stored, 64 is asked" in done.stderr
    assert "--name" in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert contents(finished_copy) == before


def test_another_name_starts_another_study_from_a_changed_file(finished_copy: Place) -> None:
    with pytest.raises(ConfigError, match="seed: 0 is stored, 1 is asked"):
        finished_copy.run("seed=1")
    before = facts(finished_copy)
    finished_copy.run("seed=1", name="other", trials=2)
    assert_sound(finished_copy, 2, name="other")
    assert facts(finished_copy) == before
    assert facts(finished_copy, "other")[1]["trial"] != before[1]["trial"]


def test_a_data_set_that_cannot_be_had_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nobody is there: no download
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL.replace("mnist-5k", "mnist"))
    data = tmp_path / "data"
    done = study(*place.arguments("--workers", "0", "--data-dir", str(data)))
    assert (done.code, done.stdout) == (2, "")
    said = [line for line in done.stderr.splitlines() if not line.startswith("fetching http")]
    assert len(said) == 2, done.stderr
    assert all(part in done.stderr for part in ("mnist", str(data), "train-images-idx3-ubyte", "mnist-5k"))
    assert not place.path.exists()


CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"workers": -1}, "--workers -1: must be 0 .* or more"),
        pytest.param({"device": "cuda"}, "--device cuda: torch sees no CUDA device here", marks=CUDA),
    ],
)
def test_options_that_cannot_be_met_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL)
    with pytest.raises(InputError, match=words):
        place.run(**settings)
    assert not place.path.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("factor = 7", "factor = 5"), "factor = 5 does not divide images of 28 x 28; allowed: 2, 4, 7, 14, 28"),
        (
            ("depth = 1", 'depth = { by = "layer_type", linear = 5, conv = [2, 3] }\nlayer_type = ["linear", "conv"]'),
            'depth = 3: with layer_type = "conv" inputs of 4 x 4 pixels can be halved 2 times at most',
        ),
        (("[model]", "[sampler]\nn_startup_trials = 'x'\n\n[model]"), "[sampler] n_startup_trials = 'x'"),
    ],
)
def test_files_that_only_the_data_or_optuna_can_judge_are_refused_before_anything_is_written(
    tmp_path: Path, change: tuple[str, str], words: str
) -> None:
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL.replace(*change))
    done = study(*place.arguments("--workers", "0"))
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done
    assert words in done.stderr
    assert not place.path.exists()
