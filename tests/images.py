"""Small images for the tests of metrics and scores."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def pair(count: int = 6, height: int = 16, width: int = 20, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Restored images in [0, 1] and the clean ones they come from."""
    generator = Generator().manual_seed(0)
    clean = torch.rand(count, 1, height, width, generator=generator)
    restored = (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    return restored, clean


def flat(*levels: float, side: int = 12) -> Tensor:
    """One image of a single intensity a level."""
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 1, side, side).contiguous()
