"""Where tasks run: on Dask workers of this machine or a cluster, or in this process.

Comes in: functions and their arguments under a key. Goes out: `Returned`, `Raised` or `Lost` under the same key, as
they come. Nothing else in the program knows which kind of workers there is; no other module may import distributed.
"""

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from pipeline.errors import EngineError

Task = Callable[..., Any]
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Every training step allocates and frees the same large arrays. glibc returns freed memory to the system, and
# with Dask's settings more often; allocating it again costs page faults (figures in pipeline/README.md). These settings
# keep it. Variables that the user has set win.
KEEP_BYTES = 2**30  # freed arrays up to this size are kept
MALLOPT = {-3: "MALLOC_MMAP_THRESHOLD_", -1: "MALLOC_TRIM_THRESHOLD_"}  # variables by mallopt(3)'s parameters
WORKER_ENVIRONMENT = {"MALLOC_ARENA_MAX": "1"} | dict.fromkeys(MALLOPT.values(), str(KEEP_BYTES))


@dataclass(frozen=True)
class Returned:
    """A task that ended, with its result."""

    key: Hashable
    result: Any


@dataclass(frozen=True)
class Raised:
    """A task that ended with an error."""

    key: Hashable
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A task that was given up because its workers died."""

    key: Hashable
    reason: str


Outcome = Returned | Raised | Lost


class Workers(Protocol):
    @property
    def slots(self) -> int:
        """How many tasks can run at the same time."""

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        """Start a task; its outcome has this key."""

    def wait(self, timeout: float) -> Outcome | None:
        """The next outcome; None where there is none within ``timeout`` seconds."""

    def close(self) -> None:
        """Stop at once; running tasks are dropped."""


class _TaskDropped(BaseException):
    """Raised by a signal in the middle of a task."""


class ThisProcess:
    """Runs tasks in this process, one after another, inside `wait`.

    A task may take minutes. A signal that the program handles (Ctrl-C) makes `wait` drop the task and return at once.
    Nothing but its time is lost: tasks can be repeated, and write files whole or not at all.
    """

    slots = 1

    def __init__(self) -> None:
        self._tasks: deque[tuple[Hashable, Task, tuple[Any, ...]]] = deque()
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # glibc only
        if mallopt is not None:
            for parameter, name in MALLOPT.items():
                if name not in os.environ:
                    mallopt(parameter, KEEP_BYTES)

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        self._tasks.append((key, task, arguments))

    def wait(self, timeout: float) -> Outcome | None:  # noqa: ARG002
        if not self._tasks:
            return None
        key, task, arguments = self._tasks.popleft()
        try:
            with _dropped_by_signals():
                return Returned(key, task(*arguments))
        except _TaskDropped:
            return None
        except Exception as error:  # as it would come back from a worker
            return Raised(key, error)

    def close(self) -> None:
        self._tasks.clear()


def _dropped_by_signals() -> AbstractContextManager[None]:
    """Make SIGINT and SIGTERM raise `_TaskDropped` after the program's own handlers, where it has any."""
    handlers = {which: signal.getsignal(which) for which in STOP_SIGNALS}
    own = {which: handler for which, handler in handlers.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        own[signal.Signals(signum)](signum, frame)
        raise _TaskDropped

    return handle_signals(handle, own)


@contextmanager
def handle_signals(
    handler: Callable[[int, FrameType | None], None], signals: Iterable[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Have ``handler`` called on these signals; without effect outside the main thread, which alone can handle them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {which: signal.getsignal(which) for which in signals}
    try:
        for which in before:
            signal.signal(which, handler)
        yield
    finally:
        for which, earlier in before.items():
            signal.signal(which, earlier)


class DaskWorkers:
    """Runs tasks on Dask workers. A worker that dies is replaced and its task run again, up to three times."""

    def __init__(self, cluster: Any, client: Any) -> None:
        self._cluster, self._client = cluster, client
        self._futures: dict[Hashable, Any] = {}
        self._done: queue.SimpleQueue[tuple[Hashable, Any]] = queue.SimpleQueue()
        self.slots = max(1, sum(client.nthreads().values()))

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        # The time makes a task that is submitted again a new one to the scheduler.
        future = self._client.submit(_on_worker, task, arguments, key=f"{key}-{time.time_ns()}", pure=False)
        self._watch(key, future)

    def _watch(self, key: Hashable, future: Any) -> None:
        self._futures[key] = future
        future.add_done_callback(lambda done: self._done.put((key, done)))

    def wait(self, timeout: float) -> Outcome | None:
        from distributed import KilledWorker

        try:
            key, future = self._done.get(timeout=timeout)
        except queue.Empty:
            if self._client.status not in ("running", "connecting"):
                raise EngineError(f"the connection to the Dask scheduler was lost ({self._client.status})") from None
            return None
        if future.status in ("pending", "lost"):  # the result was lost with its worker; Dask computes it again
            time.sleep(0.1)  # a lost future calls back at once, until it is pending
            self._watch(key, future)
            return None
        self._futures.pop(key, None)
        if future.status == "finished":
            return Returned(key, future.result())
        error = future.exception() if future.status == "error" else None
        if isinstance(error, KilledWorker):
            return Lost(key, f"its worker died {error.allowed_failures + 1} times")
        return Raised(key, error or EngineError(f"the scheduler dropped the task {key} ({future.status})"))

    def close(self) -> None:
        if self._cluster is not None:
            # Closing the cluster waits for running tasks; killing the processes first does not.
            for nanny in self._cluster.workers.values():
                nanny.auto_restart = False
                if nanny.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(nanny.pid, signal.SIGKILL)
        elif self._futures:
            self._client.cancel(list(self._futures.values()), force=True)
        self._futures.clear()
        self._client.close(timeout=2)
        if self._cluster is not None:
            self._cluster.close(timeout=5)


def start(count: int, cluster: str | None) -> Workers:
    """Start workers, or attach to a running scheduler. Where there are GPUs, worker i uses GPU i modulo their number.

    Args:
        count: processes on this machine; 0 runs everything in this one.
        cluster: address of a running Dask scheduler, whose workers share this home and data folder.

    Raises:
        EngineError: the scheduler cannot be reached, has no workers, or the workers do not start.
    """
    if cluster is None and count == 0:
        return ThisProcess()
    import dask
    from distributed import Client, LocalCluster, WorkerPlugin

    class LeaveInterruptsToTheDriver(WorkerPlugin):
        """Ctrl-C reaches every process of a terminal; only the driver handles it."""

        def setup(self, worker: Any) -> None:  # noqa: ARG002
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        if cluster is not None:
            client = Client(cluster, timeout=10, set_as_default=False)
            if not client.nthreads():
                client.close()
                raise EngineError(f"--cluster {cluster}: the scheduler has no workers")
            return DaskWorkers(None, client)
        with dask.config.set({f"distributed.nanny.pre-spawn-environ.{k}": v for k, v in WORKER_ENVIRONMENT.items()}):
            local = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",  # without it a second study on this machine warns of a taken port
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
        client = Client(local, set_as_default=False)
        client.register_plugin(LeaveInterruptsToTheDriver())
        return DaskWorkers(local, client)
    except (OSError, TimeoutError, ValueError) as error:
        what = f"--cluster {cluster}: cannot be reached" if cluster else "the workers did not start"
        raise EngineError(f"{what}: {str(error).splitlines()[0]}") from None


def _on_worker(task: Task, arguments: tuple[Any, ...]) -> Any:
    """Run a task on the worker's own GPU, assigned by its name: on one machine Dask numbers the workers from 0."""
    import torch
    from distributed import get_worker

    name = get_worker().name
    if torch.cuda.is_available() and isinstance(name, int):
        torch.cuda.set_device(name % torch.cuda.device_count())
    return task(*arguments)
