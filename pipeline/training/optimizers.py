"""The optimizer and the learning rate schedule of a trial, all torch's own."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from pipeline.config import TrainConfig
from pipeline.config.choices import OPTIMIZERS
from pipeline.config.trial import applies


def build_optimizer(config: TrainConfig, parameters: Iterator[nn.Parameter], device: str) -> torch.optim.Optimizer:
    """The trial's optimizer with the settings that apply to it, fused where torch offers that.

    ``weight_decay`` is always passed, so adamw's default here is 0 and not torch's 0.01.
    """
    cls = getattr(torch.optim, OPTIMIZERS[config.optimizer])
    settings = config.model_dump()
    passed_on = ("lr", "weight_decay", "momentum", "amsgrad", "rho")
    arguments: dict[str, Any] = {key: settings[key] for key in passed_on if applies(key, settings)}
    if applies("smoothing", settings):
        arguments["alpha"] = config.smoothing
    if applies("beta1", settings):
        arguments["betas"] = (config.beta1, config.beta2)
    if applies("nesterov", settings):
        arguments["nesterov"] = config.nesterov and config.momentum > 0  # without momentum the two steps are one
    fused = "fused" in inspect.signature(cls).parameters
    if fused and not (device == "cuda" and config.optimizer == "adagrad"):  # fused on the CPU only
        arguments["fused"] = True
    return cls(parameters, **arguments)


def build_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning rate over the ``steps`` steps of a trial; ``lr`` is its peak. Momentum is left unchanged."""
    # rprop uses the rate for its first step only; no schedule may lower it.
    scheduled = applies("lr_scheduler", config.model_dump())
    return SCHEDULER_FUNCTIONS[config.lr_scheduler if scheduled else "constant"](optimizer, steps)


SCHEDULER_FUNCTIONS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    # One step longer than the trial: the schedule's last step has a rate near 0 and would be wasted.
    # cycle_momentum would overwrite the trial's own momentum.
    "one_cycle": lambda optimizer, steps: OneCycleLR(
        optimizer, max_lr=optimizer.defaults["lr"], total_steps=steps + 1, cycle_momentum=False
    ),
}
