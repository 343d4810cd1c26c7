"""One contract for all kinds of workers: in this process, in processes of their own, on a running cluster."""

from __future__ import annotations

import multiprocessing
import os
import platform
import pwd
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import pytest
import tasks_for_tests as tasks
from distributed import Client, LocalCluster

from pipeline import workers
from pipeline.data import load
from pipeline.errors import CheckpointError, EngineError, InputError, Interrupted
from pipeline.provenance import versions
from pipeline.workers import Cluster, DaskWorkers, Lost, Needs, Outcome, Raised, Returned, Workers, cluster_at
from pipeline.workers.needs import Passed, free_rank, lacks, objection

PATIENCE_S = 120


@pytest.fixture(scope="module")
def needs(tmp_path_factory: pytest.TempPathFactory) -> Needs:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    return Needs(home / "locks" / "small.shared", "mnist-5k", data, load("mnist-5k", data).digest, "cpu", "float32")


def start(count: int, needs: Needs) -> Workers:
    pool = workers.start(count, needs, pytest.fail)
    if isinstance(pool, DaskWorkers):
        pool.wait_for_one(lambda: False)
    return pool


def attach(cluster: LocalCluster, needs: Needs, notes: list[str] | None = None) -> DaskWorkers:
    pool = workers.attach(Cluster(cluster.scheduler_address), needs, ([] if notes is None else notes).append)
    pool.wait_for_one(lambda: False)
    return pool


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster that the program did not start. It gives up a task as soon as one worker has died."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with cluster:
        yield cluster


@pytest.fixture(scope="module", params=["in this process", "1 worker", "2 workers", "a cluster's address"])
def pool(request: pytest.FixtureRequest, needs: Needs) -> Iterator[Workers]:
    match request.param:
        case "in this process":
            pool = start(0, needs)
        case "a cluster's address":
            pool = attach(request.getfixturevalue("cluster"), needs)
        case count:
            pool = start(int(count[0]), needs)
    yield pool
    pool.close()


