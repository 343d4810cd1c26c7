"""Tasks for the engines; worker processes import them from here."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from pathlib import Path

import torch

from pipeline.errors import CheckpointError


def double(number: int) -> int:
    return 2 * number


def worker_and(number: int) -> tuple[int, int]:
    return os.getpid(), number


def refuse(text: str) -> None:
    raise CheckpointError(text)


def pages_taken_anew() -> int:
    """Pages that the system hands out while 20 steps make and free 8 arrays of 4,096 pages each."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step = [torch.ones(2**22) for _ in range(8)]
        del step
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def signal_and_sleep(which: signal.Signals, seconds: float) -> str:
    """What a terminal or another process does to this one in the middle of a task."""
    os.kill(os.getpid(), which)
    time.sleep(seconds)
    return "slept"


def note_and_sleep(folder: Path, seconds: float) -> str:
    """Leave a file that names this process, then take a while; the second time be quick."""
    again = any(folder.iterdir())
    (folder / str(os.getpid())).touch()
    time.sleep(0 if again else seconds)
    return "done"


def kill_the_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_worker_afterwards(folder: Path) -> str:
    """The first time: return, and die before the result can have been fetched by someone who waits a second."""
    if not any(folder.iterdir()):
        (folder / str(os.getpid())).touch()
        threading.Timer(0.3, kill_the_worker).start()
    return "done"
