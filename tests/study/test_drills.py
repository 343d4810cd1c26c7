"""Fault drills with real servers, signals and locks: after each fault the study ends with the same results.

Drills that take long are marked slow. No test depends on the speed of the machine; every wait has a limit.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import re
import resource
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from servers import MlflowServer, Served, free_port
from studies_for_tests import (
    Launcher,
    Place,
    Recorder,
    assert_same_as,
    assert_sound,
    facts,
    stop_between_transactions,
    study,
    wait_for,
    workers_of,
)

from pipeline.errors import StudyError
from pipeline.search.records import EndedTrial, RunningTrial
from pipeline.training.losses import LOSS_FUNCTIONS

pytest_plugins = ["study_fixtures"]


# --- an MLflow server ---------------------------------------------------------------------------------------------


def on_event(kind: str, count: int, action: Callable[[], None]) -> Recorder:
    """A reporter that calls ``action`` once, at the ``count``-th event of a kind."""
    seen = 0

    def act(event: tuple[Any, ...]) -> None:
        nonlocal seen
        if event[0] == kind:
            seen += 1
            if seen == count:
                action()

    return Recorder(act)


# The driver continues without the store; only a trial that was opened since then is not recorded before it is back.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("baseline", 1), ("epoch", 2), ("trial", 2)])
def test_a_killed_and_restarted_server_changes_no_number(
    finished: Place, served: Served, server: MlflowServer, kind: str, count: int
) -> None:
    restarts: list[threading.Thread] = []

    def kill() -> None:
        server.kill()
        restarts.append(threading.Thread(target=server.start))
        restarts[0].start()

    _, recorder = served.run(reporter=on_event(kind, count, kill))
    restarts[0].join()
    assert len(recorder.kind("trial")) == 6
    assert_same_as(finished, served)


# The trial after the fourth is pruned in its first epoch, while the store has received nothing about it.
@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [pytest.param("epoch", 3, marks=pytest.mark.long), ("trial", 4)])
def test_a_server_that_stays_down_ends_the_command_and_the_study_can_be_resumed(
    finished: Place, served: Served, server: MlflowServer, monkeypatch: pytest.MonkeyPatch, kind: str, count: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("STUDY_PATIENCE_S", "2")
        with pytest.raises(StudyError, match=rf"MLflow at {server.uri} has been unreachable for \d+ s") as caught:
            served.run(reporter=on_event(kind, count, server.kill))
        assert caught.value.exit_code == 1
        assert "nothing is lost: once it is reachable, run the same command again to resume" in str(caught.value)

        done = study(*served.arguments("--workers", "0"))  # the server is already down when the command starts
        assert (done.code, len(done.stderr.splitlines())) == (1, 1), done
        assert done.stderr.startswith(f"error: MLflow at {server.uri} cannot be used")
    server.start()
    assert study(*served.arguments("--workers", "0")).code == 0
    assert_same_as(finished, served)


def test_an_unreachable_server_is_reported_in_one_line(place: Place) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    done = study(*Served(place.path, place.file, uri, place.artifacts).arguments("--workers", "0"))
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (1, "study small: starting\n", 1), done
    assert done.stderr.startswith(f"error: MLflow at {uri} cannot be used")


# --- lost replies -------------------------------------------------------------------------------------------------


class LossyProxy(ThreadingHTTPServer):
    """A proxy that forwards requests and drops some replies: the server did the work, but the client cannot know."""

    daemon_threads = True

    def __init__(self, server: MlflowServer, loses: Callable[[str], bool]) -> None:
        self.target, self.loses, self.lost = server, loses, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), Forwarding)
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Ignore clients that have disconnected."""


class Forwarding(BaseHTTPRequestHandler):
    server: LossyProxy
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        headers = {k: v for k, v in self.headers.items() if k not in ("Host", "Content-Length", "Transfer-Encoding")}
        target = http.client.HTTPConnection("127.0.0.1", self.server.target.port, timeout=60)
        with contextlib.closing(target):
            target.request(self.command, self.path, body, headers)
            reply = target.getresponse()
            content = reply.read()
        what = f"{self.command} {re.sub('[0-9a-f]{32}', '*', self.path.partition('?')[0])}"
        if self.server.loses(what):
            self.server.lost.append(what)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(reply.status)
        for key, value in reply.getheaders():
            if key.lower() not in ("transfer-encoding", "content-length", "connection", "date", "server"):
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def lossy_proxy(server: MlflowServer, loses: Callable[[str], bool]) -> Iterator[LossyProxy]:
    proxy = LossyProxy(server, loses)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