def next_outcome(pool: Workers) -> Outcome:
    deadline = time.monotonic() + PATIENCE_S
    while (outcome := pool.wait(0.2)) is None:
        assert time.monotonic() < deadline
    return outcome


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """The living child processes of this process."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators do not have these settings")
@pytest.mark.parametrize("count", [0, 1])
def test_memory_freed_by_one_step_is_reused_by_the_next(count: int, needs: Needs) -> None:
    pool = start(count, needs)
    pool.submit("pages", tasks.count_page_faults)
    pages = next_outcome(pool).result
    pool.close()
    assert pages < 10 * 8 * 4096  # 20 * 8 * 4096 if the memory went back to the system at every step


# --- the contract -----------------------------------------------------------------------------------------------------


def test_results_come_back_under_their_keys(pool: Workers) -> None:
    for number in range(6):
        pool.submit(f"trial/{number}", tasks.double, number)
    outcomes = [next_outcome(pool) for _ in range(6)]
    assert {done.key: done.result for done in outcomes} == {f"trial/{number}": 2 * number for number in range(6)}
    assert all(isinstance(done, Returned) for done in outcomes)
    assert pool.wait(0) is None


def test_errors_come_back_as_they_were_raised(pool: Workers) -> None:
    pool.submit("bad", tasks.raise_checkpoint_error, "damaged: epoch 3")
    done = next_outcome(pool)
    assert isinstance(done, Raised)
    assert done.key == "bad"
    assert isinstance(done.error, CheckpointError)
    assert str(done.error) == "damaged: epoch 3"
    pool.submit("good", tasks.double, 4)
    assert next_outcome(pool) == Returned("good", 8)


def test_a_key_may_be_used_again_and_its_task_runs_again(pool: Workers) -> None:
    for number in (1, 2, 3):
        pool.submit("trial/000001", tasks.double, number)
        assert next_outcome(pool) == Returned("trial/000001", 2 * number)


def test_large_arguments_are_sent_without_a_warning(pool: Workers) -> None:
    weights = b"0" * 20_000_000
    pool.submit("large", len, weights)
    assert next_outcome(pool) == Returned("large", len(weights))


def test_slots_is_the_number_of_tasks_that_run_at_once(pool: Workers) -> None:
    assert pool.slots in (1, 2)
    for number in range(2 * pool.slots):
        pool.submit(f"trial/{number}", tasks.process_and_number, number)
    pids = {next_outcome(pool).result[0] for _ in range(2 * pool.slots)}
    assert len(pids) <= pool.slots
    assert pids == {os.getpid()} or pids <= children()


def test_waiting_without_tasks_returns_none(pool: Workers) -> None:
    assert pool.wait(0.01) is None


# --- closing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_close_leaves_no_process_and_no_thread_behind(count: int, needs: Needs) -> None:
    before, threads = children(), threading.active_count()
    pool = start(count, needs)
    own = children() - before
    assert len(own) == count
    pool.submit("a", tasks.double, 1)
    assert next_outcome(pool).result == 2
    pool.submit("b", tasks.sleep, 0 if count == 0 else 60)  # still running when the pool is closed
    pool.close()
    assert children() == before
    assert not [pid for pid in own if alive(pid)]
    assert threading.active_count() <= threads + 3, "Dask keeps a few threads for the next cluster"


def test_close_stops_only_its_own_workers(needs: Needs) -> None:
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    bystander.start()
    try:
        start(1, needs).close()
        assert bystander.is_alive()
    finally:
        bystander.kill()
        bystander.join()


def test_close_does_not_stop_a_cluster_that_it_did_not_start(cluster: LocalCluster, needs: Needs) -> None:
    pool = attach(cluster, needs)
    pool.submit("a", tasks.sleep, 0.1)
    pool.close()
    again = attach(cluster, needs)
    again.submit("a", tasks.double, 5)
    assert next_outcome(again).result == 10
    again.close()


def test_workers_listen_on_this_machine_only(needs: Needs) -> None:
    before = listening()
    pool = start(1, needs)
    try:
        opened = listening() - before
        assert opened
        assert {address for address, _ in opened} <= {"0100007F", "00000000000000000000000001000000"}
    finally:
        pool.close()


def listening() -> set[tuple[str, str]]:
    """The (address, port) pairs on which this process and its children accept connections."""
    sockets: set[str] = set()
    for pid in {os.getpid(), *children()}:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                sockets.add(os.readlink(entry))
            except FileNotFoundError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = local.partition(":")
                found.add((address, port))
    return found


# Tries to be heard on every port, without certificates and with some of its own. Prints where it succeeded.
INTRUDER = """
import asyncio, http.client, os, sys
from distributed import Security
from distributed.core import connect

async def identity(address, **arguments):
    comm = await connect(address, timeout=2, **arguments)
    await comm.write({"op": "identity", "reply": True})
    return await comm.read()

def page(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3)
    connection.request("GET", path)
    return connection.getresponse().status == 200

def succeeds(attempt, *arguments):
    try:
        return attempt(*arguments)
    except Exception:
        return False

own = Security.temporary().get_connection_args("client")
user, *ports = map(int, sys.argv[1:])
if user != os.getuid():  # only now, because that user may not be able to read the libraries
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
for port in ports:
    for address, arguments in ((f"tcp://127.0.0.1:{port}", {}), (f"tls://127.0.0.1:{port}", own)):
        if succeeds(lambda: asyncio.run(asyncio.wait_for(identity(address, **arguments), 3))):
            print("admitted at", address)
    for path in ("/status", "/metrics", "/info/main/workers.html"):
        if succeeds(page, port, path):
            print("reads", path)
