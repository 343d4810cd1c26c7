"""Which task runs on which Dask worker.

Comes in: tasks, and the workers' coming and going. Goes out: the tasks' outcomes. A worker that passed the preflight
has one task at a time, and is chosen here, so that no task waits behind another while a worker is idle.
"""

import os
import queue
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pipeline.config.choices import Precision
from pipeline.errors import RESUME, EngineError, Interrupted
from pipeline.workers.machine import Device
from pipeline.workers.needs import LeftOut, Needs, Passed, free_rank, lacks
from pipeline.workers.preflight import preflight
from pipeline.workers.tasks import Lost, Note, Outcome, Raised, Returned, Task

DEATHS = 4  # of workers, after which a task is given up
FETCH_S = 10  # for a result; after that its worker counts as dead
PREFLIGHT_S = 5  # after which it is said that the program waits for workers


@dataclass(eq=False)
class _Job:
    key: Hashable
    task: Task
    arguments: tuple[Any, ...]
    deaths: int = 0  # of workers that ran it
    future: Any = None


@dataclass(eq=False)
class _Worker:
    """A connected worker."""

    preflight: Any  # a future
    checking: bool = True
    passed: Passed | None = None
    rank: int = 0  # among the workers of its host
    job: _Job | None = None


@dataclass
class Own:
    """A cluster that this process started."""

    cluster: Any
    count: int

    def replace_closed(self) -> None:
        """Start workers in place of those that Dask does not restart any more.

        It gives up a worker that is not connected 15 s after a death, even where it has come back and died again.
        """
        nannies = self.cluster.workers
        for name in [name for name, nanny in nannies.items() if nanny.status.name in ("closed", "failed")]:
            nannies.pop(name, None)
        if len(nannies) < self.count:
            self.cluster.scale(self.count)

    def kill(self) -> None:
        """End the worker processes. Closing the cluster would wait for running tasks."""
        for nanny in self.cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(nanny.pid, signal.SIGKILL)


