"""The training losses. Comes in: logits and clean images, ``[N, 1, H, W]``. Goes out: one number to minimise."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.config import TrainConfig
from pipeline.config.choices import parse_loss
from pipeline.data.shapes import Images, Logits
from pipeline.evaluation import metrics


def loss_value(logits: Logits, clean: Images, config: TrainConfig) -> Float[Tensor, ""]:
    """The loss of a batch: the weighted sum that ``config.loss`` names, each term a mean over the batch."""
    terms = parse_loss(config.loss).items()
    return torch.stack([weight * LOSS_FUNCTIONS[name](logits, clean, config) for name, weight in terms]).sum()


# The restored images are the logits' sigmoid.
LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, TrainConfig], Tensor]] = {
    "bce": lambda logits, clean, config: F.binary_cross_entropy_with_logits(logits, clean),
    "mse": lambda logits, clean, config: F.mse_loss(torch.sigmoid(logits), clean),
    "l1": lambda logits, clean, config: F.l1_loss(torch.sigmoid(logits), clean),
    "smooth_l1": lambda logits, clean, config: F.smooth_l1_loss(torch.sigmoid(logits), clean, beta=config.delta),
    "huber": lambda logits, clean, config: F.huber_loss(torch.sigmoid(logits), clean, delta=config.delta),
    "ssim": lambda logits, clean, config: 1 - metrics.ssim(torch.sigmoid(logits), clean).mean(),
}
