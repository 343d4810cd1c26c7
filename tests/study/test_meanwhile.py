"""A study runs while its store is locked, and while runs are deleted in MLflow's UI."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from typing import Any

import pytest
from studies_for_tests import Launcher, Place, Recorder, assert_same_as, assert_sound, facts, study, wait_for

from pipeline.tracking.experiments import experiment_names

pytest_plugins = ["study_fixtures"]


@pytest.mark.parametrize(("kind", "count"), [("epoch", 2), ("epoch", 6)])
def test_runs_that_are_deleted_are_restored(finished: Place, place: Place, kind: str, count: int) -> None:
    def delete(event: tuple[object, ...]) -> None:
        if event[0] == kind and len(recorder.kind(kind)) == count:
            for run in place.runs("trial"):
                if run.info.status == "RUNNING":
                    deleted.append(run.info.run_id)
                    place.client().delete_run(run.info.run_id)

    deleted: list[str] = []
    recorder = Recorder(delete)
    place.run(reporter=recorder)
    notes = [text for (text,) in recorder.kind("note") if "restored" in text]
    assert deleted
    assert sorted(notes) == sorted(
        f"run {run} was deleted in MLflow while its study runs; it is restored" for run in deleted
    )
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_training_continues_while_mlflow_takes_no_write(finished: Place, place: Place) -> None:
    """Its database is locked from the first epoch until a trial has trained of which it has no run yet."""
    connection = sqlite3.connect(place.path / "mlflow.db", timeout=60, isolation_level=None)
    locked: list[int] = []  # how many events there were when the lock was taken, and when it was released
    having = 0  # trials that have a run

    def act(event: tuple[Any, ...]) -> None:
        nonlocal having
        if event[0] == "epoch" and not locked:
            having = len(recorder.kind("opened"))
            wait_for(lambda: len(place.runs("trial")) == having, "a run for each open trial")
            connection.execute("begin exclusive")
            locked.append(len(recorder.events))
        elif event[0] == "epoch" and event[1] >= having and len(locked) == 1:
            connection.execute("rollback")
            locked.append(len(recorder.events))

    recorder = Recorder(act)
    place.run(reporter=recorder)
    connection.close()
    begin, end = locked
    kinds = [event[0] for event in recorder.events[begin:end]]
    assert kinds.count("epoch") > 3
    assert "trial" in kinds
    assert_same_as(finished, place)


@pytest.mark.slow
def test_killed_between_an_end_in_optuna_and_its_writes_to_mlflow(
    finished: Place, place: Place, launcher: Launcher
) -> None:
    command = launcher.start(*place.arguments("--workers", "0"))
    wait_for(lambda: experiment_names(place.home) and len(place.runs("trial")) >= 3, "a run for each open trial")
    with contextlib.closing(sqlite3.connect(place.path / "mlflow.db", timeout=60, isolation_level=None)) as database:
        database.execute("begin exclusive")
        before = place.search().told()
        wait_for(lambda: place.search().told() > before, "the end of a trial")
        os.kill(command.pid, signal.SIGKILL)
        assert command.code() == -signal.SIGKILL
        database.execute("rollback")
    behind = place.search().ended(before)
    assert place.client().get_run(behind.summary.run_id).info.status == "RUNNING"
    place.run()
    assert_same_as(finished, place)


def test_a_study_may_be_named_as_what_was_deleted(place: Place) -> None:
    name = "deleted-1-small"  # 1 is the number of its experiment
    home = ("--home", str(place.path))
    chosen = ("enqueue=[]", "model.bottleneck=16", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")
    place.run(*chosen, "budget.epochs=1", name=name, trials=1)
    assert experiment_names(place.home) == {name}
    assert study("delete", "small", *home, "--yes").code == 2
    assert study("delete", name, *home, "--yes").code == 0
    assert experiment_names(place.home) == set()
