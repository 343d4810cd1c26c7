"""Tasks that the tests of `pipeline.workers` submit. Worker processes import them from this module."""

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


def process_and_number(number: int) -> tuple[int, int]:
    return os.getpid(), number


def raise_checkpoint_error(text: str) -> None:
    raise CheckpointError(text)


def count_page_faults() -> int:
    """Count the page faults of 20 steps that each allocate and free 8 arrays of 4,096 pages."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        step = [torch.ones(2**22) for _ in range(8)]
        del step
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def signal_and_sleep(which: signal.Signals, seconds: float) -> str:
    """Send a signal to this process in the middle of a task, as a terminal or another process would."""
    os.kill(os.getpid(), which)
    time.sleep(seconds)
    return "slept"


def note_and_sleep(folder: Path, seconds: float) -> str:
    """Create a file named after this process, then sleep. If the folder holds a file already, return at once."""
    again = any(folder.iterdir())
    (folder / str(os.getpid())).touch()
    time.sleep(0 if again else seconds)
    return "done"


def kill_the_worker() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_the_worker_afterwards(folder: Path) -> str:
    """Return, and on the first call kill the worker 0.3 s later, before a driver that waits a second has the result."""
    if not any(folder.iterdir()):
        (folder / str(os.getpid())).touch()
        threading.Timer(0.3, kill_the_worker).start()
    return "done"


def beat(file: Path) -> None:
    """Write the time into a file ten times a second, as long as the task runs."""
    while True:
        file.write_text(str(time.time()))
        time.sleep(0.1)
