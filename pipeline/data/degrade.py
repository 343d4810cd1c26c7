"""What is done to an image before the model sees it: noise, or fewer pixels.

Comes in: clean images, float ``[N, 1, H, W]`` in [0, 1]. Goes out: the degraded input, ``[N, 1, h, w]``, h = H
unless the degradation is a downscale. Everything random comes from the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from pipeline.config import Degrade, Downscale
from pipeline.errors import DataError

Images = Float[Tensor, "batch 1 height width"]


def degrade(clean: Images, how: Degrade, generator: Generator) -> Float[Tensor, "batch 1 h w"]:
    """Degrade a batch.

    Args:
        clean: intensities in [0, 1].
        how: the ``[degrade]`` section.
        generator: on the images' device; the same state gives the same result.

    Returns:
        The degraded images; within [0, 1] unless ``clip = false``.
    """
    return DEGRADATIONS[how.kind](clean, how, generator)


def input_size(image_size: tuple[int, int], how: Degrade) -> tuple[int, int]:
    """Height and width of the degraded image.

    Raises:
        DataError: a downscale factor that does not divide the image's sides.
    """
    if not isinstance(how, Downscale):
        return image_size
    height, width = image_size
    if height % how.factor or width % how.factor:
        allowed = [str(f) for f in range(2, min(height, width) + 1) if height % f == 0 and width % f == 0]
        raise DataError(
            f"[degrade] factor = {how.factor} does not divide images of {height} x {width}; "
            f"allowed: {', '.join(allowed) or 'none'}"
        )
    return height // how.factor, width // how.factor


def upscale(images: Float[Tensor, "batch 1 h w"], size: tuple[int, int], method: str = "bicubic") -> Images:
    """Interpolate to ``size`` and clamp to [0, 1]; images that have that size already are only clamped."""
    if images.shape[-2:] != size:
        corners = None if method == "nearest" else False
        images = F.interpolate(images, size=size, mode=method, align_corners=corners)
    return images.clamp(0, 1)


def _randn(like: Tensor, generator: Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _rand(like: Tensor, generator: Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _clipped(images: Tensor, how: Any) -> Tensor:
    return images.clamp_(0, 1) if how.clip else images


def _gaussian(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    return _clipped(_randn(clean, generator).mul_(how.sigma).add_(clean), how)


def _speckle(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    return _clipped(clean + how.sigma * _randn(clean, generator) * clean, how)


def _salt_pepper(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    draw = _rand(clean, generator)
    noisy = torch.where(draw < how.prob / 2, torch.zeros_like(clean), clean)
    return torch.where(draw >= 1 - how.prob / 2, torch.ones_like(clean), noisy)


def _masking(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    return clean * (_rand(clean, generator) >= how.prob)


def _poisson(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    return _clipped(torch.poisson(clean * how.peak, generator=generator) / how.peak, how)


def _downscale(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    size = input_size((clean.shape[-2], clean.shape[-1]), how)  # refuses a factor that would drop the edges
    if how.method == "area":
        return F.avg_pool2d(clean, how.factor)
    return F.interpolate(clean, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


DEGRADATIONS: dict[str, Callable[[Tensor, Any, Generator], Tensor]] = {
    "gaussian": _gaussian,
    "speckle": _speckle,
    "salt_pepper": _salt_pepper,
    "masking": _masking,
    "poisson": _poisson,
    "downscale": _downscale,
}
