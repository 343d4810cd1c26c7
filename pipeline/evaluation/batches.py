"""A split as a restoration sees it: in batches that are always degraded the same way; and a fixed number of threads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator, Tensor, nn

from pipeline.config import Degrade
from pipeline.data import Split
from pipeline.data.degrade import degrade
from pipeline.data.sets import to_float
from pipeline.seeds import derive_seed

BATCH = 250  # images; so few that their metrics stay in the cache, a quarter faster than with 1,000

Restore = Callable[[Tensor], Tensor]  # degraded [N, 1, h, w] -> restored [N, 1, H, W]


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on ``count`` threads: with another number, sums differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def without_gradients(model: nn.Module) -> Restore:
    """A restoring module as a function from degraded to restored batches, without gradients."""
    return torch.inference_mode()(model.__call__)


def fixed_batches(split: Split, how: Degrade, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(degraded, clean) float batches of a split, always the same: ``purpose`` seeds the noise, drawn on the CPU."""
    generator = Generator().manual_seed(derive_seed(purpose))
    for images in split.images.split(BATCH):
        clean = to_float(images)
        yield degrade(clean, how, generator), clean


def example(split: Split, how: Degrade) -> np.ndarray:
    """Two degraded images, float32 ``[2, 1, h, w]``, with which a model is exported: one would fix the batch size."""
    degraded, _ = next(fixed_batches(split.take(np.arange(2)), how, "example"))
    return degraded.numpy()
