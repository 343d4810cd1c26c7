"""Shape checks for every tensor that the project's functions take and give, and a study small enough to test with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = ("data", "epoch", "evaluation", "training")

with install_import_hook([f"pipeline.{name}" for name in CHECKED], "beartype.beartype"):
    import tiny

    from pipeline.config import TrialConfig
    from pipeline.data import LOADERS

settings.register_profile("any machine", deadline=None)  # a busy machine slows correct code
settings.load_profile("any machine")
torch.set_num_threads(1)  # on tensors this small a second thread only waits, for long on a busy machine

TINY_STUDY = """
name = "tiny"
dataset = "mnist-5k"

[degrade]
kind = "gaussian"
sigma = 0.5

[budget]
trials = 3
epochs = 2
concurrency = 2

[model]
depth = 2
bottleneck = [16, 32]

[train]
lr = { low = 1e-3, high = 1e-2, log = true }
batch_size = 256
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of each slow test `.ci/run` runs the first case: mark the others as long."""
    seen = set()
    for item in items:
        if item.get_closest_marker("slow"):
            test = item.nodeid.partition("[")[0]
            if test in seen:
                item.add_marker("long")
            seen.add(test)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder to give with the data set `tiny.NAME`, which this adds to those that can be loaded."""
    tiny.register()
    yield tmp_path_factory.mktemp("data")
    del LOADERS[tiny.NAME]


@pytest.fixture(scope="session")
def tiny_trial(tiny_data: Path) -> TrialConfig:  # noqa: ARG001
    """A trial of two epochs on the tiny data set."""
    return tiny.trial()


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study file of three trials on the embedded digits, each of two epochs."""
    path = tmp_path_factory.mktemp("studies") / "tiny.toml"
    path.write_text(TINY_STUDY)
    return path
