"""Optimizers, all of them torch's own.

Comes in: the ``[train]`` section of a trial and the model's parameters. Goes out: an optimizer of torch. Imports
neither optuna nor mlflow nor distributed.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainConfig
from pipeline.config.choices import OPTIMIZERS
from pipeline.config.trial import applies

# Keys of ``[train]`` that are passed on unchanged, with torch's name of the argument.
ARGUMENTS = {
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "amsgrad": "amsgrad",
    "smoothing": "alpha",
    "rho": "rho",
}


def build_optimizer(config: TrainConfig, parameters: Iterator[nn.Parameter], device: str) -> torch.optim.Optimizer:
    """The trial's optimizer with the settings that apply to it, fused where torch offers that.

    ``weight_decay`` is always passed, so adamw's default here is 0 and not torch's 0.01.
    """
    cls = getattr(torch.optim, OPTIMIZERS[config.optimizer])
    accepted = inspect.signature(cls).parameters
    settings = config.model_dump()
    arguments: dict[str, Any] = {"lr": config.lr}
    for key, argument in ARGUMENTS.items():
        if applies(key, settings):
            arguments[argument] = settings[key]
    if applies("beta1", settings):
        arguments["betas"] = (config.beta1, config.beta2)
    if applies("nesterov", settings):
        arguments["nesterov"] = config.nesterov and config.momentum > 0  # without momentum the two steps are one
    if "fused" in accepted and not (device == "cuda" and config.optimizer == "adagrad"):  # fused on the CPU only
        arguments["fused"] = True
    return cls(parameters, **arguments)
