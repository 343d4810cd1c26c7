"""What a worker must share with the driver before it gets its first task.

Comes in: `Needs`, and the process that is asked. Goes out: `Passed`, or `LeftOut` with what to do about it.
"""

import itertools
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.choices import QUICK_BFLOAT16, Precision
from pipeline.errors import DataError
from pipeline.provenance import versions
from pipeline.workers.machine import Device, device_here, precision_here


@dataclass(frozen=True)
class Needs:
    """What every worker must share with the driver."""

    shared: Path  # a file of the home, which the driver writes and the workers read
    dataset: str
    data_dir: Path
    digest: str  # of the data set
    device: Device | None  # None: what the first worker has
    precision: Precision | None  # what ``auto`` means; None: what it means on the first worker

    def write(self, token: str) -> None:
        """Write the file by which a worker sees that its home is this one."""
        self.shared.parent.mkdir(parents=True, exist_ok=True)
        self.shared.write_text(token)


@dataclass(frozen=True)
class Passed:
    """A worker that may have tasks."""

    host: str
    threads: int
    gpus: int
    visible: str | None  # CUDA_VISIBLE_DEVICES
    precision: Precision = "float32"  # what ``auto`` means there


@dataclass(frozen=True)
class LeftOut:
    """A worker that may not, and why."""

    host: str
    reason: str


def objection(needs: Needs, expected: dict[str, str], token: str) -> str | None:
    """Why this process may not run tasks: what is wrong and what to do; None where all is well."""
    from pipeline.data import load  # here, so that workers can be started before torch is imported

    own = versions()
    if different := [
        f"{name} {own[name]}, not {version}" for name, version in expected.items() if own[name] != version
    ]:
        return f"it has {', '.join(different)}; install the same versions there"
    try:
        same = needs.shared.read_text() == token and os.access(needs.shared.parent, os.W_OK)
    except (OSError, ValueError):
        same = False
    if not same:
        home = needs.shared.parent.parent
        return f"its {home} is another folder, or cannot be written; share the home, under the same path"
    try:
        digest = load(needs.dataset, needs.data_dir).digest
    except (DataError, OSError) as error:
        return f"its data set cannot be used: {error}"
    if digest != needs.digest:
        return f"its files of {needs.dataset} differ from the driver's; give it the same ones"
    return None


def lacks(needs: Needs, worker: Passed) -> str | None:
    """What a worker's hardware lacks for the study, and what to do; None where all is well."""
    if needs.device == "cuda" and not worker.gpus:
        return "torch sees no CUDA device there, and the study is one of cuda; use only workers with GPUs"
    if needs.precision == "bfloat16" and worker.precision != "bfloat16":
        return f"it is not quick at bfloat16, in which the study trains; use only machines {QUICK_BFLOAT16}"
    return None


def this_worker(threads: int, device: Device | None) -> Passed:
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    precision = precision_here(device or device_here("auto"))
    return Passed(socket.gethostname(), threads, gpus, os.environ.get("CUDA_VISIBLE_DEVICES"), precision)


def free_rank(worker: Passed, others: Iterable[tuple[Passed, int]]) -> int:
    """The lowest rank on its host that no other worker has. Its GPU is the rank modulo the number of GPUs.

    Workers that see different GPUs (dask-cuda gives each its own CUDA_VISIBLE_DEVICES) are not counted together:
    each of them has rank 0, and so the first GPU that it sees.
    """
    taken = {rank for other, rank in others if (other.host, other.visible) == (worker.host, worker.visible)}
    return next(rank for rank in itertools.count() if rank not in taken)
