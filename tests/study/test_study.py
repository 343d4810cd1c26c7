"""The driver: the same results with any number of workers, after any kill, however often the study is resumed."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
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

from pipeline.errors import ConfigError, InputError, Interrupted, StudyError
from pipeline.results.summary import summarise

pytest_plugins = ["study_fixtures"]


def on_event(*start: Any, action: Callable[[], None]) -> Recorder:
    """A reporter that calls ``action`` once, at the first event that starts with the given values."""
    done: list[None] = []

    def act(event: tuple[Any, ...]) -> None:
        if event[: len(start)] == start and not done:
            done.append(None)
            action()

    return Recorder(act)


def processes_of(command: Command) -> list[int]:
    """The living processes of a command. It and its child processes share a session."""
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


def test_a_finished_study_passes_all_checks_and_has_trials_of_every_kind(finished: Place) -> None:
    assert_sound(finished)
    records = finished.search().records()
    assert {record.state for record in records} == {"COMPLETE", "PRUNED", "FAIL"}
    first = records[0]
    assert (first.values["optimizer"], first.values["lr"], first.state) == ("sgd", 1e9, "FAIL"), "the enqueued trial"
    assert first.summary.reason.startswith("non-finite loss (nan) in epoch 1")
    pruned = next(record for record in records if record.state == "PRUNED")
    assert pruned.summary.reason == f"median pruner, after epoch {pruned.summary.epochs}"


def test_a_trial_s_value_is_its_best_epoch_s(finished: Place) -> None:
    for record in finished.search().records():
        if record.state == "COMPLETE":
            assert record.value == record.summary.metrics["val/psnr"]
            assert record.value == max(record.reported.values())
            assert record.reported[record.summary.best_epoch] == record.value


def test_every_event_is_reported_in_order(place: Place) -> None:
    outcome, recorder = place.run(trials=2)
    first = [event[0] for event in recorder.events if event[0] != "opened"][:3]
    assert first == ["begun", "baseline", "baseline"]
    assert recorder.kind("begun") == [(0, 1, 0.0)]
    assert [(number, trial.number, epoch) for number, trial, epoch in recorder.kind("opened")] == [(0, 0, 0), (1, 1, 0)]
    assert place.search().elapsed > 0
    assert [name for name, _ in recorder.kind("baseline")] == ["bicubic", "linear"]
    epochs = [event[:3] for event in recorder.kind("epoch")]
    assert epochs == [(1, epoch, EPOCHS) for epoch in range(1, EPOCHS + 1)]
    assert [(number, state, ended) for number, state, _, _, ended in recorder.kind("trial")] == [
        (0, "FAIL", 1),
        (1, "COMPLETE", 2),
    ]
    best = summarise(place.search()).best
    assert best is not None
    assert best.number == 1
    assert outcome.report is None, "the tests' studies leave it out"


@pytest.mark.slow  # the default run covers two workers in test_cli, and one worker that is killed below
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_number_of_workers_changes_no_number(finished: Place, place: Place, workers: int) -> None:
    _, recorder = place.run(workers=workers)
    assert_sound(place)
    assert facts(place) == facts(finished)
    idle = [text for (text,) in recorder.kind("note") if "idle" in text]
    assert bool(idle) == (workers > 1), "with a window of three, one worker is never idle"


def test_many_open_trials_with_a_sampler_that_learns_are_advised_against(place: Place) -> None:
    _, few = place.run(trials=1)
    _, many = place.run("budget.concurrency=5", trials=1, name="many")
    _, random = place.run("budget.concurrency=5", "sampler.name=random", trials=1, name="random")
    assert [sum("learn" in text for (text,) in r.kind("note")) for r in (few, many, random)] == [0, 1, 0]


def test_a_total_raised_later_changes_no_number(finished: Place, place: Place) -> None:
    for trials in (1, 4):
        place.run(trials=trials)
        assert_sound(place, trials)
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def contents(place: Place) -> dict[str, Any]:
    """Every row of the two databases, and the size and modification time of every file."""
    found: dict[str, Any] = {}
    for name in ("optuna.db", "mlflow.db"):
        with contextlib.closing(sqlite3.connect(place.path / name)) as database:
            for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
                found[f"{name}/{table}"] = sorted(map(repr, database.execute(f"select * from '{table}'").fetchall()))
    files = [path for path in place.path.rglob("*") if path.is_file() and path.suffix != ".db"]
    return found | {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files if "lock" not in str(path)
    }


def test_running_a_finished_study_again_changes_nothing(finished: Place, finished_copy: Place) -> None:
    before = contents(finished_copy)
    outcome, recorder = finished_copy.run()
    assert contents(finished_copy) == before
    assert recorder.events == []
    assert (outcome.seconds, outcome.shares) == (0.0, {})
    best = summarise(finished_copy.search()).best
    assert best is not None
    assert best == finished.search().records()[best.number]


def test_a_smaller_total_removes_no_trials(finished_copy: Place) -> None:
    finished_copy.run(trials=2)
    assert len(finished_copy.search().records()) == TRIALS


@pytest.mark.slow
def test_two_studies_run_side_by_side_in_one_home(finished: Place, place: Place, launcher: Launcher) -> None:
    other = launcher.start(*place.arguments("--workers", "1", "--name", "other"))
    place.run()
    assert other.code() == 0, other.stderr
    for name in ("small", "other"):
        assert_sound(place, name=name)
    assert facts(place) == facts(finished)
    trials = [[fact["trial"] for fact in facts(place, name)[:TRIALS]] for name in ("small", "other")]
    assert trials[0] == trials[1], "except with Hyperband, a study's name does not affect its numbers"


# --- the driver dies --------------------------------------------------------------------------------------------------

# Each moment is a database statement and a number n: the process is killed before the n-th such statement.
MOMENTS = [
    ("UPDATE trials SET state", 2),  # everything about a trial's end is written except its state
    ("UPDATE logged_models", 1),  # a model is created but not complete
]
MORE_MOMENTS = [
    ("INSERT INTO studies", 1),
    ("INSERT INTO study_user_attributes", 3),  # the study exists without its configuration
    ("INSERT INTO experiments", 1),
    ("INSERT INTO trials", 1),
    ("INSERT INTO trials", 4),  # the first trial asked after a result was recorded
    ("INSERT INTO trial_params", 3),
    ("INSERT INTO runs", 2),  # the trial is asked but has no run
    ("INSERT INTO params", 2),
    ("INSERT INTO inputs", 2),
    ("INSERT INTO metrics", 2),  # of a baseline
    ("INSERT INTO metrics", 5),  # of an epoch
    ("UPDATE study_user_attributes", 1),  # a baseline has ended but is not recorded
    ("INSERT INTO trial_intermediate_values", 2),
    ("INSERT INTO trial_user_attributes", 2),
    ("INSERT INTO logged_models", 2),
    ("INSERT INTO tags", 12),
    ("UPDATE runs SET status", 4),
    ("UPDATE runs SET status", 10),  # the study's own run is about to end
]


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(m, marks=pytest.mark.slow) for m in MORE_MOMENTS)], ids=str
)
def test_killed_at_a_certain_moment_and_resumed(
    finished: Place, place: Place, launcher: Launcher, moment: tuple[str, int]
) -> None:
    killed = launcher.run(*place.arguments("--workers", "0"), kill_before=moment)
    assert killed.code() == -signal.SIGKILL, killed.stderr
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_killed_while_its_workers_train(finished: Place, place: Place, launcher: Launcher) -> None:
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
def test_killed_repeatedly(finished: Place, place: Place, launcher: Launcher, workers: int) -> None:
    codes = []
    for commits in range(120, 1000, 40):  # a little later each time: opening a study takes 100 commits
        command = launcher.run(*place.arguments("--workers", str(workers)), kill_before=("COMMIT", commits))
        codes.append(command.code())
        if codes[-1] != -signal.SIGKILL:
            break
    assert codes[-1] == 0, command.stderr
    assert len(codes) >= 3
    assert_sound(place)
    assert facts(place) == facts(finished)


# The databases of a new home are being created.
CREATION_MOMENTS = [("CREATE TABLE", 7), ("UPDATE alembic_version", 30), ("ALTER TABLE", 6), ("INSERT INTO studies", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("moment", CREATION_MOMENTS, ids=str)
def test_killed_while_its_home_is_created(tmp_path: Path, launcher: Launcher, moment: tuple[str, int]) -> None:
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

    place.run(workers=workers, reporter=on_event("epoch", 1, 1, action=kill_one))
    assert_sound(place)
    assert facts(place) == facts(finished)
    assert multiprocessing.active_children() == []


# --- the user stops it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "which"), [(1, signal.SIGINT), (0, signal.SIGTERM)])
def test_stopped_by_a_signal_and_resumed(
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


def test_a_second_signal_ends_the_command_at_once(place: Place, launcher: Launcher) -> None:
    command = launcher.start(*place.arguments("--workers", "0"))
    command.until("epoch 1/")
    while not command.ended():
        with contextlib.suppress(ProcessLookupError):
            os.kill(command.pid, signal.SIGINT)
    assert command.code() == 130, (command.stdout, command.stderr)


def test_in_a_program_a_stop_is_an_exception_and_signal_handlers_are_restored(place: Place) -> None:
    before = [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted):
        place.run(reporter=on_event("epoch", action=lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert [signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)] == before
    assert status(place) <= {"SCHEDULED", "FINISHED", "FAILED"}


def test_outside_the_main_thread_a_study_runs_without_catching_signals(finished: Place, place: Place) -> None:
    thread = threading.Thread(target=lambda: place.run(trials=2))
    thread.start()
    thread.join()
    assert facts(place)[:2] == facts(finished)[:2]


# --- checkpoints are damaged ------------------------------------------------------------------------------------------


def checkpoints(place: Place) -> list[Path]:
    """The checkpoints in the home, the latest epoch last."""
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
        place.run(trials=2, reporter=on_event("epoch", 1, 2, action=stop))
    assert [path.name[:10] for path in checkpoints(place)] == ["epoch-0001", "epoch-0002"]
    for path in checkpoints(place)[-damaged:]:
        flip(path)
    _, recorder = place.run(trials=2)
    notes = [text for (text,) in recorder.kind("note")]
    assert sum("damaged" in text and "falling back" in text for text in notes) == damaged, notes
    assert_sound(place, 2)
    assert facts(place)[:2] == facts(finished)[:2]


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_a_checkpoint_damaged_while_the_study_runs_is_not_used(finished: Place, place: Place, epoch: int) -> None:
    """Either in the middle of a trial, or the best one after its last epoch."""
    _, recorder = place.run(trials=2, reporter=on_event("epoch", 1, epoch, action=lambda: flip(checkpoints(place)[-1])))
    notes = [text for (text,) in recorder.kind("note")]
    assert sum("damaged" in text for text in notes) == 1, notes
    assert_sound(place, 2)
    assert facts(place)[:2] == facts(finished)[:2]


@pytest.mark.parametrize("resumed", [False, True])
def test_a_checkpoint_that_cannot_be_read_ends_the_study_and_is_kept(
    finished: Place, place: Place, resumed: bool
) -> None:
    """For another reason than damage; here a folder has its name."""
    latest: list[tuple[Path, bytes]] = []

    def hide() -> None:
        path = checkpoints(place)[-1]
        latest.append((path, path.read_bytes()))
        path.unlink()
        path.mkdir()

    def stop_and_hide() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        hide()

    with pytest.raises(Interrupted if resumed else StudyError):
        place.run(trials=2, reporter=on_event("epoch", 1, 2, action=stop_and_hide if resumed else hide))
    [(path, content)] = latest
    with pytest.raises(StudyError, match=re.escape(f"{path}: cannot be read: ")):
        place.run(trials=2)
    assert path.is_dir()
    path.rmdir()
    path.write_bytes(content)
    place.run(trials=2)
    assert_sound(place, 2)
    assert facts(place)[:2] == facts(finished)[:2]


STARTING = "study small: starting\n"


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_changed_study_file_is_refused_with_the_differences(finished_copy: Place) -> None:
    before = contents(finished_copy)
    finished_copy.file.write_text(
        SMALL.replace("batch_size = 32", "batch_size = 64").replace("factor = 7", "factor = 4")
    )
    done = study(*finished_copy.arguments("--workers", "0"))
    assert (done.code, done.stdout) == (2, STARTING)
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


def test_an_unavailable_data_set_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")  # nothing listens there, so the download fails
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL.replace("mnist-5k", "mnist"))
    data = tmp_path / "data"
    done = study(*place.arguments("--workers", "0", "--data-dir", str(data)))
    assert (done.code, done.stdout) == (2, STARTING)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("fetching http")]
    assert len(lines) == 2, done.stderr
    assert all(part in done.stderr for part in ("mnist", str(data), "train-images-idx3-ubyte", "mnist-5k"))
    assert not place.path.exists()


WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "--workers -1: must be 0 .* or more"),
        pytest.param({"device": "cuda"}, "--device cuda: torch sees no CUDA device here", marks=WITHOUT_CUDA),
    ],
)
def test_impossible_options_are_refused_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL)
    with pytest.raises(InputError, match=message):
        place.run(**settings)
    assert not place.path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("factor = 7", "factor = 5"), "factor = 5 does not divide images of 28 x 28; allowed: 2, 4, 7, 14, 28"),
        (
            ("depth = 1", 'depth = { by = "layer_type", linear = 5, conv = [2, 3] }\nlayer_type = ["linear", "conv"]'),
            'depth = 3: with layer_type = "conv" inputs of 4 x 4 pixels can be halved 2 times at most',
        ),
        (("[model]", "[sampler]\nn_startup_trials = 'x'\n\n[model]"), "[sampler] n_startup_trials = 'x'"),
    ],
)
def test_files_that_only_the_data_set_or_optuna_can_check_are_refused_before_anything_is_written(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    place = Place(tmp_path / "home", tmp_path / "small.toml")
    place.file.write_text(SMALL.replace(*change))
    done = study(*place.arguments("--workers", "0"))
    said = "" if "sampler" in message else STARTING  # what the file alone shows is refused at once
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, said, 1), done
    assert message in done.stderr
    assert not place.path.exists()
