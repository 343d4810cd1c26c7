"""Optuna's database goes away in mid-study, and comes back: it is said, waited for, and no number changes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from servers import Postgres, Served
from studies_for_tests import Launcher, Place, Recorder, assert_sound, facts, study

from pipeline.errors import StudyError
from pipeline.home import open_home
from pipeline.search import _optuna
from pipeline.search.database import open_storage

pytest_plugins = ["study_fixtures"]


@pytest.fixture
def stored(place: Place, postgres: Postgres) -> Served:
    return Served(place.path, place.file, storage=postgres.database())


def at_event(kind: str, count: int, action: Callable[[], None]) -> Recorder:
    """A reporter that calls ``action`` at the ``count``-th event of a kind."""
    recorder = Recorder(lambda event: action() if event[0] == kind and len(recorder.kind(kind)) == count else None)
    return recorder


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count", "end"), [("epoch", 4, "stop"), ("trial", 2, "crash")])
def test_a_database_that_is_away_for_5_s_changes_no_number(
    finished: Place, stored: Served, postgres: Postgres, kind: str, count: int, end: str
) -> None:
    back = threading.Timer(5, postgres.start)

    def away() -> None:
        getattr(postgres, end)()
        back.start()

    _, recorder = stored.run(reporter=at_event(kind, count, away))
    back.join()
    notes = [text for (text,) in recorder.kind("note") if "reachable" in text]
    name = f"Optuna's database at {stored.home.storage_shown} is"
    assert postgres.password not in name
    assert notes[0] == f"{name} unreachable; waiting up to 120 s (training continues)"
    assert notes[1].startswith(f"{name} reachable again, after ")
    assert len(notes) == 2
    assert_sound(stored)
    assert facts(stored) == facts(finished)


@pytest.mark.slow
def test_ctrl_c_ends_the_waiting_and_leaves_no_run_running(
    finished: Place, stored: Served, postgres: Postgres, launcher: Launcher
) -> None:
    command = launcher.start(*stored.arguments("--workers", "1"))
    command.until("epoch 2/3")
    postgres.stop()
    try:
        command.until("is unreachable; waiting up to 120 s")
        os.kill(command.pid, signal.SIGINT)
        assert command.code() == 130
        assert "Optuna's database at" in command.stderr
        assert postgres.password not in command.stdout + command.stderr
        assert "RUNNING" not in {run.info.status for run in stored.runs("trial")}
    finally:
        postgres.start()
    assert launcher.run(*stored.arguments("--workers", "1")).code() == 0
    assert_sound(stored)
    assert facts(stored) == facts(finished)


class ForgetfulProxy:
    """Forwards connections to PostgreSQL; closes one in place of forwarding the reply to every ``every``-th commit."""

    def __init__(self, port: int, every: int) -> None:
        self._port, self._every, self._commits = port, every, 0
        self.lost = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            forget = threading.Event()
            threading.Thread(target=self._back, args=(server, client, forget), daemon=True).start()
            while data := _received(client):
                if b"COMMIT" in data:
                    self._commits += 1
                    if self._commits % self._every == 0:
                        self.lost += 1
                        forget.set()
                server.sendall(data)

    def _back(self, server: socket.socket, client: socket.socket, forget: threading.Event) -> None:
        while data := _received(server):
            if forget.is_set():
                break
            client.sendall(data)
        with contextlib.suppress(OSError):  # closed already
            client.shutdown(socket.SHUT_RDWR)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except OSError:
        return b""


@pytest.fixture
def forgetful(postgres: Postgres) -> Iterator[Callable[[int], tuple[ForgetfulProxy, str]]]:
    proxies = []

    def start(every: int) -> tuple[ForgetfulProxy, str]:
        proxies.append(ForgetfulProxy(postgres.port, every))
        return proxies[-1], postgres.database().replace(f":{postgres.port}/", f":{proxies[-1].port}/")

    yield start
    for proxy in proxies:
        proxy.close()


Forgetful = Callable[[int], tuple[ForgetfulProxy, str]]


def test_a_trial_is_added_once_where_the_reply_to_its_commit_is_lost(forgetful: Forgetful) -> None:
    """Optuna repeats the transaction by itself."""
    proxy, url = forgetful(1000)
    study = optuna.create_study(storage=open_storage(open_home(storage=url)))
    proxy._every, proxy._commits = 2, 1
    _optuna.add_trial(study, create_trial(state=TrialState.RUNNING), 0)
    assert proxy.lost == 1
    proxy._every = 1000
    _optuna.add_trial(study, create_trial(state=TrialState.RUNNING), 0)
    assert len(study.get_trials()) == 1


@pytest.mark.slow
def test_lost_replies_to_commits_change_no_number(finished: Place, place: Place, forgetful: Forgetful) -> None:
    proxy, url = forgetful(1000)
    stored = Served(place.path, place.file, storage=url)

    def begin() -> None:
        proxy._every = 5

    stored.run(reporter=at_event("baseline", 1, begin))
    proxy._every = 1000
    assert proxy.lost > 10
    assert_sound(stored)
    assert facts(stored) == facts(finished)


@pytest.mark.slow
def test_a_trial_that_was_being_recorded_is_suspended(
    finished: Place, stored: Served, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[tuple[object, ...]] = []

    def stop(event: tuple[object, ...]) -> None:
        if event[0] == "epoch" and event[2] == event[3] and not stopped:  # a trial's last epoch: it is recorded next
            stopped.append(event)
            postgres.stop()

    with monkeypatch.context() as patch:
        patch.setenv("STUDY_PATIENCE_S", "0")
        with pytest.raises(StudyError, match="has been unreachable for"):
            stored.run(reporter=Recorder(stop))
    postgres.start()
    assert stopped
    assert {run.info.status for run in stored.runs("trial")} <= {"SCHEDULED", "FAILED", "FINISHED", "KILLED"}
    stored.run()
    assert_sound(stored)
    assert facts(stored) == facts(finished)


@pytest.mark.slow
def test_a_password_is_neither_printed_nor_stored(stored: Served, postgres: Postgres) -> None:
    done = study(*stored.arguments("--workers", "0", "--trials", "2"))
    assert done.code == 0, done.stderr
    assert f"--storage 'postgresql+psycopg://study:***@127.0.0.1:{postgres.port}/" in done.stdout
    assert postgres.password not in done.stdout + done.stderr
    holders = [
        path for path in stored.path.rglob("*") if path.is_file() and postgres.password.encode() in path.read_bytes()
    ]
    assert holders == []
