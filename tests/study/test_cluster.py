"""Studies on clusters: real `dask scheduler` and `dask worker` processes, in namespaces where it matters."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Security
from PIL import Image
from studies_for_tests import TRIALS, Launcher, Place, Recorder, assert_sound, facts, wait_for

import pipeline
from pipeline import workers
from pipeline.data import load
from pipeline.errors import EngineError, Interrupted, StudyError
from pipeline.workers import Cluster, Needs, cluster_at
from pipeline.workers.machine import device_here, precision_here

pytest_plugins = ["study_fixtures"]
pytestmark = pytest.mark.slow

DASK = str(Path(sys.executable).with_name("dask"))
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def permitted(*command: str) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


MOUNTS = pytest.mark.skipif(not permitted("unshare", "-m", "true"), reason="mount namespaces are not permitted here")


@dataclass
class Processes:
    """A scheduler and its workers, started as a user would."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return self.folder / "scheduler.json"

    @property
    def cluster(self) -> Cluster:
        cluster = cluster_at(self.file)
        assert cluster is not None
        return cluster

    def scheduler(self, *more: str, within: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        self.file.unlink(missing_ok=True)
        options = ("--port", "0", "--dashboard-address", ":0", "--scheduler-file", str(self.file))
        process = self._start(*within, DASK, "scheduler", *options, *more)
        wait_for(lambda: self.file.exists() and self.file.read_text().endswith("}"), "scheduler file")
        return process

    def worker(self, *more: str, within: tuple[str, ...] = (), start: tuple[str, ...] = (DASK, "worker")) -> Any:
        options = ("--scheduler-file", str(self.file), "--memory-limit", "0", "--dashboard-address", ":0")
        return self._start(*within, *start, *options, "--local-directory", str(self.folder), *more)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"env": ENVIRONMENT, "cwd": self.folder, "start_new_session": True}
        with (self.folder / f"log-{len(self.started)}").open("wb") as log:
            self.started.append(subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, **options))
        return self.started[-1]


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    (tmp_path / "cluster").mkdir()
    processes = Processes(tmp_path / "cluster")
    yield processes
    for process in processes.started:
        kill(process)


def on_note(text: str, action: Callable[[], Any]) -> Recorder:
    """A reporter that calls ``action`` at each note that contains a text."""
    return Recorder(lambda event: action() if event[0] == "note" and text in event[1] else None)


def notes(recorder: Recorder) -> list[str]:
    return [text for (text,) in recorder.kind("note")]


def assert_same(finished: Place, place: Place) -> None:
    assert_sound(place)
    assert facts(place) == facts(finished)


# --- workers come and go ----------------------------------------------------------------------------------------------


def test_zero_workers_at_the_start_and_then_several_of_several_threads(
    finished: Place, place: Place, processes: Processes
) -> None:
    processes.scheduler()
    reporter = on_note("0 of 0 passed", lambda: processes.worker("--nthreads", "4", "--nworkers", "2"))
    place.run(workers=None, cluster=processes.cluster, reporter=reporter)
    assert_same(finished, place)
    said = notes(reporter)
    assert "without TLS" in said[0]
    assert said[1] == "Waiting for workers (0 of 0 passed)"
    assert sum("one epoch at a time per process: workers of 4 threads use one of them" in text for text in said) == 1


