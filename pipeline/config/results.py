"""What passes between the stages: checkpoints by reference, and what an epoch showed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpochResult:
    """What one epoch showed. Epochs count from 1; ``ended_at`` is in seconds since 1970."""

    epoch: int
    metrics: dict[str, float]
    ended_at: float


@dataclass(frozen=True)
class LegResult:
    """What a leg returns: a checkpoint with its epoch and panel, or else the reason why the trial cannot go on."""

    checkpoint: Checkpoint | None
    epoch: EpochResult | None
    panel: np.ndarray | None
    failure: str | None
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """Where a checkpoint lies and what its bytes must hash to."""

    path: str
    sha256: str
    epoch: int