@pytest.mark.slow
def test_a_lost_reply_to_create_run_leaves_one_run(finished: Place, served: Served, server: MlflowServer) -> None:
    lost: list[str] = []

    def first_create(what: str) -> bool:
        if lost or not what.endswith("/runs/create"):
            return False
        lost.append(what)
        return True

    with lossy_proxy(server, first_create) as proxy:
        served.uri = proxy.uri
        served.run()
        assert len(proxy.lost) == 1
    served.uri = server.uri
    assert_same_as(finished, served)


@pytest.mark.slow
def test_a_lost_first_reply_to_every_kind_of_request_changes_nothing(
    finished: Place, served: Served, server: MlflowServer
) -> None:
    """Except the requests at the start that check whether the store is reachable: a lost reply to those is an error."""
    seen: dict[str, int] = {}

    def first_of_its_kind(what: str) -> bool:
        kind = re.sub(r"(artifacts/\*?).*", r"\1", re.sub(r"m-\*|/\d+/", "/*/", what))
        seen[kind] = seen.get(kind, 0) + 1
        return seen[kind] == 1 and "/experiments/" not in what

    with lossy_proxy(server, first_of_its_kind) as proxy:
        served.uri = proxy.uri
        served.run()
        assert len(proxy.lost) > 5, proxy.lost
    served.uri = server.uri
    assert_same_as(finished, served)


# --- locked databases ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [2, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("database", ["optuna.db", "mlflow.db"])
def test_the_driver_waits_for_a_locked_database(finished: Place, place: Place, database: str, seconds: int) -> None:
    locked: list[threading.Timer] = []

    def lock() -> None:
        connection = sqlite3.connect(place.path / database, timeout=60, check_same_thread=False)
        connection.execute("begin exclusive")

        def unlock() -> None:
            connection.rollback()
            connection.close()

        locked.append(threading.Timer(seconds, unlock))
        locked[0].start()

    place.run(reporter=on_event("epoch", 4, lock))
    locked[0].join()
    assert_same_as(finished, place)


# --- a full disk --------------------------------------------------------------------------------------------------


def limit_files(pid: int, size: int) -> None:
    """Limit the size of every file that a process writes, as if the disk were full."""
    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@pytest.mark.slow
@pytest.mark.parametrize("size", [4096, 60_000, 1_500_000])
def test_a_full_disk_is_reported_and_leaves_no_partial_file(
    finished: Place, place: Place, launcher: Launcher, size: int
) -> None:
    """Checkpoints are larger than the first two sizes; the databases are larger than all three."""
    command = launcher.start(*place.arguments("--workers", "0"))
    command.until("epoch")
    limit_files(command.pid, size)
    assert command.code() == 1, (command.stdout, command.stderr)
    assert command.stderr.startswith("error: "), command.stderr
    assert "unexpected" not in command.stderr
    assert len(command.stderr.splitlines()) <= 2
    assert list(place.path.rglob("*.tmp")) == []

    place.run()
    assert_same_as(finished, place)


