"""A short soak; `python tests/soak.py` is the long one."""

from __future__ import annotations

import pytest
import soak


@pytest.mark.long
def test_a_dozen_harms() -> None:
    assert soak.main(["--harms", "12", "--seed", "1"]) == 0
