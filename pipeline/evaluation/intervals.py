"""Confidence intervals: of a mean, of a paired difference over images, of the difference of two configurations.

Comes in: arrays of figures. Goes out: an `Interval`. May not import torch or scipy.stats, which load slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from pipeline.seeds import derive_seed

LEVEL = 0.95
RESAMPLES = 2_000
Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval, which are NaN where it has none."""

    mean: float
    low: float
    high: float

    def shown(self, decimals: int) -> str:
        """The ends: ``[0.21, 0.34]``."""
        return f"[{self.low:.{decimals}f}, {self.high:.{decimals}f}]"


def t_interval(values: ArrayLike) -> Interval:
    """Student's t interval of the mean of independent figures, such as one per seed; of one figure it has no ends."""
    figures = np.asarray(values, np.float64)
    count = len(figures)
    if count < 2:
        return Interval(float(figures.mean()), np.nan, np.nan)
    return _around(float(figures.mean()), float(figures.var(ddof=1)) / count, float(count - 1))


def bootstrap_interval(differences: ArrayLike) -> Interval:
    """Percentile bootstrap interval of the mean paired difference of two models, from one figure per image.

    Seeded: the same figures give the same interval. It holds for other images, and says nothing of other seeds.
    """
    figures = np.asarray(differences, np.float64)
    return percentiles(float(figures.mean()), [figures[chosen].mean() for chosen in resamples(len(figures))])


def resamples(images: int) -> Iterator[NDArray[np.int64]]:
    """The indices of each of `RESAMPLES` samples of so many images, with replacement; always the same ones."""
    generator = np.random.default_rng(derive_seed("bootstrap"))
    for _ in range(RESAMPLES):
        yield generator.integers(images, size=images)


def percentiles(estimate: float, resampled: ArrayLike) -> Interval:
    """The interval of an estimate from its values in resamples."""
    low, high = np.quantile(np.asarray(resampled, np.float64), ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(estimate, float(low), float(high))


def configurations_interval(first: ArrayLike, second: ArrayLike) -> Interval:
    """Mean difference, first less second, of two replicated configurations, for other seeds and other images.

    Args:
        first: one figure per seed and image, ``[seeds, images]``, of at least two seeds.
        second: the same of the other configuration, of the same images; the number of seeds may differ.

    Source:
        Welch, "The generalization of Student's problem when several different population variances are involved",
        Biometrika 34, 1947, for the seeds' means, and beside them the images' mean paired difference; degrees of
        freedom by Satterthwaite, "An approximate distribution of estimates of variance components", Biometrics
        Bulletin 2, 1946.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    images = a.mean(axis=0) - b.mean(axis=0)
    parts = [
        (float(figures.var(ddof=1)) / len(figures), len(figures) - 1)
        for figures in (a.mean(axis=1), b.mean(axis=1), images)
    ]
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts) if variance else 1.0
    return _around(float(images.mean()), variance, freedom)


def _around(mean: float, variance: float, freedom: float) -> Interval:
    half = float(stdtrit(freedom, (1 + LEVEL) / 2) * np.sqrt(variance))
    return Interval(mean, mean - half, mean + half)
