"""What passes between the stages: checkpoints by reference, and how an epoch ended. Plain frozen objects, no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

WEIGHTS_FILE = "weights.safetensors"  # of a trained model, beside its export


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint is stored and the sha256 of its bytes."""

    path: str
    sha256: str
    epoch: int


@dataclass(frozen=True)
class EpochResult:
    """One epoch's metrics. Epochs count from 1; ``ended_at`` is in seconds since 1970."""

    epoch: int
    metrics: dict[str, float]
    ended_at: float
    weights_sha256: str = ""  # of the weights file; empty where only the metrics are known


@dataclass(frozen=True)
class Trained:
    """An epoch that was trained and validated; ``panel`` is uint8 ``[rows, columns]``, ``seconds`` the whole task's."""

    checkpoint: Checkpoint
    result: EpochResult
    panel: "np.ndarray"
    seconds: float


@dataclass(frozen=True)
class Failed:
    """An epoch that ended its trial: the loss diverged or memory ran out."""

    reason: str
    seconds: float
