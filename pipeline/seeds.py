"""What every computation that must come out the same again shares: seeds, thread counts, the intensity scale."""

from __future__ import annotations

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A seed below 2^63 from numbers and words, well mixed.

    Source:
        numpy.random.SeedSequence, whose hashing is documented as stable.
    """
    numbers = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
