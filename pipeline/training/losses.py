"""The training losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.config.loss_terms import parse_loss
from pipeline.evaluation.metrics import ssim

Logits = Float[Tensor, "batch 1 height width"]
Images = Float[Tensor, "batch 1 height width"]


def loss_value(logits: Logits, clean: Images, config: TrainConfig) -> Float[Tensor, ""]:
    """The loss a trial is trained on: the weighted sum that its ``loss`` names, each a mean over the batch."""
    terms = parse_loss(config.loss).items()
    return torch.stack([weight * LOSSES[name](logits, clean, config) for name, weight in terms]).sum()


def _bce(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, clean)


def _mse(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.mse_loss(torch.sigmoid(logits), clean)


def _l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.l1_loss(torch.sigmoid(logits), clean)


def _smooth_l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.smooth_l1_loss(torch.sigmoid(logits), clean, beta=config.delta)


def _huber(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.huber_loss(torch.sigmoid(logits), clean, delta=config.delta)


def _ssim(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return 1 - ssim(torch.sigmoid(logits), clean).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, TrainConfig], Tensor]] = {
    "bce": _bce,
    "mse": _mse,
    "l1": _l1,
    "smooth_l1": _smooth_l1,
    "huber": _huber,
    "ssim": _ssim,
}
