"""Tasks in this process: one after another, dropped by signals, with an allocator that keeps what they free."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any

from pipeline.workers.tasks import Outcome, Raised, Returned, Task, TaskDropped

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# By mallopt(3)'s parameters: the variable of the same meaning, and the value. Freed arrays up to a GiB are kept.
MALLOPT = {
    -8: ("MALLOC_ARENA_MAX", 1),
    -3: ("MALLOC_MMAP_THRESHOLD_", 2**30),
    -1: ("MALLOC_TRIM_THRESHOLD_", 2**30),
}
SET_BY_DASK = ("MALLOC_TRIM_THRESHOLD_", "65536")  # in the workers that it starts


class ThisProcess:
    """Runs tasks in this process, one after another, inside `wait`.

    A task may take minutes. A signal that the program handles (Ctrl-C) makes `wait` drop the task and return at once.
    Nothing but its time is lost: tasks can be repeated, and write files whole or not at all.
    """

    slots = 1

    def __init__(self) -> None:
        self._tasks: deque[tuple[Hashable, Task, tuple[Any, ...]]] = deque()
        keep_freed_memory()

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        self._tasks.append((key, task, arguments))

    def wait(self, timeout: float) -> Outcome | None:
        if not self._tasks:
            time.sleep(timeout)
            return None
        key, task, arguments = self._tasks.popleft()
        try:
            with _dropped_by_signals():
                return Returned(key, task(*arguments))
        except TaskDropped:
            return None
        except Exception as error:  # as it would come back from a worker
            return Raised(key, error)

    def close(self) -> None:
        self._tasks.clear()


def keep_freed_memory() -> None:
    """Have glibc keep the memory that this process frees; without effect with other allocators.

    Every training step allocates and frees the same large arrays. glibc returns freed memory to the system, and with
    Dask's settings more often; allocating it again costs page faults (figures in pipeline/README.md). Variables that
    the user has set win.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for parameter, (name, value) in MALLOPT.items():
            if name not in os.environ or (name, os.environ[name]) == SET_BY_DASK:
                mallopt(parameter, value)


def _dropped_by_signals() -> AbstractContextManager[None]:
    """Make SIGINT and SIGTERM raise `TaskDropped` after the program's own handlers, where it has any."""
    handlers = {which: signal.getsignal(which) for which in STOP_SIGNALS}
    own = {which: handler for which, handler in handlers.items() if callable(handler)}

    def handle(signum: int, frame: FrameType | None) -> None:
        own[signal.Signals(signum)](signum, frame)
        raise TaskDropped

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
