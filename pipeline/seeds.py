"""Seeds for everything that is drawn at random. Imports nothing of the project."""

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A seed below 2^63 from numbers and words; other parts give an unrelated seed, as SeedSequence documents."""
    numbers = [part if isinstance(part, int) else int.from_bytes(part.encode(), "little") for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]) >> 1
