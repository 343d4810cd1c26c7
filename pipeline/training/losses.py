"""The training losses.

Comes in: logits and clean images, ``[N, 1, H, W]``. Goes out: one number to minimise, with its gradient. Imports
neither optuna nor mlflow nor distributed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.config.choices import LOSSES, parse_loss
from pipeline.data.shapes import Images, Logits
from pipeline.evaluation import metrics


def loss_value(logits: Logits, clean: Images, config: TrainConfig) -> Float[Tensor, ""]:
    """The loss of a batch: the weighted sum that ``config.loss`` names, each term a mean over the batch."""
    terms = parse_loss(config.loss).items()
    return torch.stack([weight * LOSS_FUNCTIONS[name](logits, clean, config) for name, weight in terms]).sum()


def bce(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, clean)


def mse(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.mse_loss(torch.sigmoid(logits), clean)


def l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.l1_loss(torch.sigmoid(logits), clean)


def smooth_l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.smooth_l1_loss(torch.sigmoid(logits), clean, beta=config.delta)


def huber(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.huber_loss(torch.sigmoid(logits), clean, delta=config.delta)


def ssim(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return 1 - metrics.ssim(torch.sigmoid(logits), clean).mean()


# The function of each loss has the loss's name.
LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, TrainConfig], Tensor]] = {name: globals()[name] for name in LOSSES}
