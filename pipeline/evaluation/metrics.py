"""Image metrics, one value per image."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from pipeline.errors import ShapeError

Images = Float[Tensor, "batch 1 height width"]
PerImage = Float[Tensor, " batch"]

MSE_FLOOR = 1e-10  # a perfect image counts 100 dB
BCE_EPS = 1e-7  # restored intensities are kept this far from 0 and 1 inside the logarithms


def psnr(restored: Images, clean: Images) -> PerImage:
    """Peak signal-to-noise ratio of each image.

    ``10 log10(1 / mse)`` with mse over one image's pixels, floored at 1e-10. Average it over images; averaging mse
    first gives another number.

    Args:
        restored: intensities in [0, 1]; values outside are clamped.
        clean: the same shape and scale.

    Returns:
        Decibels, one an image, higher is better; 100 where the two are equal.

    Raises:
        ShapeError: the shapes differ, or the batch is empty.

    Source:
        The usual definition; tests compare it with scikit-image's ``peak_signal_noise_ratio``.
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
    """Binary cross-entropy of each image against its grey targets.

    ``-mean(t ln x + (1 - t) ln(1 - x))`` with restored x kept in [1e-7, 1 - 1e-7]. Its least possible value is not 0
    but the targets' own entropy, `entropy`.

    Returns:
        Nats a pixel, one an image, lower is better.

    Raises:
        ShapeError: the shapes differ, or the batch is empty.
    """
    _check(restored, clean)
    x = restored.clamp(BCE_EPS, 1 - BCE_EPS)
    return F.binary_cross_entropy(x, clean, reduction="none").mean((1, 2, 3))


def entropy(clean: Images) -> PerImage:
    """The floor of `bce`: mean binary entropy of each image's own intensities, nats a pixel."""
    return torch.special.entr(clean).add(torch.special.entr(1 - clean)).mean((1, 2, 3))


def ssim(restored: Images, clean: Images) -> PerImage:
    """Structural similarity of each image.

    Gaussian window of 11 x 11, sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, data range 1; averaged over the
    places where the whole window lies inside the image (no padding).

    Args:
        restored: intensities in [0, 1], clamped; sides of at least 11 pixels.
        clean: the same shape and scale.

    Returns:
        One an image, at most 1, higher is better.

    Raises:
        ShapeError: the shapes differ, the batch is empty, or a side is below 11 pixels.

    Source:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE TIP 13(4), 2004; tests compare it with scikit-image's ``structural_similarity``.
    """
    _check(restored, clean)
    if min(clean.shape[-2:]) < 11:
        raise ShapeError(f"SSIM needs images of at least 11 x 11 pixels, not {clean.shape[-2]} x {clean.shape[-1]}")
    x, y = restored.clamp(0, 1), clean
    stacked = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    mean_x, mean_y, xx, yy, xy = _blur(stacked).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    spread = (xx - mean_x.square()) + (yy - mean_y.square())
    structure = (2 * covariance + c2) / (spread + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (structure * luminance).mean((1, 2))


def gradient_energy(images: Images) -> PerImage:
    """Sum of squared differences between neighbouring pixels, across and down."""
    across = images.diff(dim=-1).square().sum((1, 2, 3))
    return across + images.diff(dim=-2).square().sum((1, 2, 3))


def _check(restored: Tensor, clean: Tensor) -> None:
    if restored.shape != clean.shape:
        raise ShapeError(f"restored images {tuple(restored.shape)} and clean ones {tuple(clean.shape)} differ in shape")
    if len(clean) == 0:
        raise ShapeError("there is no image to score")


@lru_cache(maxsize=4)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    offsets = torch.arange(-5, 6, device=device, dtype=dtype)
    weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    return weights / weights.sum()


def _blur(images: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps h w"]:
    """Gaussian means over full windows, one axis after the other, as 11 shifted sums: quicker than a convolution."""
    weights = _window(images.device, images.dtype).tolist()
    for axis in (-1, -2):
        length = images.shape[axis] - 10
        total = images.narrow(axis, 0, length) * weights[0]
        for offset in range(1, 11):
            total.add_(images.narrow(axis, offset, length), alpha=weights[offset])
        images = total
    return images