def test_workers_that_come_late_are_used_and_all_may_be_lost(
    finished: Place, place: Place, processes: Processes
) -> None:
    processes.scheduler()
    first = processes.worker("--nthreads", "1")
    said: list[str] = []

    def act(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch" and len(reporter.kind("epoch")) == 2:
            kill(first)
        if event[0] == "note":
            said.append(event[1])
            if "all workers are lost" in event[1]:
                processes.worker("--nthreads", "1", "--nworkers", "2")

    reporter = Recorder(act)
    place.run(workers=None, cluster=processes.cluster, reporter=reporter)
    assert_same(finished, place)
    assert said[-2:] == ["all workers are lost", "Waiting for workers (0 of 0 passed)"] or "Waiting" in said[-1], said


def test_a_scheduler_that_is_killed_ends_the_study_and_another_one_resumes_it(
    finished: Place, place: Place, processes: Processes, launcher: Launcher
) -> None:
    scheduler = processes.scheduler()
    processes.worker("--nthreads", "1")
    command = launcher.start(*place.arguments("--cluster", str(processes.file)))
    command.until("epoch 2/")
    kill(scheduler)
    assert command.code() == 1
    assert command.stderr.startswith("error: the connection to the Dask scheduler at tcp://"), command.stderr
    assert len(command.stderr.splitlines()) <= 2
    assert "Traceback" not in command.stdout + command.stderr
    processes.scheduler()
    processes.worker("--nthreads", "1")
    place.run(workers=None, cluster=processes.cluster)
    assert_same(finished, place)


def test_ctrl_c_and_a_killed_driver_leave_nothing_running_on_the_cluster(
    place: Place, processes: Processes, launcher: Launcher
) -> None:
    processes.scheduler()
    processes.worker("--nthreads", "1", "--nworkers", "2")
    # An epoch of this study takes minutes.
    slow = ("--set", "model.depth=4", "--set", "model.width=4096", "--set", "train.batch_size=2")
    for which, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        command = launcher.start(*place.arguments("--cluster", str(processes.file), "--name", f"slow-{code}", *slow))
        command.until("6 trials of at most")
        wait_for(lambda: executing(processes.cluster) == 2, "running epochs")
        os.kill(command.pid, which)
        assert command.code() == code
        wait_for(lambda: executing(processes.cluster) == 0, "end of the epochs", seconds=10)


def executing(cluster: Cluster) -> int:
    """How many of our tasks the workers of a cluster are running, in their threads."""
    from distributed import Client

    def running(dask_worker: Any) -> int:
        return sum("trial" in str(key) or "baseline" in str(key) for key in dask_worker.active_keys)

    with Client(cluster.address, set_as_default=False, timeout=10) as client:
        return sum(client.run(running).values())


@pytest.mark.long
def test_a_driver_stopped_for_longer_than_dask_waits_goes_on(finished: Place, place: Place) -> None:
    """A closed laptop."""
    patience = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s"}
    command = [sys.executable, "-m", "pipeline", *place.arguments("--workers", "2")]
    with subprocess.Popen(command, env=ENVIRONMENT | patience, stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        assert any("epoch 2/" in line for line in driver.stdout)
        driver.send_signal(signal.SIGSTOP)
        time.sleep(25)
        driver.send_signal(signal.SIGCONT)
        driver.communicate(timeout=120)
    assert driver.returncode == 0
    assert_same(finished, place)


# --- workers that are left out ----------------------------------------------------------------------------------------


@dataclass
class Waiting:
    """What a driver says that waits for workers, without a study."""

    processes: Processes
    needs: Needs
    said: list[str] = field(default_factory=list)

    def until(self, text: str) -> str:
        """Wait until it has said something with this text. Returns what it said."""
        pool = workers.attach(self.processes.cluster, self.needs, self.said.append)
        deadline = time.monotonic() + 120

        def enough() -> bool:
            assert time.monotonic() < deadline, self.said
            return any(text in line for line in self.said)

        with contextlib.closing(pool), contextlib.suppress(Interrupted):
            pool.wait_for_one(enough)
        return next(line for line in self.said if text in line)


@pytest.fixture
def waiting(tmp_path: Path, processes: Processes) -> Waiting:
    """A driver whose data set is a folder of pictures."""
    (tmp_path / "home").mkdir()
    random = np.random.default_rng(0)
    for folder in ("pictures", "others"):
        (tmp_path / folder).mkdir()
        for number in range(40):
            Image.fromarray(random.integers(0, 255, (16, 16), np.uint8)).save(tmp_path / folder / f"{number}.png")
    name = f"folder:{tmp_path / 'pictures'}"
    digest = load(name, tmp_path).digest
    processes.scheduler()
    return Waiting(processes, Needs(tmp_path / "home" / "locks" / "x.shared", name, tmp_path, digest, None, None))


def test_a_worker_without_the_package_is_left_out(waiting: Waiting) -> None:
    code = "import sys; sys.modules['pipeline'] = None; from distributed.cli.dask_worker import main; main()"
    waiting.processes.worker("--no-nanny", start=(sys.executable, "-c", code))
    line = waiting.until("left out")
    assert f"workers on {socket.gethostname()} are left out: the package cannot be imported there" in line
    assert waiting.until("Waiting for workers (0 of 1 passed)")


def test_a_worker_of_another_version_is_left_out(waiting: Waiting, tmp_path: Path) -> None:
    shutil.copytree(Path(pipeline.__file__).parent, tmp_path / "older" / "pipeline")
    with (tmp_path / "older" / "pipeline" / "seeds.py").open("a") as file:
        file.write("# changed\n")
    waiting.processes.worker(within=("env", f"PYTHONPATH={tmp_path / 'older'}"))
    assert "its source differs" in waiting.until("left out")


def over(path: Path, source: str, kind: str) -> tuple[str, ...]:
    """Run what follows in a mount namespace in which another folder lies over this one."""
    mount = f'mount {kind} {shlex.quote(source)} {shlex.quote(str(path))} && exec "$@"'
    return "unshare", "-m", "sh", "-c", mount, "sh"


@MOUNTS
def test_a_worker_with_another_home_is_left_out(waiting: Waiting, tmp_path: Path) -> None:
    waiting.processes.worker(within=over(tmp_path / "home", "none", "-t tmpfs"))
    assert f"its {tmp_path / 'home'} is another folder" in waiting.until("left out")


@MOUNTS
def test_a_worker_with_other_data_is_left_out_and_a_good_one_is_used(waiting: Waiting, tmp_path: Path) -> None:
    waiting.processes.worker(within=over(tmp_path / "pictures", str(tmp_path / "others"), "--bind"))
    assert "differ from the driver's" in waiting.until("left out")
    waiting.processes.worker("--nthreads", "1")
    pool = workers.attach(waiting.processes.cluster, waiting.needs, waiting.said.append)
    with contextlib.closing(pool):
        device = device_here("auto")
        assert pool.wait_for_one(lambda: False) == (device, precision_here(device))
        assert pool.slots == 1


@pytest.mark.long
@MOUNTS
def test_a_home_that_a_worker_loses_later_costs_no_checkpoint(
    finished: Place, place: Place, processes: Processes
) -> None:
    processes.scheduler()
    worker = processes.worker("--nthreads", "1", within=("unshare", "-m"))

    def unmount() -> None:
        mount = ("mount", "-t", "tmpfs", "none", str(place.path / "checkpoints"))
        subprocess.run(["nsenter", "-m", "-t", str(worker.pid), *mount], check=True)

    reporter = Recorder(lambda event: unmount() if event[:3] == ("epoch", 1, 1) else None)
    with pytest.raises(StudyError, match="on a worker, but well on this machine"):
        place.run(workers=None, cluster=processes.cluster, reporter=reporter)
    kill(worker)
    processes.worker("--nthreads", "1")
    place.run(workers=None, cluster=processes.cluster)
    assert_same(finished, place)


# --- TLS --------------------------------------------------------------------------------------------------------------


def test_a_cluster_with_tls_is_used_by_who_has_its_certificates(
    finished: Place, place: Place, processes: Processes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(folder: Path) -> tuple[Path, Path, Path]:
        folder.mkdir()
        security = Security.temporary()
        pems = (security.tls_ca_file, security.tls_client_cert, security.tls_client_key)
        for name, pem in zip(("ca.pem", "cert.pem", "key.pem"), pems, strict=True):
            (folder / name).write_text(pem)
        return folder / "ca.pem", folder / "cert.pem", folder / "key.pem"

    files, others = write(tmp_path / "own"), write(tmp_path / "others")
    ca, certificate, key = map(str, files)
    options = ("--tls-ca-file", ca, "--tls-cert", certificate, "--tls-key", key)
    processes.scheduler("--protocol", "tls", *options)
    processes.worker("--nthreads", "1", *options)
    with pytest.raises(EngineError, match="cannot be reached"):
        place.run(workers=None, cluster=cluster_at(processes.file, *others))
    names = dict(zip(("tls_ca", "tls_cert", "tls_key"), files, strict=True))
    study = pipeline.run(place.file, home=place.path, cluster=processes.file, **names)
    assert len(study.dataframe()) == TRIALS
    assert_same(finished, place)
    assert "without TLS" not in capsys.readouterr().out


# --- two hosts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces, connected by a cable: addresses 10.77.0.1 and 10.77.0.2."""
    names = tuple(f"study-{os.getpid()}-{side}" for side in "ab")
    if not permitted("ip", "netns", "add", names[0]):
        pytest.skip("network namespaces are not permitted here")
    try:
        commands = [
            f"ip netns add {names[1]}",
            f"ip link add va netns {names[0]} type veth peer name vb netns {names[1]}",
        ]
        for name, (device, address) in zip(names, (("va", "10.77.0.1"), ("vb", "10.77.0.2")), strict=True):
            for command in (f"addr add {address}/24 dev {device}", f"link set {device} up", "link set lo up"):
                commands.append(f"ip -n {name} {command}")
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True)
        yield names[0], names[1]
    finally:
        for name in names:
            permitted("ip", "netns", "delete", name)


def test_a_study_over_two_hosts_gives_the_same_numbers(
    finished: Place, place: Place, processes: Processes, hosts: tuple[str, str]
) -> None:
    first, second = (("ip", "netns", "exec", host) for host in hosts)
    processes.scheduler("--host", "10.77.0.1", within=first)
    assert processes.cluster.address.startswith("tcp://10.77.0.1:")
    processes.worker("--nthreads", "1", "--host", "10.77.0.1", within=first)
    processes.worker("--nthreads", "1", "--host", "10.77.0.2", within=second)
    command = [*second, sys.executable, "-m", "pipeline", *place.arguments("--cluster", str(processes.file))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same(finished, place)
