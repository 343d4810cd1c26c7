"""Baselines against NumPy and torch, and how they are scored."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Generator

from pipeline.config.choices import METRICS
from pipeline.config.trial import Downscale, Gaussian
from pipeline.data import Dataset, Split
from pipeline.evaluation import baselines, scores
from pipeline.evaluation.batches import fixed_batches, threads
from pipeline.results.summary import LABELS

GAUSSIAN = Gaussian(kind="gaussian", sigma=0.3)
HALVED = Downscale(kind="downscale", factor=2)


def blobs(count: int, seed: int, side: int = 12) -> Split:
    """Smooth images, so that there is something for a linear map to learn."""
    rough = torch.rand(count, 1, 4, 4, generator=Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size=side, mode="bilinear")
    return Split((smooth * 255).to(torch.uint8), torch.arange(count) % 10)


@pytest.fixture
def smooth() -> Dataset:
    return Dataset("smooth", "0", blobs(600, 1), blobs(40, 2), blobs(40, 3), 0)


@pytest.mark.parametrize("how", [GAUSSIAN, HALVED], ids=lambda how: how.kind)
def test_the_linear_baseline_is_the_least_squares_map(smooth: Dataset, how: Any) -> None:
    batches = list(fixed_batches(smooth.train, how, "baseline"))
    x = torch.cat([degraded for degraded, _ in batches]).flatten(1).double().numpy()
    y = torch.cat([clean for _, clean in batches]).flatten(1).double().numpy()
    weights, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    restore = baselines.baseline("linear", smooth, how)
    for degraded, clean in fixed_batches(smooth.val, how, "val"):
        inputs = degraded.flatten(1).double().numpy()
        expected = (np.column_stack([inputs, np.ones(len(inputs))]) @ weights).clip(0, 1)
        restored = restore(degraded)
        assert restored.shape == clean.shape
        assert np.allclose(restored.flatten(1).numpy(), expected, atol=2e-3)


def test_the_linear_baseline_accepts_constant_pixels(seen: Dataset) -> None:
    restore = baselines.baseline("linear", seen, HALVED)
    found = scores.evaluate(restore, seen.val, HALVED, "val")
    assert found.columns["psnr"].isfinite().all()


@pytest.mark.parametrize(
    ("how", "names"), [(GAUSSIAN, ["degraded", "linear"]), (HALVED, ["bicubic", "linear"])], ids=["noise", "downscale"]
)
def test_the_linear_baseline_beats_the_trivial_one(smooth: Dataset, how: Any, names: list[str]) -> None:
    assert baselines.baseline_names(how, smooth.image_size) == names
    trivial, linear = (
        scores.evaluate(baselines.baseline(name, smooth, how), smooth.val, how, "val").summary()["psnr"]
        for name in names
    )
    assert linear > trivial + 1


def test_the_trivial_baselines_clamp_or_enlarge(smooth: Dataset) -> None:
    noisy = torch.rand(2, 1, 12, 12, generator=Generator().manual_seed(0)) * 2 - 0.5
    assert torch.equal(baselines.baseline("degraded", smooth, GAUSSIAN)(noisy), noisy.clamp(0, 1))
    small = torch.rand(2, 1, 6, 6, generator=Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(small, size=(12, 12), mode="bicubic").clamp(0, 1)
    assert torch.equal(baselines.baseline("bicubic", smooth, HALVED)(small), enlarged)


def test_the_bicubic_baseline_has_the_kernel_that_its_name_says(smooth: Dataset) -> None:
    """Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 1981, with a = -0.75."""
    [a] = map(float, re.findall(r"a = (-[0-9.]+)", LABELS["bicubic"]))
    x = ((torch.arange(12) + 0.5) / 2 - 0.5 - 3).abs()  # the distances of the enlarged places from input place 3
    near, far = (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4)
    kernel = torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros(())))
    line = torch.full((1, 1, 6, 6), 0.5)
    line[..., 3] += 0.4
    enlarged = baselines.baseline("bicubic", smooth, HALVED)(line)
    torch.testing.assert_close(enlarged, (0.5 + 0.4 * kernel).expand(1, 1, 12, 12))


@pytest.mark.parametrize("how", [GAUSSIAN, HALVED], ids=lambda how: how.kind)
def test_baselines_are_scored_like_trials_on_any_number_of_threads(how: Any, tiny_data: Path) -> None:
    for name in baselines.baseline_names(how, (tiny.SIDE, tiny.SIDE)):
        with threads(1):
            figures, picture = baselines.baseline_scores(name, tiny.NAME, how, tiny_data)
        with threads(2):
            again, same_picture = baselines.baseline_scores(name, tiny.NAME, how, tiny_data)
            assert torch.get_num_threads() == 2
        assert figures == again
        assert {f"val/{metric}" for metric in METRICS if metric != "class_kept"} <= figures.keys()
        assert np.array_equal(picture, same_picture)
