"""Learning rate schedules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from pipeline.config import TrainConfig
from pipeline.config.trial import applies


def build_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning rate over a trial of ``steps`` steps; ``lr`` is its peak. Momentum is left alone."""
    # An optimiser that sets its own steps takes the rate for its first one only, which no schedule may lower.
    scheduled = applies("lr_scheduler", config.model_dump())
    return SCHEDULERS[config.lr_scheduler if scheduled else "constant"](optimizer, steps)


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    # One step more than is taken, so that the last one is not spent at the schedule's end, where the rate is next to
    # nothing. cycle_momentum would overwrite the trial's own momentum.
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, cycle_momentum=False)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "one_cycle": _one_cycle,
}
