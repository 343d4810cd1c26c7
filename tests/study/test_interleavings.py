"""The driver under an engine that does as it pleases, and kills at any statement: always the same study.

Hypothesis decides how many workers there are, in which order legs come back, which are lost with their worker and run
again, which checkpoints are damaged, when the process is killed or told to stop, and what total is asked meanwhile.
Legs, Optuna and MLflow are real.
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
    """Stands for SIGKILL: nothing that is written to a database after it arrives there."""


class Crash:
    """Ends the process that writes to a database, before the n-th write from now."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.dead = False
        self.connections: list[sqlite3.Connection] = []

    def bury(self) -> None:
        """What the system does for a dead process, and this one's garbage collector only later: give up its locks."""
        self.left, self.dead = None, False
        for connection in self.connections:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed by now
                connection.rollback()

    def note(self, statement: str) -> None:
        if self.left is not None and not statement.startswith(("SELECT", "PRAGMA")):
            self.left -= 1
            self.dead |= self.left < 0
        if self.dead:
            raise Killed


@pytest.fixture(scope="module")
def crash() -> Iterator[Crash]:
    crash = Crash()

    def execute(*given: Any) -> None:
        crash.note(given[2])

    def commit(_: Any) -> None:
        crash.note("COMMIT")

    def connect(connection: sqlite3.Connection, _: Any) -> None:
        crash.connections.append(connection)

    engine, pool = sqlalchemy.engine.Engine, sqlalchemy.pool.Pool
    listeners = [(engine, "before_cursor_execute", execute), (engine, "commit", commit), (pool, "connect", connect)]
    for target, name, listener in listeners:
        sqlalchemy.event.listen(target, name, listener)
    yield crash
    for target, name, listener in listeners:
        sqlalchemy.event.remove(target, name, listener)


class RandomWorkers:
    """An engine whose next move is drawn."""

    def __init__(self, slots: int, draw: Callable[[st.SearchStrategy[Any]], Any], crash: Crash, surprises: int) -> None:
        self.slots, self._draw, self._crash, self._surprises = slots, draw, crash, surprises
        self._tasks: dict[Any, tuple[Any, ...]] = {}

    def submit(self, key: Any, task: Any, *arguments: Any) -> None:
        assert key not in self._tasks, "a leg that is under way is not sent again"
        assert len(self._tasks) < self.slots
        self._tasks[key] = (task, *arguments)

    def wait(self, timeout: float) -> Outcome | None:  # noqa: ARG002
        if not self._tasks:
            return None
        move = "done"
        if self._surprises:
            self._surprises -= 1
            move = self._draw(
                st.sampled_from(["done", "done", "done", "nothing", "lost", "damaged", "doomed", "killed"])
            )
        if move == "nothing":
            return None
        if move == "killed":
            self._crash.dead = True
            raise Killed
        if move == "doomed":
            self._crash.left = self._draw(st.integers(0, 40))
        key = self._draw(st.sampled_from(sorted(self._tasks, key=str)))
        task, *arguments = self._tasks[key]
        if move == "damaged" and isinstance(arguments[1], Checkpoint):
            flip(Path(arguments[1].path))
        try:
            done: Outcome = Returned(key, task(*arguments))
        except Exception as error:
            done = Raised(key, error)
        if move == "lost":  # with its worker, after it had written; it is run again
            return None
        del self._tasks[key]
        return done

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


def interleaved(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = new_place(migrated, Path(folder))
        place.file.write_text(STUDY)
        lives = data.draw(st.integers(1, 4), label="lives")
        for life in range(lives):
            last = life == lives - 1
            total = TRIALS if last else data.draw(st.integers(1, TRIALS), label="total")
            engine = RandomWorkers(data.draw(st.integers(1, 4), label="workers"), data.draw, crash, 0 if last else 12)
            monkeypatch.setattr(workers, "start", lambda *_, engine=engine: engine)
            stop_after = None if last else data.draw(st.none() | st.integers(1, 30), label="stop after")
            try:
                place.run(trials=total, reporter=stopping_after(stop_after))
            except (Killed, Interrupted):
                pass
            finally:
                crash.bury()
        assert_sound(place, TRIALS, EPOCHS)
        assert facts(place) == uninterrupted


def stopping_after(events: int | None) -> Recorder:
    """A reporter that sends this process SIGTERM with the n-th event."""

    def act(_: tuple[Any, ...]) -> None:
        if events is not None and len(recorder.events) == events:
            os.kill(os.getpid(), 15)

    recorder = Recorder(act)
    return recorder


# An example takes seconds, and what failed is printed draw by draw: making it smaller would take many minutes.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]


@settings(max_examples=3, phases=PHASES, suppress_health_check=CHECKS, derandomize=True)
@given(data=st.data())
def test_whatever_happens_the_study_comes_out_the_same(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved(data, migrated, uninterrupted, crash, monkeypatch)


@pytest.mark.slow
@settings(max_examples=20, phases=PHASES, suppress_health_check=CHECKS)
@given(data=st.data())
def test_whatever_happens_the_study_comes_out_the_same_many_times(
    data: st.DataObject, migrated: Path, uninterrupted: list[Any], crash: Crash, monkeypatch: pytest.MonkeyPatch
) -> None:
    interleaved(data, migrated, uninterrupted, crash, monkeypatch)
