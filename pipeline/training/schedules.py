"""Learning rate schedules.

Comes in: the ``[train]`` section of a trial, its optimizer and its number of steps. Goes out: a scheduler of torch,
to be called after every step of the optimizer. Imports neither optuna nor mlflow nor distributed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from pipeline.config import TrainConfig
from pipeline.config.trial import applies


def build_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning rate over the ``steps`` steps of a trial; ``lr`` is its peak. Momentum is left unchanged."""
    # rprop uses the rate for its first step only; no schedule may lower it.
    scheduled = applies("lr_scheduler", config.model_dump())
    return SCHEDULER_FUNCTIONS[config.lr_scheduler if scheduled else "constant"](optimizer, steps)


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    # One step longer than the trial: the schedule's last step has a rate near 0 and would be wasted.
    # cycle_momentum would overwrite the trial's own momentum.
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, cycle_momentum=False)


SCHEDULER_FUNCTIONS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "one_cycle": _one_cycle,
}