@pytest.mark.parametrize("command", [["models"], ["promote", "small"], ["doctor"]], ids=lambda c: c[0])
def test_loggers_of_libraries_add_nothing_to_an_error_message(
    finished_copy: Place, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """MLflow logs a traceback of every database error before it raises the error."""
    monkeypatch.setenv("STUDY_PATIENCE_S", "0")
    with contextlib.closing(sqlite3.connect(finished_copy.path / "mlflow.db")) as database, database:
        for table in ("registered_models", "latest_metrics"):
            database.execute(f"drop table {table}")
    done = study(*command, "--home", str(finished_copy.path))
    assert (done.code, len(done.stdout.splitlines())) == (1, command == ["doctor"]), done  # its finding
    assert 1 <= len(done.stderr.splitlines()) <= 2, done.stderr
    assert done.stderr.startswith("error: ")
    shown = study(*command, "--home", str(finished_copy.path), "--debug")
    assert "Traceback" in shown.stderr


# --- workers ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_worker_that_is_paused_for_a_while_changes_nothing(finished: Place, place: Place, launcher: Launcher) -> None:
    command = launcher.start(*place.arguments("--workers", "2"))
    command.until("epoch 1/")
    worker = workers_of(command.pid)[0]
    worker.send_signal(signal.SIGSTOP)
    threading.Event().wait(5)
    worker.send_signal(signal.SIGCONT)
    assert command.code() == 0, command.stderr
    assert_same_as(finished, place)


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_on_the_disk_ends_the_command(
    finished: Place, place: Place, launcher: Launcher
) -> None:
    """Workers write only checkpoints. The driver, which writes the databases, has enough room here."""
    command = launcher.start(*place.arguments("--workers", "1"))
    command.until("epoch 1/")
    for worker in workers_of(command.pid):
        limit_files(worker.pid, 4096)
    assert command.code() == 1, (command.stdout, command.stderr)
    assert re.fullmatch(r"error: .*File too large; when that is repaired, .*\n", command.stderr), command.stderr
    assert list(place.path.rglob("*.tmp")) == []
    assert {run.info.status for run in place.runs("trial")} <= {"SCHEDULED", "FINISHED", "KILLED", "FAILED"}

    place.run()
    assert_same_as(finished, place)


MINIMAL = """\
name = "minimal"
dataset = "mnist-5k"

[degrade]
kind = "downscale"
factor = 7

[budget]
trials = 2
epochs = 1
concurrency = 1

[pruner]
name = "none"

[[enqueue]]
batch_size = 2
bottleneck = 4096

[[enqueue]]
batch_size = 256
bottleneck = 16

[model]
depth = 1
bottleneck = [16, 4096]

[train]
batch_size = [2, 256]
precision = "float32"
"""


@pytest.mark.slow
def test_a_trial_whose_worker_always_dies_fails_and_no_other_does(place: Place, launcher: Launcher) -> None:
    """The first trial has so many steps that there is time to kill its worker in the middle of an epoch."""
    place.file.write_text(MINIMAL)
    command = launcher.start(*place.arguments("--workers", "1"))
    command.until("linear")  # the last of the baselines
    while "its worker died 4 times" not in command.stdout and not command.ended():
        for worker in workers_of(command.pid):
            with contextlib.suppress(psutil.Error):
                # Imports and the preflight take less; if not, the worker is killed in them, and one more is killed.
                wait_for(lambda w=worker: w.cpu_times().user > 6, "work of the worker")
                worker.kill()
                wait_for(
                    lambda w=worker: not w.is_running() or w.status() == psutil.STATUS_ZOMBIE, "death of the worker"
                )
    assert command.code() == 0, (command.stdout, command.stderr)
    failed, other = place.search("minimal").records()
    assert (failed.state, failed.summary.reason) == ("FAIL", "its worker died 4 times")
    assert other.state == "COMPLETE"
    assert_sound(place, 2, 1, "minimal")


SLOW_EPOCH = MINIMAL.replace("trials = 2", "trials = 1").replace("epochs = 1", "epochs = 100")


@pytest.mark.parametrize("which", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_long_epoch_in_the_driver_s_own_process_is_interrupted(
    place: Place, launcher: Launcher, which: signal.Signals
) -> None:
    """The epoch has 1,750 large steps and writes only at its end, so stopping it earlier loses nothing."""
    place.file.write_text(SLOW_EPOCH)
    command = launcher.start(*place.arguments("--workers", "0"))
    command.until("linear")  # the last of the baselines
    driver = psutil.Process(command.pid)
    before = driver.cpu_times().user
    wait_for(lambda: driver.cpu_times().user > before + 1, "work on the epoch")
    os.kill(command.pid, which)
    sent = time.monotonic()
    assert command.code() == 130, command.stderr
    assert time.monotonic() - sent < 10
    assert command.stderr.splitlines() == ["stopped: run the same command again to resume"]
    assert [run.info.status for run in place.runs("trial", "minimal")] == ["SCHEDULED"]
    assert "epoch 1/" not in command.stdout
    assert list((place.path / "checkpoints").rglob("*.*")) == []


# --- epochs that fail ---------------------------------------------------------------------------------------------

# Runs in a separate process: a test process with so little memory may not survive.
EXHAUST_MEMORY = """
import resource, sys
from pathlib import Path
from pipeline.config import TrialConfig
from pipeline.data import load
from pipeline.epoch import run_epoch

folder = Path(sys.argv[1])
load("mnist-5k", folder)
train = {"batch_size": 3500, "precision": "float32"}
trial = {"dataset": "mnist-5k", "degrade": {"kind": "gaussian", "sigma": 0.5}, "train": train}
for bottleneck in (4096, 16):
    config = TrialConfig.model_validate(trial | {"model": {"depth": 1, "bottleneck": bottleneck}})
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20, resource.RLIM_INFINITY))
    print(getattr(run_epoch(config, None, folder, folder / str(bottleneck)), "reason", None))
"""


def test_an_epoch_that_runs_out_of_memory_fails_its_trial_and_the_next_trial_works(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EXHAUST_MEMORY, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    failed, other = done.stdout.splitlines()
    assert re.match(r"out of memory in epoch 1: .*can't allocate memory", failed)
    assert other == "None"
    assert [path.name for path in tmp_path.glob("*/*.safetensors")], "the other trial's checkpoint"


def test_an_error_of_the_machine_ends_the_study_and_fails_no_trial(
    finished: Place, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any torch error other than running out of memory would affect the next trial as well."""
    calls = 0

    def broken(*arguments: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 200:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nmore")
        return intact(*arguments)

    with monkeypatch.context() as patch:
        intact = LOSS_FUNCTIONS["bce"]
        patch.setitem(LOSS_FUNCTIONS, "bce", broken)
        done = study(*place.arguments("--workers", "0"))
    message = (
        "trial 1: RuntimeError: CUDA error: uncorrectable ECC error encountered; when that is repaired, "
        "run the same command again to resume"
    )
    assert (done.code, done.stderr) == (1, f"error: {message}\n")
    first, *others = place.search().records()
    assert isinstance(first, EndedTrial)
    assert first.state == "FAIL"
    assert [type(record) for record in others] == [RunningTrial] * 3
    assert {run.info.status for run in place.runs("trial")} <= {"FAILED", "SCHEDULED"}
    place.run()
    assert_same_as(finished, place)


# --- studies that cannot run --------------------------------------------------------------------------------------


def contains_only(folder: Path, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} <= set(names)


def idx(*shape: int) -> bytes:
    count = 1
    for side in shape:
        count *= side
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(count)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0x55
    return bytes(changed)


DAMAGES = {
    "a different file": ("", lambda data: data),
    "cut short": ("", cut),
    "a flipped byte": ("", flipped),
    "empty": ("", lambda _: b""),
    "gzipped, a different file": (".gz", gzip.compress),
    "gzipped, cut short": (".gz", lambda data: cut(gzip.compress(data))),
    "gzipped, a flipped byte": (".gz", lambda data: flipped(gzip.compress(data))),
    "not gzipped": (".gz", lambda data: data),
}


@pytest.mark.parametrize(("suffix", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_data_is_refused_before_anything_is_written(
    tmp_path: Path, place: Place, suffix: str, damage: Callable[[bytes], bytes]
) -> None:
    data = tmp_path / "data" / "MNIST" / "raw"
    data.mkdir(parents=True)
    for part, count in (("train", 600), ("t10k", 100)):
        for name, content in (
            (f"{part}-images-idx3-ubyte", idx(count, 28, 28)),
            (f"{part}-labels-idx1-ubyte", idx(count)),
        ):
            (data / (name + suffix)).write_bytes(damage(content))
    place.file.write_text(place.file.read_text().replace("mnist-5k", "mnist"))
    home = tmp_path / "new"
    done = study("run", str(place.file), "--home", str(home), "--data-dir", str(tmp_path / "data"), "--workers", "0")
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "study small: starting\n", 1), done
    assert str(data) in done.stderr
    assert not home.exists()


def test_a_study_whose_trials_all_diverge_ends_with_an_error(place: Place) -> None:
    # With relu, all units would die and the loss would stay finite.
    diverging = "activation = 'leaky_relu'\n\n[train]\noptimizer = 'sgd'\nlr = 1e9\n"
    place.file.write_text(MINIMAL.replace("\n[train]\n", diverging).replace("batch_size = 2\n", "batch_size = 256\n"))
    for _ in range(2):  # the second run has nothing to do and reports the same error
        done = study(*place.arguments("--workers", "0"))
        assert (done.code, len(done.stderr.splitlines())) == (1, 1), done
        assert done.stderr.startswith("error: study minimal: no trial was completed")
    assert [record.state for record in place.search("minimal").records()] == ["FAIL", "FAIL"]
    assert_sound(place, 2, 1, "minimal")
    shown = study("show", "minimal", "--home", str(place.path))
    assert shown.code == 0
    assert "2 failed: non-finite loss" in shown.stdout
    for command in (["promote", "minimal"], ["export", "minimal", "-o", str(place.path.parent / "table.csv")]):
        done = study(*command, "--home", str(place.path))
        assert "unexpected" not in done.stderr, done


@pytest.mark.slow
def test_a_second_driver_is_refused_and_the_first_finishes_the_study(
    finished: Place, place: Place, launcher: Launcher
) -> None:
    command = launcher.start(*place.arguments("--workers", "0"))
    command.until("epoch")
    stop_between_transactions(command.pid, place.path)  # so that it cannot end before the second driver starts
    try:
        done = study(*place.arguments("--workers", "0"))
    finally:
        os.kill(command.pid, signal.SIGCONT)
    who = f"process {command.pid} on {socket.gethostname()}"
    assert (done.code, done.stdout) == (2, "study small: starting\n"), done
    assert done.stderr == f"error: study 'small' is being run by {who}; wait for it, or stop it first\n"
    assert command.code() == 0, command.stderr
    assert_same_as(finished, place)


NAMES = ["../x", "a/b", "x" * 600, "{x}", "", ".", "..", "a b", "-", "a'b", "a\nb", "%s", "é"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:8]))
def test_invalid_names_are_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    file = tmp_path / "study.toml"
    file.write_text(MINIMAL)
    done = study("run", str(file), "--home", str(tmp_path / "home"), "--workers", "0", f"--name={name}")
    assert (done.code, done.stdout) == (2, ""), done
    assert 1 <= len(done.stderr.splitlines()) <= 2
    assert contains_only(tmp_path, "study.toml")


@pytest.mark.parametrize("name", ["../x", "a/b", "x" * 600, "{x}", "nosuch", "a'b", "a\nb"], ids=lambda n: repr(n[:8]))
@pytest.mark.parametrize("command", [["show"], ["promote"], ["export", "-o", "table.csv"]], ids=lambda c: c[0])
def test_unknown_study_names_are_refused(
    finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(finished.path.rglob("*"))
    done = study(command[0], *command[1:], "--home", str(finished.path), "--", name)
    assert (done.code, done.stdout) == (2, ""), done
    assert done.stderr.startswith(f"error: there is no study {name!r} in {finished.path}; studies: small")
    assert contains_only(tmp_path)
    assert sorted(finished.path.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "list", "show", "promote", "models", "doctor", "export", "reproduce"])
def test_a_home_that_is_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.toml"
    file.write_text(MINIMAL)
    (tmp_path / "mlruns").write_text("not a folder")
    arguments = {
        "run": [str(file), "--workers", "0"],
        "show": ["minimal"],
        "promote": ["minimal"],
        "export": ["minimal", "-o", "table.csv"],
        "reproduce": ["0" * 32],
    }
    done = study(command, *arguments.get(command, []))
    assert done.code == (0 if command in ("list", "models") else 2), done  # these two read it as a home without studies
    assert len(done.stderr.splitlines()) == (0 if done.code == 0 else 1)
    assert (tmp_path / "mlruns").read_text() == "not a folder"
    assert contains_only(tmp_path, "study.toml", "mlruns")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to a read-only folder")
def test_a_home_that_is_read_only_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(MINIMAL)
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    done = study("run", str(file), "--home", str(home), "--workers", "0")
    assert (done.code, len(done.stderr.splitlines())) == (2, 1), done
    assert contains_only(home)


@pytest.mark.parametrize("key", ["torch", "git.commit", "hardware"])
def test_a_changed_environment_is_reported_and_not_refused(finished: Place, finished_copy: Place, key: str) -> None:
    search = finished_copy.search()
    search.environment = search.environment | {key: "another value"}
    done = study(*finished_copy.arguments("--workers", "0"))
    assert (done.code, done.stderr) == (0, ""), done
    assert f"{key} was another value and is " in done.stdout
    again = study(*finished_copy.arguments("--workers", "0"))
    assert "another value" not in again.stdout  # the first resume recorded the new value
    assert facts(finished_copy) == facts(finished)
