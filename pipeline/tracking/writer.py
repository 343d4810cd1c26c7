"""MLflow is written on threads of the driver, so that no worker waits for it.

Comes in: jobs, each on a lane. Goes out: in order within a lane (one run), side by side across lanes. The first error
ends the writing and is raised where the driver asks. Threads end with the process: what was not written is replayed
from checkpoints by the next one. May not import torch.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NoReturn, TypeVar

from pipeline.errors import Interrupted
from pipeline.home import Home
from pipeline.tracking.store import GUARD

T = TypeVar("T")
SERVER_THREADS = 4  # an HTTP server takes several requests at a time; a sqlite file has one writer
TICK_S, SAY_S = 0.2, 5.0
GRACE_S = 5.0  # what waits is written so long after the user asked to stop

Job = tuple[Callable[[], Any], Callable[[Any], object] | None]


class Writer:
    """A queue of jobs. All methods are called by one thread, the driver's."""

    def __init__(self, home: Home, guard: Callable[[], None], stopped: Callable[[], bool]) -> None:
        """``guard`` is called before each request to MLflow: it raises where this process may not write any more."""
        self._guard, self._stopped = guard, stopped
        self._lanes: dict[Hashable, deque[Job]] = {}  # the first of a lane's jobs may be running
        self._ready: deque[Hashable] = deque()  # lanes of which no job is running
        self._done: deque[Callable[[], object]] = deque()
        self._state = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False
        count = 1 if home.local_tracking else SERVER_THREADS
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def put(self, lane: Hashable, job: Callable[[], T], then: Callable[[T], object] | None = None) -> None:
        """Do a job after those before it on its lane; ``then`` gets its result, in `step`, on the caller's thread."""
        with self._state:
            jobs = self._lanes.setdefault(lane, deque())
            jobs.append((job, then))
            if len(jobs) == 1:
                self._ready.append(lane)
            self._state.notify_all()

    @property
    def left(self) -> int:
        """How many jobs are not done."""
        with self._state:
            return sum(map(len, self._lanes.values()))

    def step(self) -> None:
        """Do what follows from the jobs that are done. Raises the error that ended the writing."""
        while self._done:
            self._done.popleft()()
        if self._error is not None:
            raise self._error

    def drain(self, say: Callable[[str], None]) -> None:
        """Wait until everything is written; where that takes long, it is said.

        Raises as `step`, and Interrupted if the user asks to stop.
        """
        say_at = time.monotonic() + SAY_S
        while True:
            self.step()
            left = self.left
            if not left and not self._done:
                return
            if self._stopped():
                self.interrupt()
            if time.monotonic() > say_at:
                say(f"waiting until MLflow has all that was trained: {left} left")
                say_at = math.inf
            with self._state:
                if self._lanes and not self._done and self._error is None:
                    self._state.wait(TICK_S)

    def interrupt(self) -> NoReturn:
        """End the writing because the user asks to stop: what takes more than `GRACE_S` is dropped.

        Raises Interrupted, with what a job was waiting for.
        """
        with self._state:
            self._state.wait_for(lambda: not self._lanes or self._closed, GRACE_S)
        self.close()
        self.step()
        raise Interrupted

    def close(self) -> None:
        """End the writing: jobs that run are completed, those that wait are dropped. A second call has no effect."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        GUARD.set(self._guard)
        while True:
            with self._state:
                self._state.wait_for(lambda: self._ready or self._closed)
                if self._closed:
                    return
                lane = self._ready.popleft()
                job, then = self._lanes[lane][0]
            try:
                result = job()
            except BaseException as error:
                with self._state:
                    self._error, self._closed = self._error or error, True
                    self._state.notify_all()
                return
            with self._state:
                jobs = self._lanes[lane]
                jobs.popleft()
                if then is not None:
                    self._done.append(partial(then, result))
                if jobs:
                    self._ready.append(lane)
                else:
                    del self._lanes[lane]
                self._state.notify_all()
