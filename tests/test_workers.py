"""One contract for every engine: in this process, on workers of its own, on a cluster that is there already."""

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

from pipeline import workers as engines
from pipeline.errors import CheckpointError, EngineError
from pipeline.workers import Done, Engine

PATIENCE_S = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A cluster that someone else has started; one death of a worker is enough to give up a task there."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    with cluster:
        yield cluster


@pytest.fixture(scope="module", params=["in this process", "1 worker", "2 workers", "a cluster's address"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    match request.param:
        case "in this process":
            engine = engines.start(0, None)
        case "a cluster's address":
            engine = engines.start(0, request.getfixturevalue("cluster").scheduler_address)
        case workers:
            engine = engines.start(int(workers[0]), None)
    yield engine
    engine.close()


def next_done(engine: Engine) -> Done:
    deadline = time.monotonic() + PATIENCE_S
    while (done := engine.wait(0.2)) is None:
        assert time.monotonic() < deadline
    return done


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Processes that this one has started and that live."""
    return {process.pid for process in multiprocessing.active_children() if process.pid is not None}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such settings")
@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_a_step_freed_is_there_for_the_next(workers: int) -> None:
    engine = engines.start(workers, None)
    engine.submit("pages", tasks.pages_taken_anew)
    pages = next_done(engine).result
    engine.close()
    assert pages < 3 * 8 * 4096  # given back at every step it would be 20 times 8 arrays


# --- the contract -----------------------------------------------------------------------------------------------------


def test_results_come_back_under_their_keys(engine: Engine) -> None:
    for number in range(6):
        engine.submit(f"trial/{number}", tasks.double, number)
    done = [next_done(engine) for _ in range(6)]
    assert {d.key: d.result for d in done} == {f"trial/{number}": 2 * number for number in range(6)}
    assert all(d.error is None and d.lost is None for d in done)
    assert engine.wait(0) is None


def test_errors_come_back_as_they_were_raised(engine: Engine) -> None:
    engine.submit("bad", tasks.refuse, "damaged: epoch 3")
    done = next_done(engine)
    assert (done.key, done.result, done.lost) == ("bad", None, None)
    assert isinstance(done.error, CheckpointError)
    assert str(done.error) == "damaged: epoch 3"
    engine.submit("good", tasks.double, 4)
    assert next_done(engine) == Done("good", 8)


def test_a_key_may_be_used_again_and_its_task_runs_again(engine: Engine) -> None:
    for number in (1, 2, 3):
        engine.submit("trial/000001", tasks.double, number)
        assert next_done(engine) == Done("trial/000001", 2 * number)


def test_slots_are_the_tasks_that_run_at_once(engine: Engine) -> None:
    assert engine.slots in (1, 2)
    for number in range(2 * engine.slots):
        engine.submit(f"trial/{number}", tasks.worker_and, number)
    pids = {next_done(engine).result[0] for _ in range(2 * engine.slots)}
    assert len(pids) <= engine.slots
    assert pids == {os.getpid()} or pids <= children()


def test_nothing_to_wait_for_is_none(engine: Engine) -> None:
    assert engine.wait(0.01) is None


# --- an engine's end --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_close_leaves_no_process_and_no_thread_behind(workers: int) -> None:
    before, threads = children(), threading.active_count()
    engine = engines.start(workers, None)
    own = children() - before
    assert len(own) == workers
    engine.submit("a", tasks.double, 1)
    assert next_done(engine).result == 2
    engine.submit("b", tasks.sleep, 0 if workers == 0 else 60)  # under way when the engine is closed
    engine.close()
    assert children() == before
    assert not [pid for pid in own if alive(pid)]
    assert threading.active_count() <= threads + 3, "Dask keeps a few threads for the next cluster"


def test_close_ends_its_own_workers_only() -> None:
    bystander = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    bystander.start()
    try:
        engines.start(1, None).close()
        assert bystander.is_alive()
    finally:
        bystander.kill()
        bystander.join()


def test_close_leaves_a_cluster_running_that_it_did_not_start(cluster: LocalCluster) -> None:
    engine = engines.start(0, cluster.scheduler_address)
    engine.submit("a", tasks.sleep, 0.1)
    engine.close()
    again = engines.start(0, cluster.scheduler_address)
    again.submit("a", tasks.double, 5)
    assert next_done(again).result == 10
    again.close()


def test_workers_answer_on_this_machine_only() -> None:
    before = listening()
    engine = engines.start(1, None)
    try:
        opened = listening() - before
        assert opened
        assert {address for address, _ in opened} <= {"0100007F", "00000000000000000000000001000000"}
    finally:
        engine.close()


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
        first, second = engines.start(1, None), engines.start(1, None)
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
    engine = engines.start(0, None)
    try:
        engine.submit("long", tasks.signal_and_sleep, which, 60.0)
        started = time.monotonic()
        assert engine.wait(0.1) is None
        assert time.monotonic() - started < 30
        assert answered == [which]
        assert signal.getsignal(which) is own
        engine.submit("next", tasks.double, 4)
        assert engine.wait(0.1) == Done("next", 8)
    finally:
        signal.signal(which, before)


def test_without_handlers_of_the_program_s_own_ctrl_c_is_what_it_always_was() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell has it ignored
    engine = engines.start(0, None)
    engine.submit("long", tasks.signal_and_sleep, signal.SIGINT, 60.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.wait(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_tasks_run_as_well() -> None:
    done: list[Done | None] = []
    engine = engines.start(0, None)
    engine.submit("a", tasks.double, 4)
    thread = threading.Thread(target=lambda: done.append(engine.wait(0.1)))
    thread.start()
    thread.join()
    assert done == [Done("a", 8)]


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_task_run_again(tmp_path: Path) -> None:
    engine = engines.start(1, None)
    try:
        engine.submit("long", tasks.note_and_sleep, tmp_path, 60.0)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        os.kill(first, signal.SIGKILL)
        assert next_done(engine) == Done("long", "done")
        assert len(list(tmp_path.iterdir())) == 2, "another process took it up"
    finally:
        engine.close()


def test_a_result_that_was_lost_with_its_worker_is_computed_again(tmp_path: Path) -> None:
    engine = engines.start(1, None)
    try:
        engine.submit("brief", tasks.kill_the_worker_afterwards, tmp_path)
        wait_until(lambda: any(tmp_path.iterdir()))
        [first] = [int(file.name) for file in tmp_path.iterdir()]
        wait_until(lambda: not alive(first))  # before the result was asked for
        assert next_done(engine) == Done("brief", "done")
    finally:
        engine.close()


def test_a_task_that_kills_every_worker_is_lost_and_the_engine_goes_on(cluster: LocalCluster) -> None:
    engine = engines.start(0, cluster.scheduler_address)
    try:
        engine.submit("deadly", tasks.kill_the_worker)
        done = next_done(engine)
        assert (done.key, done.result, done.error) == ("deadly", None, None)
        assert done.lost
        assert "died" in done.lost
        engine.submit("harmless", tasks.double, 3)
        assert next_done(engine) == Done("harmless", 6)
    finally:
        engine.close()


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
        engines.start(0, address)
    assert f"--cluster {address}" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_cluster_without_workers_is_refused() -> None:
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(EngineError, match="has no workers"),
    ):
        engines.start(0, empty.scheduler_address)


def test_a_scheduler_that_goes_away_is_an_error_and_not_a_wait_for_ever() -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0")
    engine = engines.start(0, cluster.scheduler_address)
    engine.submit("never", tasks.sleep, 600)
    cluster.close()
    try:
        assert "scheduler" in str(error_of(engine))
    finally:
        engine.close()


def error_of(engine: Engine) -> Exception | None:
    """The next error, raised or returned."""
    try:
        return next_done(engine).error
    except EngineError as error:
        return error


def test_a_client_of_one_s_own_is_left_alone(cluster: LocalCluster) -> None:
    with Client(cluster, set_as_default=True) as client:
        engine = engines.start(0, cluster.scheduler_address)
        engine.close()
        assert client.submit(tasks.double, 21).result() == 42
