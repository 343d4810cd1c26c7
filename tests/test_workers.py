"""One contract for every pool: in this process, on workers of its own, on a cluster that is there already."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
import tasks_for_tests as tasks
from distributed import Client, LocalCluster

from pipeline import workers
from pipeline.errors import CheckpointError, EngineError
from pipeline.workers import Lost, Outcome, Raised, Returned, Workers

PATIENCE_S = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster that someone else has pool; one death of a worker is enough to give up a task there."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with cluster:
        yield cluster


@pytest.fixture(scope="module", params=["in this process", "1 worker", "2 workers", "a cluster's address"])
def pool(request: pytest.FixtureRequest) -> Iterator[Workers]:
    match request.param:
        case "in this process":
            pool = workers.start(0, None)
        case "a cluster's address":
            pool = workers.start(0, request.getfixturevalue("cluster").scheduler_address)
        case count:
            pool = workers.start(int(count[0]), None)
    yield pool
    pool.close()


def next_done(pool: Workers) -> Outcome:
    deadline = time.monotonic() + PATIENCE_S
    while (done := pool.wait(0.2)) is None:
        assert time.monotonic() < deadline
    return done


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Processes that this one has pool and that live."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such settings")
@pytest.mark.parametrize("count", [0, 1])
def test_memory_that_a_step_freed_is_there_for_the_next(count: int) -> None:
    pool = workers.start(count, None)
    pool.submit("pages", tasks.pages_taken_anew)
    pages = next_done(pool).result
    pool.close()
    assert pages < 3 * 8 * 4096  # given back at every step it would be 20 times 8 arrays


# --- the contract -----------------------------------------------------------------------------------------------------


def test_results_come_back_under_their_keys(pool: Workers) -> None:
    for number in range(6):
        pool.submit(f"trial/{number}", tasks.double, number)
    done = [next_done(pool) for _ in range(6)]
    assert {d.key: d.result for d in done} == {f"trial/{number}": 2 * number for number in range(6)}
    assert all(isinstance(d, Returned) for d in done)
    assert pool.wait(0) is None


def test_errors_come_back_as_they_were_raised(pool: Workers) -> None:
    pool.submit("bad", tasks.refuse, "damaged: epoch 3")
    done = next_done(pool)
    assert isinstance(done, Raised)
    assert done.key == "bad"
    assert isinstance(done.error, CheckpointError)
    assert str(done.error) == "damaged: epoch 3"
    pool.submit("good", tasks.double, 4)
    assert next_done(pool) == Returned("good", 8)


def test_a_key_may_be_used_again_and_its_task_runs_again(pool: Workers) -> None:
    for number in (1, 2, 3):
        pool.submit("trial/000001", tasks.double, number)
        assert next_done(pool) == Returned("trial/000001", 2 * number)


def test_slots_are_the_tasks_that_run_at_once(pool: Workers) -> None:
    assert pool.slots in (1, 2)
    for number in range(2 * pool.slots):
        pool.submit(f"trial/{number}", tasks.worker_and, number)
    pids = {next_done(pool).result[0] for _ in range(2 * pool.slots)}
    assert len(pids) <= pool.slots
    assert pids == {os.getpid()} or pids <= children()


def test_nothing_to_wait_for_is_none(pool: Workers) -> None:
    assert pool.wait(0.01) is None


# --- an pool's end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2])
def test_close_leaves_no_process_and_no_thread_behind(count: int) -> None:
    before, threads = children(), threading.active_count()
    pool = workers.start(count, None)
    own = children() - before
    assert len(own) == count
    pool.submit("a", tasks.double, 1)
    assert next_done(pool).result == 2
    pool.submit("b", tasks.sleep, 0 if count == 0 else 60)  # under way when the pool is closed
    pool.close()
    assert children() == before
    assert not [pid for pid in own if alive(pid)]
    assert threading.active_count() <= threads + 3, "Dask keeps a few threads for the next cluster"


def test_close_ends_its_own_workers_only() -> None:
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    bystander.start()
    try:
        workers.start(1, None).close()
        assert bystander.is_alive()
    finally:
        bystander.kill()
        bystander.join()


def test_close_leaves_a_cluster_running_that_it_did_not_start(cluster: LocalCluster) -> None:
    pool = workers.start(0, cluster.scheduler_address)
    pool.submit("a", tasks.sleep, 0.1)
    pool.close()
    again = workers.start(0, cluster.scheduler_address)
    again.submit("a", tasks.double, 5)
    assert next_done(again).result == 10
    again.close()


def test_workers_answer_on_this_machine_only() -> None:
    before = listening()
    pool = workers.start(1, None)
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
            (
                _,
                local,
                _,
                state,
                *_,
            ) = fields = line.split()
            if state == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = local.partition(":")
                found.add((address, port))
    return found


@pytest.mark.slow
def test_two_studies_on_one_machine_do_not_get_in_each_other_s_way() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of a port that is taken
        first, second = workers.start(1, None), workers.start(1, None)
    first.close()
    second.submit("a", tasks.double, 2)
    assert next_done(second).result == 4
    second.close()


# --- signals while a task runs in this process ------------------------------------------------------------------------


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_program_answers_ends_the_task_under_way(which: signal.Signals) -> None:
    answered: list[int] = []
    before = signal.signal(which, lambda signum, _: answered.append(signum))
    own = signal.getsignal(which)
    pool = workers.start(0, None)
    try:
        pool.submit("long", tasks.signal_and_sleep, which, 60.0)
        since = time.monotonic()
        assert pool.wait(0.1) is None
        assert time.monotonic() - since < 30
        assert answered == [which]
        assert signal.getsignal(which) is own
        pool.submit("next", tasks.double, 4)
        assert pool.wait(0.1) == Returned("next", 8)
    finally:
        signal.signal(which, before)


def test_without_handlers_of_the_program_s_own_ctrl_c_is_what_it_always_was() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    pool = workers.start(0, None)
    pool.submit("long", tasks.signal_and_sleep, signal.SIGINT, 60.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.wait(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_tasks_run_as_well() -> None:
    done: list[Outcome | None] = []
    pool = workers.start(0, None)
    pool.submit("a", tasks.double, 4)
    thread = threading.Thread(target=lambda: done.append(pool.wait(0.1)))
    thread.start()
    thread.join()
    assert done == [Returned("a", 8)]


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_task_run_again(tmp_path: Path) -> None:
    pool = workers.start(1, None)
    try:
        pool.submit("long", tasks.note_and_sleep, tmp_path, 60.0)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        os.kill(first, signal.SIGKILL)
        assert next_done(pool) == Returned("long", "done")
        assert len(list(tmp_path.iterdir())) == 2, "another process took it up"
    finally:
        pool.close()


def test_a_result_that_was_lost_with_its_worker_is_computed_again(tmp_path: Path) -> None:
    pool = workers.start(1, None)
    try:
        pool.submit("brief", tasks.kill_the_worker_afterwards, tmp_path)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        wait_until(lambda: not alive(first))  # before the result was asked for
        assert next_done(pool) == Returned("brief", "done")
    finally:
        pool.close()


def test_a_task_that_kills_every_worker_is_lost_and_the_engine_goes_on(cluster: LocalCluster) -> None:
    pool = workers.start(0, cluster.scheduler_address)
    try:
        pool.submit("deadly", tasks.kill_the_worker)
        done = next_done(pool)
        assert isinstance(done, Lost)
        assert done.key == "deadly"
        assert "died" in done.reason
        pool.submit("harmless", tasks.double, 3)
        assert next_done(pool) == Returned("harmless", 6)
    finally:
        pool.close()


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- clusters that cannot be used -------------------------------------------------------------------------------------


WAITED_FOR = pytest.param("tcp://127.0.0.1:1", marks=pytest.mark.slow)


@pytest.mark.parametrize("address", [WAITED_FOR, "nonsense", "nonsense://somewhere:1"])
def test_a_cluster_that_cannot_be_reached_is_one_line(address: str) -> None:
    with pytest.raises(EngineError) as refusal:
        workers.start(0, address)
    assert f"--cluster {address}" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_cluster_without_workers_is_refused() -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(EngineError, match="has no workers"),
    ):
        workers.start(0, empty.scheduler_address)


def test_a_scheduler_that_goes_away_is_an_error_and_not_a_wait_for_ever() -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    pool = workers.start(0, cluster.scheduler_address)
    pool.submit("never", tasks.sleep, 600)
    cluster.close()
    try:
        assert "scheduler" in str(error_of(pool))
    finally:
        pool.close()


def error_of(pool: Workers) -> Exception | None:
    """The next error, raised or returned."""
    try:
        outcome = next_done(pool)
        return outcome.error if isinstance(outcome, Raised) else None
    except EngineError as error:
        return error


def test_a_client_of_one_s_own_is_left_alone(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=True) as client:
        pool = workers.start(0, cluster.scheduler_address)
        pool.close()
        assert client.submit(tasks.double, 21).result() == 42
