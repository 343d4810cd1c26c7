"""Intervals: against scipy, cases worked by hand, and simulations with a known truth. All seeds are fixed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from pipeline.evaluation.intervals import (
    RESAMPLES,
    Interval,
    bootstrap_interval,
    configurations_interval,
    resamples,
    t_interval,
)

SIMULATIONS = 1_000
RIGHT = (0.93, 0.97)  # the share of simulations in which a 95 % interval may cover the truth


def covers(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def test_t_interval_is_scipy_s() -> None:
    values = np.random.default_rng(1).normal(18.0, 0.04, 5)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = t_interval(values)
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_t_interval_by_hand() -> None:
    """Three figures: mean 2, standard deviation 1, t of 2 degrees of freedom 4.3027: 2 ± 4.3027 / sqrt 3."""
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, -0.48414, 4.48414), abs=1e-5)


def test_one_figure_has_no_interval() -> None:
    found = t_interval([18.5])
    assert found.mean == 18.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_of_seeds_alone_the_configurations_interval_is_welch_s() -> None:
    """Images that do not differ leave the seeds' variance only: scipy's interval of Welch's test."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(18.1, 0.05, 5), rng.normal(18.0, 0.02, 3)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = configurations_interval(a[:, None].repeat(40, 1), b[:, None].repeat(40, 1))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_of_images_alone_the_configurations_interval_is_the_paired_one_s() -> None:
    """Seeds that do not differ leave the variance of the images' differences only."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(18.1, 2, 40), rng.normal(18.0, 2, 40)
    found = configurations_interval(a[None].repeat(3, 0), b[None].repeat(4, 0))
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_configurations_without_any_spread_differ_exactly() -> None:
    found = configurations_interval(np.full((3, 10), 2.0), np.full((3, 10), 1.5))
    assert found == Interval(0.5, 0.5, 0.5)


def test_bootstrap_is_seeded_and_close_to_scipy_s() -> None:
    differences = np.random.default_rng(4).exponential(0.3, 500) - 0.1
    found = bootstrap_interval(differences)
    assert found == bootstrap_interval(differences)
    expected = stats.bootstrap((differences,), np.mean, n_resamples=20_000, method="percentile").confidence_interval
    assert found.mean == pytest.approx(differences.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.002)
    samples = list(resamples(7))
    assert len(samples) == RESAMPLES >= 2_000
    assert all(sample.shape == (7,) and sample.min() >= 0 and sample.max() < 7 for sample in samples)


def test_bootstrap_of_equal_differences_has_no_width() -> None:
    assert bootstrap_interval(np.full(20, 0.25)) == Interval(0.25, 0.25, 0.25)


@pytest.mark.parametrize("count", [3, 5, 16])
def test_t_interval_covers_the_truth(count: int) -> None:
    rng = np.random.default_rng(5)
    found = [t_interval(values) for values in rng.normal(0.1, 0.3, (SIMULATIONS, count))]
    assert RIGHT[0] <= np.mean([covers(interval, 0.1) for interval in found]) <= RIGHT[1]


def test_bootstrap_over_images_covers_the_truth() -> None:
    """The same resamples for all simulations at once: their weights, times the images' differences."""
    rng = np.random.default_rng(6)
    differences = rng.normal(0.1, 0.6, (200, SIMULATIONS))
    weights = np.stack([np.bincount(chosen, minlength=200) for chosen in resamples(200)]) / 200
    low, high = np.quantile(weights @ differences, (0.025, 0.975), axis=0)
    one = bootstrap_interval(differences[:, 0])
    assert (one.low, one.high) == pytest.approx((low[0], high[0]), rel=1e-9), "not what `bootstrap_interval` does"
    assert RIGHT[0] <= np.mean((low <= 0.1) & (high >= 0.1)) <= RIGHT[1]


@pytest.mark.parametrize("truth", [0.0, 0.1])
@pytest.mark.parametrize("seeds", [3, 5])
def test_configurations_interval_covers_the_truth_where_images_of_one_seed_do_not(seeds: int, truth: float) -> None:
    """The spreads are those of a linear denoiser on MNIST: 0.035 dB between seeds, and 0.3 to 0.6 between images."""
    rng = np.random.default_rng(7)
    right = narrow = 0
    for _ in range(SIMULATIONS):
        images = rng.normal(truth, 0.6, 500)
        a = rng.normal(0, 0.035, (seeds, 1)) + rng.normal(0, 0.3, (seeds, 500)) + images
        b = rng.normal(0, 0.035, (seeds, 1)) + rng.normal(0, 0.3, (seeds, 500))
        right += covers(configurations_interval(a, b), truth)
        narrow += covers(t_interval(a[0] - b[0]), truth)
    assert RIGHT[0] <= right / SIMULATIONS <= RIGHT[1]
    assert narrow / SIMULATIONS < RIGHT[0], "the images of one seed are said to be enough"
