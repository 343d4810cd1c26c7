"""The driver with random workers and crashes before random database statements: the results are always the same.

Hypothesis chooses the number of workers, the order in which epochs end, which epochs are lost with their worker and run
again, which checkpoints are damaged, when the process is killed or told to stop, and the number of trials requested.
Epochs, Optuna and MLflow are real.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from studies_for_tests import SMALL, Recorder, assert_sound, facts, new_place

from pipeline import workers
from pipeline.config.outcomes import Checkpoint
from pipeline.errors import Interrupted
from pipeline.workers import Outcome, Raised, Returned

pytest_plugins = ["study_fixtures"]

TRIALS, EPOCHS = 5, 2
STUDY = (
    SMALL.replace("trials = 6", f"trials = {TRIALS}")
    .replace("epochs = 3", f"epochs = {EPOCHS}")
    .replace(
        '"median"\nn_startup_trials = 1\nn_warmup_steps = 0',
        '"successive_halving"\nmin_resource = 1\nreduction_factor = 2',
    )
    .replace("batch_size = 32", "batch_size = 256")
    .replace("lr = 1e9\n", "lr = 1e9\nactivation = 'leaky_relu'\n", 1)
)


class Killed(BaseException):
    """Stands for SIGKILL. No later statement reaches a database."""


class Crash:
    """Simulates the death of this process before its n-th write to a database from now."""

    def __init__(self) -> None:
        self.writes_left: int | None = None
        self.dead = False
        self.connections: list[sqlite3.Connection] = []

    def release_locks(self) -> None:
        """Roll back all open transactions, as the system does when a process dies, and allow statements again."""
        self.writes_left, self.dead = None, False
        for connection in self.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is closed already
                connection.rollback()

    def before_statement(self, statement: str) -> None:
        if self.writes_left is not None and not statement.startswith(("SELECT", "PRAGMA")):
            self.writes_left -= 1
            self.dead |= self.writes_left < 0
        if self.dead:
            raise Killed


@pytest.fixture(scope="module")
def crash() -> Iterator[Crash]:
    crash = Crash()

    def execute(*given: Any) -> None:
        crash.before_statement(given[2])

    def commit(_: Any) -> None:
        crash.before_statement("COMMIT")

    def connect(connection: sqlite3.Connection, _: Any) -> None:
        crash.connections.append(connection)

    engine, pool = sqlalchemy.engine.Engine, sqlalchemy.pool.Pool
    listeners = [(engine, "before_cursor_execute", execute), (engine, "commit", commit), (pool, "connect", connect)]
    for target, name, listener in listeners:
        sqlalchemy.event.listen(target, name, listener)
    yield crash
    for target, name, listener in listeners:
        sqlalchemy.event.remove(target, name, listener)


EVENTS = [*["task ends"] * 3, "nothing", "result lost", "checkpoint damaged", "process killed soon", "process killed"]


class RandomWorkers:
    """Workers that run tasks in this process and whose next event is drawn at random."""

    def __init__(self, slots: int, draw: Callable[[st.SearchStrategy[Any]], Any], crash: Crash, faults: int) -> None:
        self.slots, self._draw, self._crash, self._faults_left = slots, draw, crash, faults
        self._tasks: dict[Any, tuple[Any, ...]] = {}

    def submit(self, key: Any, task: Any, *arguments: Any) -> None:
        assert key not in self._tasks, "a running task was submitted again"
        assert len(self._tasks) < self.slots
        self._tasks[key] = (task, *arguments)

    def wait(self, timeout: float) -> Outcome | None:  # noqa: ARG002
        if not self._tasks:
            return None
        event = "task ends"
        if self._faults_left:
            self._faults_left -= 1
            event = self._draw(st.sampled_from(EVENTS))
        if event == "nothing":
            return None
        if event == "process killed":
            self._crash.dead = True
            raise Killed
        if event == "process killed soon":
            self._crash.writes_left = self._draw(st.integers(0, 40))
        key = self._draw(st.sampled_from(sorted(self._tasks, key=str)))
        task, *arguments = self._tasks[key]
        if event == "checkpoint damaged" and isinstance(arguments[1], Checkpoint):
            flip(Path(arguments[1].path))
        try:
            outcome: Outcome = Returned(key, task(*arguments))
        except Exception as error:
            outcome = Raised(key, error)
        if event == "result lost":  # its worker died after writing the checkpoint; the task runs again
            return None
        del self._tasks[key]
        return outcome

    def close(self) -> None:
        self._tasks.clear()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def uninterrupted(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    place = new_place(migrated, tmp_path_factory.mktemp("uninterrupted"))
    place.file.write_text(STUDY)
    place.run()
    assert_sound(place, TRIALS, EPOCHS)
    found = facts(place)
    assert {fact["trial"][1] for fact in found[:TRIALS]} == {"COMPLETE", "PRUNED", "FAIL"}
    return found


def run_with_random_faults(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = new_place(migrated, Path(folder))
        place.file.write_text(STUDY)
        runs = data.draw(st.integers(1, 4), label="runs")
        for run in range(runs):
            last = run == runs - 1
            total = TRIALS if last else data.draw(st.integers(1, TRIALS), label="total")
            pool = RandomWorkers(data.draw(st.integers(1, 4), label="workers"), data.draw, crash, 0 if last else 12)
            monkeypatch.setattr(workers, "start", lambda *_, pool=pool: pool)
            stop_after = None if last else data.draw(st.none() | st.integers(1, 30), label="stop after")
            try:
                place.run(trials=total, reporter=stopping_after(stop_after))
            except (Killed, Interrupted):
                pass
            finally:
                crash.release_locks()
        assert_sound(place, TRIALS, EPOCHS)
        assert facts(place) == uninterrupted


def stopping_after(events: int | None) -> Recorder:
    """A reporter that sends this process SIGTERM with the n-th event."""

    def act(_: tuple[Any, ...]) -> None:
        if events is not None and len(recorder.events) == events:
            os.kill(os.getpid(), 15)

    recorder = Recorder(act)
    return recorder


# No shrinking: an example takes seconds, so it would take many minutes. A failure prints every draw.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=3, phases=PHASES, suppress_health_check=CHECKS, derandomize=True)
@given(data=st.data())
def test_random_faults_do_not_change_the_results(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_random_faults(data, migrated, uninterrupted, crash, monkeypatch)


@pytest.mark.slow
@settings(max_examples=5, phases=PHASES, suppress_health_check=CHECKS)
@given(data=st.data())
def test_many_random_faults_do_not_change_the_results(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with_random_faults(data, migrated, uninterrupted, crash, monkeypatch)
