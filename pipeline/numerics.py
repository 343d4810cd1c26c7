"""What every computation that must come out the same again shares: seeds, thread counts, the intensity scale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A seed below 2^63 from numbers and words, well mixed.

    Source:
        numpy.random.SeedSequence, whose hashing is documented as stable.
    """
    numbers = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute on this many threads: sums over other numbers of them differ in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def to_float(images: UInt8[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """uint8 0 … 255 to float32 0 … 1."""
    return images.float().div_(255)
