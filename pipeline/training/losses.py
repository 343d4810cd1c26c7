"""The training losses. Comes in: logits and clean images, ``[N, 1, H, W]``. Goes out: one number to minimise."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.config import TrainConfig
from pipeline.config.choices import parse_loss
from pipeline.data.shapes import Images, Logits
from pipeline.evaluation import metrics


def loss_value(logits: Logits, clean: Images, config: TrainConfig) -> Float[Tensor, ""]:
    """The loss of a batch: the weighted sum that ``config.loss`` names, each term a mean over the batch."""
    terms = parse_loss(config.loss).items()
    return torch.stack([weight * LOSS_FUNCTIONS[name](logits, clean, config) for name, weight in terms]).sum()


class _BCE(torch.autograd.Function):
    """torch's ``binary_cross_entropy_with_logits``: the same gradient to the last bit, in less time.

    torch's takes log1p(exp(-|x|)) one pixel after another; this is -ln max(s, 1 - s) with s = sigmoid(x), which the
    gradient needs too.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, clean: Tensor) -> Tensor:
        restored = torch.sigmoid(logits)
        ctx.save_for_backward(restored, clean)
        softplus = torch.maximum(restored, 1 - restored).log_().neg_().add_(logits.clamp_min(0))
        return softplus.addcmul_(logits, clean, value=-1).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        restored, clean = ctx.saved_tensors
        return (restored - clean).mul_(gradient).div_(clean.numel()), None


# The restored images are the logits' sigmoid.
LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor, TrainConfig], Tensor]] = {
    "bce": lambda logits, clean, config: _BCE.apply(logits, clean),
    "mse": lambda logits, clean, config: F.mse_loss(torch.sigmoid(logits), clean),
    "l1": lambda logits, clean, config: F.l1_loss(torch.sigmoid(logits), clean),
    "smooth_l1": lambda logits, clean, config: F.smooth_l1_loss(torch.sigmoid(logits), clean, beta=config.delta),
    "huber": lambda logits, clean, config: F.huber_loss(torch.sigmoid(logits), clean, delta=config.delta),
    "ssim": lambda logits, clean, config: 1 - metrics.ssim(torch.sigmoid(logits), clean).mean(),
}