print("user", os.getuid())
"""


def intrude(user: str, ports: list[int]) -> list[str]:
    """What a process of this user achieves."""
    uid = pwd.getpwnam(user).pw_uid if user else os.getuid()
    command = [sys.executable, "-c", INTRUDER, str(uid), *map(str, ports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    *achieved, last = done.stdout.splitlines()
    assert last == f"user {uid}", done.stderr
    return achieved


USERS = [
    "",  # the same user, without the certificates
    pytest.param("nobody", marks=pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")),
]


@pytest.mark.slow  # every port is tried until a time limit
@pytest.mark.parametrize("user", USERS)
def test_nobody_else_can_run_code_on_the_workers(needs: Needs, user: str) -> None:
    before = listening()
    pool = start(1, needs)
    try:
        ports = [int(port, 16) for _, port in listening() - before]
        assert len(ports) >= 3, "the scheduler, the worker and the process that watches it"
        assert intrude(user, ports) == []
        pool.submit("still works", tasks.double, 2)
        assert next_outcome(pool) == Returned("still works", 4)
    finally:
        pool.close()


@pytest.mark.parametrize("user", USERS)
def test_the_same_attempt_succeeds_without_tls(cluster: LocalCluster, user: str) -> None:
    port = int(cluster.scheduler_address.rpartition(":")[2])
    assert intrude(user, [port]) == [f"admitted at tcp://127.0.0.1:{port}"]


@pytest.mark.slow
def test_two_studies_on_one_machine_do_not_disturb_each_other(needs: Needs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # for example about a port that is taken
        first, second = start(1, needs), start(1, needs)
    first.close()
    second.submit("a", tasks.double, 2)
    assert next_outcome(second).result == 4
    second.close()


# --- signals while a task runs in this process ------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_program_handles_ends_the_running_task(which: signal.Signals, needs: Needs) -> None:
    handled: list[int] = []
    before = signal.signal(which, lambda signum, _: handled.append(signum))
    own = signal.getsignal(which)
    pool = start(0, needs)
    try:
        pool.submit("long", tasks.signal_and_sleep, which, 60.0)
        since = time.monotonic()
        assert pool.wait(0.1) is None
        assert time.monotonic() - since < 30
        assert handled == [which]
        assert signal.getsignal(which) is own
        pool.submit("next", tasks.double, 4)
        assert pool.wait(0.1) == Returned("next", 8)
    finally:
        signal.signal(which, before)


def test_without_handlers_in_the_program_ctrl_c_raises_keyboard_interrupt(needs: Needs) -> None:
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell starts background jobs with SIGINT ignored
    pool = start(0, needs)
    pool.submit("long", tasks.signal_and_sleep, signal.SIGINT, 60.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.wait(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_tasks_also_run_outside_the_main_thread(needs: Needs) -> None:
    done: list[Outcome | None] = []
    pool = start(0, needs)
    pool.submit("a", tasks.double, 4)
    thread = threading.Thread(target=lambda: done.append(pool.wait(0.1)))
    thread.start()
    thread.join()
    assert done == [Returned("a", 8)]


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_task_run_again(tmp_path: Path, needs: Needs) -> None:
    pool = start(1, needs)
    try:
        pool.submit("long", tasks.note_and_sleep, tmp_path, 60.0)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        os.kill(first, signal.SIGKILL)
        assert next_outcome(pool) == Returned("long", "done")
        assert len(list(tmp_path.iterdir())) == 2, "another process ran it again"
    finally:
        pool.close()


def test_a_result_that_was_lost_with_its_worker_is_computed_again(tmp_path: Path, needs: Needs) -> None:
    pool = start(1, needs)
    try:
        pool.submit("brief", tasks.kill_the_worker_afterwards, tmp_path)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        wait_until(lambda: not alive(first))  # before the driver asks for the result
        assert next_outcome(pool) == Returned("brief", "done")
    finally:
        pool.close()


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_lost_and_the_next_task_runs(cluster: LocalCluster, needs: Needs) -> None:
    pool = attach(cluster, needs)
    try:
        pool.submit("deadly", tasks.kill_the_worker)
        done = next_outcome(pool)
        assert isinstance(done, Lost)
        assert done.key == "deadly"
        assert "died" in done.reason
        pool.submit("harmless", tasks.double, 3)
        assert next_outcome(pool) == Returned("harmless", 6)
    finally:
        pool.close()


def test_a_worker_that_dask_does_not_restart_is_replaced(needs: Needs) -> None:
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):  # it starts in half a second at least
        pool = start(1, needs)
        try:
            pool.submit("deadly", tasks.kill_the_worker)
            pool.submit("harmless", tasks.double, 3)
            assert isinstance(next_outcome(pool), Lost)
            assert next_outcome(pool) == Returned("harmless", 6)
        finally:
            pool.close()


def test_a_task_that_nobody_waits_for_any_more_ends_at_once(
    cluster: LocalCluster, needs: Needs, tmp_path: Path
) -> None:
    pool = attach(cluster, needs)
    pool.submit("endless", tasks.beat, tmp_path / "beats")
    wait_until((tmp_path / "beats").exists)
    pool.close()
    time.sleep(1)
    last = (tmp_path / "beats").read_text()
    again = attach(cluster, needs)
    again.submit("next", tasks.double, 4)
    assert next_outcome(again) == Returned("next", 8)
    again.close()
    assert (tmp_path / "beats").read_text() == last


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- clusters that cannot be used -------------------------------------------------------------------------------------

NO_ANSWER = pytest.param("tcp://127.0.0.1:1", marks=pytest.mark.slow)  # Dask waits 10 s for an answer


@pytest.mark.parametrize("address", [NO_ANSWER, "nonsense://somewhere:1"])
def test_an_unreachable_cluster_is_reported_in_one_line(address: str, needs: Needs) -> None:
    with pytest.raises(EngineError) as caught:
        workers.attach(Cluster(address), needs, pytest.fail)
    assert f"--cluster {address}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


TLS = ("--tls-ca", "--tls-cert", "--tls-key")


@pytest.mark.parametrize(
    ("where", "given", "said"),
    [
        ("nonsense", (), "neither an address"),
        ("FOLDER/missing.json", (), "neither an address"),
        ("FOLDER/pem", (), "not a scheduler file"),
        ("tls://127.0.0.1:1", (), "belong to a tls:// address"),
        ("tcp://127.0.0.1:1", TLS, "belong to a tls:// address"),
        ("tls://127.0.0.1:1", TLS[:1], "--tls-ca: give --tls-cert and --tls-key as well"),
        (None, TLS, "--tls-ca: belongs to --cluster"),
    ],
)
def test_clusters_that_cannot_be_meant_are_refused(
    tmp_path: Path, where: str | None, given: tuple[str, ...], said: str
) -> None:
    (tmp_path / "pem").write_text("x")
    files = {option[2:].replace("-", "_"): tmp_path / "pem" for option in given}
    with pytest.raises(InputError, match=said):
        cluster_at(where.replace("FOLDER", str(tmp_path)) if where else None, **files)


def test_a_missing_tls_file_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "ca.pem"
    with pytest.raises(InputError, match=f"--tls-ca {missing}: there is no such file"):
        cluster_at("host:8786", missing, missing, missing)


def test_a_cluster_is_named_by_address_or_scheduler_file(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("x")
    (tmp_path / "scheduler.json").write_text('{"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}')
    assert cluster_at(None) is None
    assert cluster_at("host:8786") == Cluster("tcp://host:8786")
    assert cluster_at("host:8786", *[tmp_path / "pem"] * 3) == Cluster("tls://host:8786", (str(tmp_path / "pem"),) * 3)
    assert cluster_at(tmp_path / "scheduler.json") == Cluster("tcp://10.0.0.1:8786")


# --- GPUs -------------------------------------------------------------------------------------------------------------


def ranks(*found: Passed) -> list[int]:
    given: list[tuple[Passed, int]] = []
    for worker in found:
        given.append((worker, free_rank(worker, given)))
    return [rank % worker.gpus for worker, rank in given]


def test_each_worker_has_a_gpu_of_its_own() -> None:
    a, b = (Passed(host, threads=1, gpus=2, visible=None) for host in "ab")
    assert ranks(a, a, b, a, b) == [0, 1, 0, 0, 1], "more workers than GPUs share them"
    # dask-cuda lists for each worker its own GPU first.
    assert ranks(Passed("a", 1, 2, "0,1"), Passed("a", 1, 2, "1,0")) == [0, 0]
    # Slurm gives all processes of a job the same list.
    assert ranks(Passed("a", 1, 2, "4,5"), Passed("a", 1, 2, "4,5"), Passed("b", 1, 2, "4,5")) == [0, 1, 0]


def test_a_gpu_that_became_free_is_given_again() -> None:
    worker = Passed("a", 1, 4, None)
    assert free_rank(worker, [(worker, 0), (worker, 2)]) == 1


# --- preflight --------------------------------------------------------------------------------------------------------


def test_a_process_that_differs_from_the_driver_is_told_in_what(needs: Needs, tmp_path: Path) -> None:
    needs.write("token")
    assert objection(needs, versions(), "token") is None
    assert "torch" in str(objection(needs, versions() | {"torch": "0.1"}, "token"))
    assert f"its {needs.shared.parent.parent} is another folder" in str(objection(needs, versions(), "another"))
    elsewhere = replace(needs, shared=tmp_path / "home" / "locks" / "small.shared")
    assert f"its {tmp_path / 'home'} is another folder" in str(objection(elsewhere, versions(), "token"))
    assert "its files of mnist-5k differ" in str(objection(replace(needs, digest="0"), versions(), "token"))
    assert "mnist: " in str(objection(replace(needs, dataset="mnist", data_dir=tmp_path), versions(), "token"))


def test_a_worker_whose_hardware_cannot_do_the_same_is_told_what_it_lacks(needs: Needs) -> None:
    slow, quick = (Passed("a", 1, 0, None, precision) for precision in ("float32", "bfloat16"))
    assert "no CUDA device" in str(lacks(replace(needs, device="cuda"), quick))
    assert "AVX512-BF16 or AMX" in str(lacks(replace(needs, precision="bfloat16"), slow))
    assert lacks(replace(needs, precision="bfloat16"), quick) is None
    assert lacks(needs, slow) is lacks(needs, quick) is None, "float32 is the same everywhere"


# --- clusters without workers -----------------------------------------------------------------------------------------


def test_a_cluster_without_workers_is_waited_for(needs: Needs) -> None:
    notes: list[str] = []
    asked = iter([False, False, True])
    with LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty:
        pool = workers.attach(Cluster(empty.scheduler_address), needs, notes.append)
        with pytest.raises(Interrupted):
            pool.wait_for_one(lambda: next(asked))
        assert pool.slots == 0
        pool.close()
    assert ["without TLS" in notes[0], *notes[1:]] == [True, "Waiting for workers (0 of 0 passed)"]


def test_a_scheduler_that_stops_is_an_error_and_not_an_endless_wait(needs: Needs) -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    pool = attach(cluster, needs)
    pool.submit("never", tasks.sleep, 600)
    cluster.close()
    try:
        assert "scheduler" in str(error_of(pool))
    finally:
        pool.close()


def error_of(pool: Workers) -> Exception | None:
    """The next error, raised or returned."""
    try:
        outcome = next_outcome(pool)
        return outcome.error if isinstance(outcome, Raised) else None
    except EngineError as error:
        return error


def test_a_dask_client_of_the_user_is_left_unchanged(cluster: LocalCluster, needs: Needs) -> None:
    with Client(cluster, set_as_default=True) as client:
        pool = attach(cluster, needs)
        pool.close()
        assert client.submit(tasks.double, 21).result() == 42