class DaskWorkers:
    """Runs tasks on the workers of a Dask scheduler that pass the preflight, one at a time on each.

    Workers may come and go. A task whose worker dies runs again on another, up to three times.
    """

    def __init__(self, client: Any, needs: Needs, note: Note, own: Own | None = None) -> None:
        self._client, self._needs, self._note, self._own = client, needs, note, own
        self._events: queue.SimpleQueue[Callable[[], Outcome | None]] = queue.SimpleQueue()
        self._workers: dict[str, _Worker] = {}  # by address
        self._waiting: deque[_Job] = deque()
        self._said: set[str] = set()
        self._alone_since, self._said_of = time.monotonic(), -1
        self._token, self._closed = uuid.uuid4().hex, False
        needs.write(self._token)
        client.subscribe_topic("all", self._heard)
        for address in client.nthreads():  # one that comes meanwhile is checked twice
            self._joined(address)

    @property
    def slots(self) -> int:
        return self._own.count if self._own else len(self._passed())

    def wait_for_one(self, stopped: Callable[[], bool]) -> tuple[Device, Precision]:
        """Wait until a worker has passed, and a little for those that are being checked.

        Returns where they run tasks, and what ``precision = "auto"`` means there.

        Raises:
            Interrupted: the user asked to stop.
        """
        until = None
        while until is None or (self._checking() and time.monotonic() < until):
            if stopped():
                raise Interrupted
            self.wait(0.2)
            if self._passed() and until is None:
                until = time.monotonic() + PREFLIGHT_S
        return self._needs.device or "cpu", self._needs.precision or "float32"

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        self._waiting.append(_Job(key, task, arguments))
        self._assign()

    def wait(self, timeout: float) -> Outcome | None:
        self._say_that_it_waits()
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            self._check_connection()
            if self._own is not None:
                self._own.replace_closed()
            return None
        outcome = event()
        self._assign()
        return outcome

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            self._needs.shared.unlink(missing_ok=True)
        if self._own is not None:
            self._own.kill()
        with suppress(Exception):  # the connection may be what failed
            self._client.unsubscribe_topic("all")
            self._client.close(timeout=2)  # the scheduler then releases the tasks, and the workers drop them
        if self._own is not None:
            with suppress(Exception):  # on a busy machine it takes longer: its processes have been killed
                self._own.cluster.close(timeout=5)

    def _heard(self, event: tuple[float, Any]) -> None:
        """What the scheduler says. Called in a thread of Dask's; what follows is done in `wait`."""
        message = event[1]
        if isinstance(message, dict) and "worker" in message:
            match message.get("action"):
                case "add-worker":
                    self._events.put(partial(self._joined, message["worker"]))
                case "remove-worker":
                    self._events.put(partial(self._left, message["worker"], bool(message.get("expected"))))

    def _joined(self, address: str) -> None:
        check, arguments = preflight(self._needs, self._token)
        key = f"preflight-{uuid.uuid4().hex}"
        future = self._client.submit(check, *arguments, key=key, workers=[address], pure=False)
        self._workers[address] = _Worker(future)
        future.add_done_callback(lambda _: self._events.put(partial(self._checked, address, future)))

    def _left(self, address: str, expected: bool) -> Outcome | None:
        worker = self._workers.pop(address, None)
        if worker is None:
            return None
        if worker.passed and not self._passed() and self._own is None:
            self._note("all workers are lost")
            self._alone_since = 0.0
        return self._again(worker.job, died=not expected) if worker.job else None

    def _checked(self, address: str, future: Any) -> None:
        worker = self._workers.get(address)
        if worker is None or worker.preflight is not future or future.status not in ("finished", "error"):
            return  # it has left, or another process has its address now
        ended = future.status
        try:
            found = future.result(timeout=FETCH_S)
        except Exception as error:
            if ended == "finished":  # its worker is slow, or died before it handed the result over, and `_left` follows
                self._joined(address)
                return
            reason = str(error).splitlines() or [""]
            found = LeftOut(address, f"its check failed: {type(error).__name__}: {reason[0]}")
        if isinstance(found, Passed) and (lacking := lacks(self._needs, found)):  # another may have decided meanwhile
            found = LeftOut(found.host, lacking)
        worker.checking = False
        if isinstance(found, Passed):
            self._admit(worker, found)
            return
        if not isinstance(found, LeftOut):
            found = LeftOut(*found)
        if self._own is not None:
            raise EngineError(f"the workers cannot be used: {found.reason}")
        self._say(f"workers on {found.host} are left out: {found.reason}", f" ({address})")

    def _admit(self, worker: _Worker, found: Passed) -> None:
        device: Device = "cuda" if found.gpus else "cpu"
        self._needs = replace(
            self._needs, device=self._needs.device or device, precision=self._needs.precision or found.precision
        )
        worker.rank = free_rank(found, [(other.passed, other.rank) for other in self._passed() if other.passed])
        worker.passed, self._said_of = found, -1
        if found.threads > 1:
            self._say(
                f"one epoch at a time per process: workers of {found.threads} threads use one of them; "
                "start more workers, with --nthreads 1"
            )

    def _assign(self) -> None:
        """Give the waiting tasks to idle workers."""
        for address, worker in self._workers.items():
            if not self._waiting:
                return
            if worker.passed and worker.job is None:
                worker.job = self._waiting.popleft()
                self._start(address, worker, worker.passed, worker.job)

    def _start(self, address: str, worker: _Worker, passed: Passed, job: _Job) -> None:
        from dask.base import annotate

        from pipeline.workers.inside import EXECUTOR, run_task

        gpu = worker.rank % passed.gpus if self._needs.device == "cuda" else None
        key = f"{job.key}-{uuid.uuid4().hex}"  # one that is submitted again is a new task to the scheduler
        self._check_connection()
        with annotate(executor=EXECUTOR):
            job.future = self._client.submit(
                run_task, key, gpu, job.task, job.arguments, key=key, workers=[address], pure=False
            )
        self._watch(address, job, job.future)

    def _watch(self, address: str, job: _Job, future: Any) -> None:
        future.add_done_callback(lambda _: self._events.put(partial(self._ended, address, job, future)))

    def _ended(self, address: str, job: _Job, future: Any) -> Outcome | None:
        from distributed import KilledWorker

        worker = self._workers.get(address)
        if worker is None or worker.job is not job or job.future is not future:
            return None  # it has left, and the task was given to another
        match future.status:
            case "finished":
                worker.job = None
                try:
                    return Returned(job.key, future.result(timeout=FETCH_S))
                except Exception:  # the worker died before it handed the result over
                    self._check_connection()
                    return self._again(job, died=True)
            case "error":
                error = future.exception(timeout=FETCH_S)
                if isinstance(error, KilledWorker):
                    return None  # `_left` follows
                worker.job = None
                return Raised(job.key, error)
            case "cancelled":
                raise self._lost()
            case _:  # the result was lost; Dask computes it again, unless the worker was lost as well
                time.sleep(0.1)  # a lost future calls back at once, until it is pending
                self._watch(address, job, future)
                return None

    def _again(self, job: _Job, died: bool) -> Outcome | None:
        """Run a task again before all others; it is given up when it has lost its worker too often."""
        job.future, job.deaths = None, job.deaths + died
        if job.deaths >= DEATHS:
            return Lost(job.key, f"its worker died {DEATHS} times")
        self._waiting.appendleft(job)
        return None

    def _passed(self) -> list[_Worker]:
        return [worker for worker in self._workers.values() if worker.passed]

    def _checking(self) -> bool:
        return any(worker.checking for worker in self._workers.values())

    def _say(self, text: str, more: str = "") -> None:
        """Say something once."""
        if text not in self._said:
            self._said.add(text)
            self._note(text + more)

    def _say_that_it_waits(self) -> None:
        if self._passed():
            self._alone_since = time.monotonic()
            return
        soon = self._checking() and time.monotonic() < self._alone_since + PREFLIGHT_S
        if self._own is None and not soon and self._said_of != len(self._workers):
            self._said_of = len(self._workers)
            self._note(f"Waiting for workers (0 of {self._said_of} passed)")

    def _check_connection(self) -> None:
        if self._client.status != "running":
            raise self._lost()

    def _lost(self) -> EngineError:
        address = self._client.scheduler.address if self._client.scheduler else "?"
        return EngineError(f"the connection to the Dask scheduler at {address} was lost; {RESUME}")
