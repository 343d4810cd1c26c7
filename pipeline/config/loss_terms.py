"""The training loss as a study file writes it: one loss, or a sum such as ``bce + 0.2 ssim``."""

from __future__ import annotations

import re
from functools import lru_cache

from pipeline.config.choices import LOSSES
from pipeline.config.messages import hint

TERM = re.compile(r"(?:([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?) )?([a-z][a-z0-9_]*)")
FORM = "a loss, or a sum such as 'bce + 0.2 ssim'"


@lru_cache(maxsize=256)
def parse_loss(text: str) -> dict[str, float]:
    """Weights by the names of the losses, in the order written; a term without a weight has 1.

    Args:
        text: ``[WEIGHT] LOSS [+ [WEIGHT] LOSS]…``, with single spaces.

    Raises:
        ValueError: an unknown loss, a loss that occurs twice, a weight not above 0, or another form.
    """
    weights: dict[str, float] = {}
    for term in text.split(" + "):
        found = TERM.fullmatch(term)
        if found is None:
            raise ValueError(f"must be {FORM}; {_short(term)} is neither a loss nor a weight and a loss")
        weight, name = float(found[1] or 1), found[2]
        if name not in LOSSES:
            raise ValueError(f"{_short(name)} is not a loss; allowed: {', '.join(LOSSES)}{hint(name, LOSSES, False)}")
        if name in weights:
            raise ValueError(f"{name} occurs twice in the sum")
        if not 0 < weight <= 1e6:
            raise ValueError(f"the weight of {name} must be above 0 and at most 1e6")
        weights[name] = weight
    return weights


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else text[:29] + "…")
