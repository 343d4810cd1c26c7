"""What runs inside a Dask worker: its admission, and then one task at a time.

The tasks run in an executor of one thread, which exists only in processes that passed the preflight: Dask refuses a
task that names it in any other. Two epochs in one process would share torch's random numbers.
"""

import ctypes
import importlib
import threading
from pathlib import Path
from typing import Any

import torch
from distributed import WorkerPlugin, get_worker
from distributed.threadpoolexecutor import ThreadPoolExecutor

from pipeline.workers.needs import LeftOut, Needs, Passed, objection, this_worker
from pipeline.workers.process import keep_freed_memory
from pipeline.workers.tasks import Task, TaskDropped

EXECUTOR = "one-at-a-time"


class DropReleased(WorkerPlugin):
    """Ends a running task as soon as nobody waits for it: the user pressed Ctrl-C, or the driver died.

    Dask itself lets a running task go on to its end.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: tuple[str, int] | None = None  # key and thread
        self._released: set[str] = set()  # before they began

    def transition(self, key: str, start: str, finish: str, **_: Any) -> None:
        if (start, finish) != ("executing", "released"):
            return
        with self._lock:
            if self._running is not None and self._running[0] == key:
                thread = ctypes.c_ulong(self._running[1])
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TaskDropped))
            else:
                self._released.add(key)

    def run(self, key: str, task: Task, arguments: tuple[Any, ...]) -> Any:
        with self._lock:
            if key in self._released:
                self._released.remove(key)
                raise TaskDropped
            self._running = key, threading.get_ident()
        try:
            return task(*arguments)
        finally:
            with self._lock:
                self._running = None


def admit(needs: dict[str, Any], expected: dict[str, str], token: str) -> Passed | LeftOut:
    """Check this worker and, if all is well, make it ready for tasks."""
    wanted = Needs(**needs | {key: Path(needs[key]) for key in ("shared", "data_dir")})
    worker = get_worker()
    found = this_worker(worker.state.nthreads, wanted.device)
    if reason := objection(wanted, expected, token):
        return LeftOut(found.host, reason)
    # Optimisers import it at their first step; a task that is dropped there would leave half of it.
    importlib.import_module("torch._dynamo")
    keep_freed_memory()  # before the thread is made that allocates
    if EXECUTOR not in worker.executors:  # another study may have made it
        worker.plugins[EXECUTOR] = DropReleased()
        worker.executors[EXECUTOR] = ThreadPoolExecutor(1)
    return found


def run_task(key: str, gpu: int | None, task: Task, arguments: tuple[Any, ...]) -> Any:
    """Run a task on this worker, on this one of the GPUs that it sees."""
    if gpu is not None:
        torch.cuda.set_device(gpu)
    return get_worker().plugins[EXECUTOR].run(key, task, arguments)
