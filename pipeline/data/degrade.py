"""What is done to an image before the model sees it: noise, or fewer pixels.

Comes in: clean images, and a generator, the only source of randomness. Goes out: the degraded images.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipeline.config import Degrade, Downscale
from pipeline.data.shapes import Degraded, Images
from pipeline.errors import DataError


def degrade(clean: Images, how: Degrade, generator: Generator) -> Degraded:
    """Degrade a batch of intensities in [0, 1]; the result is within [0, 1] too, unless ``clip = false``.

    ``generator`` is on the images' device; its state decides the noise.
    """
    degraded = DEGRADATION_FUNCTIONS[how.kind](clean, how, generator)
    return degraded.clamp_(0, 1) if getattr(how, "clip", False) else degraded


def input_size(image_size: tuple[int, int], how: Degrade) -> tuple[int, int]:
    """Height and width of the degraded image. Raises DataError if a downscale factor does not divide the sides."""
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


def upscale(images: Degraded, size: tuple[int, int], method: str = "bicubic") -> Images:
    """Interpolate to ``size`` and clamp to [0, 1]; images of that size are only clamped."""
    return enlarge(images, size, method).clamp(0, 1)


def enlarge(images: Tensor, size: tuple[int, int], method: str = "bicubic") -> Tensor:
    """Interpolate to ``size``; images of that size are returned as they are."""
    if images.shape[-2:] == size:
        return images
    return F.interpolate(images, size=size, mode=method, align_corners=None if method == "nearest" else False)


def _draw(random: Callable[..., Tensor], like: Tensor, generator: Generator) -> Tensor:
    return random(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _salt_pepper(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    draw = _draw(torch.rand, clean, generator)
    noisy = torch.where(draw < how.prob / 2, torch.zeros_like(clean), clean)
    return torch.where(draw >= 1 - how.prob / 2, torch.ones_like(clean), noisy)


def _downscale(clean: Tensor, how: Any, generator: Generator) -> Tensor:
    size = input_size((clean.shape[-2], clean.shape[-1]), how)  # raises if the factor would drop the edges
    if how.method == "area":
        return F.avg_pool2d(clean, how.factor)
    return F.interpolate(clean, size=size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


DEGRADATION_FUNCTIONS: dict[str, Callable[[Tensor, Any, Generator], Tensor]] = {
    "gaussian": lambda clean, how, generator: _draw(torch.randn, clean, generator).mul_(how.sigma).add_(clean),
    "speckle": lambda clean, how, generator: clean + how.sigma * _draw(torch.randn, clean, generator) * clean,
    "salt_pepper": _salt_pepper,
    "masking": lambda clean, how, generator: clean * (_draw(torch.rand, clean, generator) >= how.prob),
    "poisson": lambda clean, how, generator: torch.poisson(clean * how.peak, generator=generator) / how.peak,
    "downscale": _downscale,
}
