"""The tiny data set, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from pipeline.data import Dataset, load


@pytest.fixture
def seen(tiny_data: Path) -> Dataset:
    return load(tiny.NAME, tiny_data)
