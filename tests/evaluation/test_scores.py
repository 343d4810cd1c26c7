"""Scores of a split: summaries, clamping, batches, sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import tiny
import torch
from images import flat, pair
from torch import Generator, Tensor

from pipeline.config.choices import METRICS
from pipeline.config.trial import Gaussian
from pipeline.data import Dataset, Split
from pipeline.data.sets import to_float
from pipeline.errors import ShapeError
from pipeline.evaluation import metrics, scores
from pipeline.evaluation.batches import fixed_batches

GAUSSIAN = Gaussian(kind="gaussian", sigma=0.3)
FUNCTIONS = {name: getattr(metrics, name) for name in ("psnr", "ssim", "mse", "l1", "bce")}


def test_summary_is_the_mean_over_images_of_all_batches() -> None:
    restored, clean = pair(count=7)
    batches = [slice(0, 3), slice(3, 4), slice(4, 7)]
    summary = scores.score((restored[batch], clean[batch]) for batch in batches).summary()
    for name, metric in FUNCTIONS.items():
        assert summary[name] == pytest.approx(metric(restored, clean).double().mean().item(), rel=1e-6)
    assert summary["bce_excess"] == pytest.approx(summary["bce"] - metrics.entropy(clean).mean().item(), rel=1e-4)
    pooled = -10 * math.log10(metrics.mse(restored, clean).mean().item())
    assert summary["psnr"] != pytest.approx(pooled, rel=1e-6)  # which is another number


def test_the_summary_has_every_metric_that_needs_no_judge_in_the_tables_order() -> None:
    restored, clean = pair()
    summary = scores.score(iter([(restored, clean)])).summary()
    assert list(summary) == [name for name, metric in METRICS.items() if not metric.needs_judge]


def test_restored_values_out_of_range_are_clamped_for_every_metric() -> None:
    restored, clean = pair()
    wild = torch.where(restored > 0.9, restored + 5, torch.where(restored < 0.1, restored - 5, restored))
    expected = torch.where(restored > 0.9, 1.0, torch.where(restored < 0.1, 0.0, restored))
    summaries = [scores.score(iter([(x, clean)])).summary() for x in (wild, expected)]
    assert summaries[0] == summaries[1]


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ShapeError, match="no image"):
        scores.score(iter([]))


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda x: x, 1, 1),
        (lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1), 0, 0.9),
        (lambda x: x + 0.3 * torch.randn(x.shape, generator=Generator().manual_seed(0)), 1.1, 100),
        (lambda x: x * 0 + 0.5, 0, 0),
    ],
    ids=["equal", "blurred", "noisy", "flat"],
)
def test_sharpness_is_1_for_equal_images_lower_for_blur_and_higher_for_noise(
    change: Callable[[Tensor], Tensor], low: float, high: float
) -> None:
    clean = to_float(tiny.strokes(10, seed=8).images)
    assert low <= scores.score(iter([(change(clean), clean)])).summary()["sharpness"] <= high


def test_sharpness_of_flat_images_is_nan() -> None:
    assert math.isnan(scores.score(iter([(flat(0.5), flat(0.2))])).summary()["sharpness"])


def test_every_trial_is_scored_under_the_same_noise(seen: Dataset) -> None:
    def mean(purpose: str) -> float:
        torch.manual_seed(torch.seed() % 2**31)
        return scores.evaluate(lambda x: x, seen.val, GAUSSIAN, purpose).summary()["psnr"]

    assert mean("val") == mean("val")
    assert mean("val") != mean("select")


def test_a_large_split_is_scored_in_batches_with_new_noise_in_each() -> None:
    split = Split(torch.full((600, 1, 12, 12), 128, dtype=torch.uint8), torch.zeros(600, dtype=torch.int64))
    batches = list(fixed_batches(split, GAUSSIAN, "val"))
    assert sum(len(clean) for _, clean in batches) == 600
    assert len(batches) > 1
    assert not torch.equal(batches[0][0][0], batches[1][0][0])
    assert len(scores.evaluate(lambda x: x, split, GAUSSIAN, "val").columns["psnr"]) == 600
