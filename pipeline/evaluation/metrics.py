"""The functions behind `pipeline.config.choices.METRICS`.

Comes in: restored and clean images, in [0, 1]. Goes out: columns of one value per image, and summaries of columns.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.config.choices import SSIM_WINDOW
from pipeline.data.shapes import Images, PerImage
from pipeline.errors import ShapeError
from pipeline.evaluation.judge import Judge

MSE_FLOOR = 1e-10  # so that a perfect image has 100 dB
BCE_EPS = 1e-7  # restored intensities are kept this far from 0 and 1 inside the logarithms


def psnr(restored: Images, clean: Images) -> PerImage:
    """Peak signal-to-noise ratio of each image in decibels; 100 where the two are equal.

    ``10 log10(1 / mse)`` with mse over one image's pixels, floored at 1e-10; restored is clamped to [0, 1]. Average it
    over images; averaging mse first gives another number.

    Raises:
        ShapeError: the shapes differ, or the batch is empty.
    """
    return -10 * torch.log10(mse(restored, clean).clamp_min(MSE_FLOOR))


def mse(restored: Images, clean: Images) -> PerImage:
    """Mean squared error of each image, restored clamped to [0, 1]. Raises ShapeError as `psnr` does."""
    _check(restored, clean)
    return (restored.clamp(0, 1) - clean).square().mean((1, 2, 3))


def l1(restored: Images, clean: Images) -> PerImage:
    """Mean absolute error of each image, restored clamped to [0, 1]. Raises ShapeError as `psnr` does."""
    _check(restored, clean)
    return (restored.clamp(0, 1) - clean).abs().mean((1, 2, 3))


def bce(restored: Images, clean: Images) -> PerImage:
    """Binary cross-entropy of each image against its grey targets, in nats per pixel. Raises ShapeError as `psnr` does.

    ``-mean(t ln x + (1 - t) ln(1 - x))`` with restored x kept in [1e-7, 1 - 1e-7]. Its least possible value is not 0
    but the targets' own entropy, `bce_floor`.
    """
    _check(restored, clean)
    x = restored.clamp(BCE_EPS, 1 - BCE_EPS)
    return F.binary_cross_entropy(x, clean, reduction="none").mean((1, 2, 3))


def bce_floor(restored: Images, clean: Images) -> PerImage:  # noqa: ARG001
    """The least `bce` that a restoration can have: the `entropy` of the clean image."""
    return entropy(clean)


def entropy(images: Images) -> PerImage:
    """Mean binary entropy of each image's intensities, in nats per pixel."""
    return torch.special.entr(images).add(torch.special.entr(1 - images)).mean((1, 2, 3))


def ssim(restored: Images, clean: Images) -> PerImage:
    """Structural similarity of each image, at most 1; restored is clamped to [0, 1].

    Gaussian window of 11 x 11, sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, data range 1; averaged over the
    places where the whole window is inside the image (no padding).

    Raises:
        ShapeError: the shapes differ, the batch is empty, or a side is below 11 pixels.

    Source:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE TIP 13(4), 2004; tests compare it with scikit-image's ``structural_similarity``.
    """
    _check(restored, clean)
    height, width = clean.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ShapeError(f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, not {height} x {width}")
    x, y = restored.clamp(0, 1), clean
    stacked = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    mean_x, mean_y, xx, yy, xy = _blur(stacked).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    spread = (xx - mean_x.square()) + (yy - mean_y.square())
    structure = (2 * covariance + c2) / (spread + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (structure * luminance).mean((1, 2))


def restored_gradient(restored: Images, clean: Images) -> PerImage:  # noqa: ARG001
    return gradient_energy(restored)


def clean_gradient(restored: Images, clean: Images) -> PerImage:  # noqa: ARG001
    return gradient_energy(clean)


def gradient_energy(images: Images) -> PerImage:
    """Sum of squared differences between neighbouring pixels, across and down."""
    across = images.diff(dim=-1).square().sum((1, 2, 3))
    return across + images.diff(dim=-2).square().sum((1, 2, 3))


def class_kept(restored: Images, clean: Images, judge: Judge) -> Bool[Tensor, " batch"]:
    """Whether the judge gives the restored image the same class as the clean one."""
    return judge.classify(restored) == judge.classify(clean)


def mean(values: Tensor) -> float:
    """The mean of a column, summed in double precision."""
    return values.double().mean().item()


def difference_of_means(first: Tensor, second: Tensor) -> float:
    """The mean of one column less that of another."""
    return mean(first) - mean(second)


def ratio_of_sums(numerator: Tensor, denominator: Tensor) -> float:
    """The sum of one column over that of another, in double precision; NaN if the second sum is 0."""
    divisor = denominator.double().sum().item()
    return numerator.double().sum().item() / divisor if divisor else math.nan


def _check(restored: Tensor, clean: Tensor) -> None:
    if restored.shape != clean.shape:
        raise ShapeError(f"restored images {tuple(restored.shape)} and clean ones {tuple(clean.shape)} differ in shape")
    if len(clean) == 0:
        raise ShapeError("there is no image to score")


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _windows(side: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "places side"]:
    """The Gaussian window at each of its places along a side."""
    offsets = torch.arange(-(SSIM_WINDOW // 2), SSIM_WINDOW // 2 + 1, device=device, dtype=dtype)
    weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    places = side - SSIM_WINDOW + 1
    rows = F.pad(weights / weights.sum(), (0, places)).repeat(places)  # each row begins one place further
    return rows[: places * side].view(places, side)


def _blur(images: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps h w"]:
    """Gaussian means over full windows: per axis a product of matrices, which is faster than a convolution."""
    down, across = (_windows(side, images.device, images.dtype) for side in images.shape[-2:])
    return down @ (images @ across.T)
