"""The statistics of `effects`, over arrays: scipy and statsmodels do them.

Comes in: values by block and level, or by trial and key. Goes out: numbers. The last axis is that of the blocks, so
that thousands of simulated studies are one call.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from pipeline.evaluation.intervals import LEVEL

ALPHA = 1 - LEVEL
FLIPS = 9_999  # sign flips that are tried: all there are up to 13 blocks, so many at random from 14 on
Array = np.ndarray


def paired_interval(differences: Array) -> tuple[Array, Array]:
    """Student's 95 % t interval of the mean of paired differences ``[..., blocks]``."""
    found = _t_test(differences, 0.0).confidence_interval(LEVEL)
    return found.low, found.high


def sign_flip_p(differences: Array, flips: int = FLIPS) -> Array:
    """Two-sided permutation p of a zero mean of ``[..., blocks]``; it cannot go below 2 / 2^blocks."""
    how = {"permutation_type": "samples", "vectorized": True, "batch": 500, "axis": -1, "rng": 0}
    found = scipy.stats.permutation_test((differences,), np.mean, n_resamples=flips, **how)
    return np.asarray(found.pvalue)


def equivalence_p(differences: Array, margin: float) -> Array:
    """p of two one-sided t tests (Schuirmann 1987) of a mean of ``[..., blocks]`` outside of -margin to margin."""
    above = _t_test(differences, -margin, "greater").pvalue
    below = _t_test(differences, margin, "less").pvalue
    return np.maximum(above, below)


def _t_test(differences: Array, mean: float, alternative: str = "two-sided") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all differences are equal
        return scipy.stats.ttest_1samp(differences, mean, axis=-1, alternative=alternative)


def holm(p: Array) -> Array:
    """p values of one family adjusted by Holm's method."""
    from statsmodels.stats.multitest import multipletests

    return np.asarray(multipletests(p, ALPHA, "holm")[1]) if len(p) else p


def blocks_needed(pairs: int) -> int:
    """The fewest blocks whose least p, 2 / 2^blocks, is significant after Holm's adjustment for so many pairs."""
    return int(np.ceil(np.log2(2 * pairs / ALPHA)))


def expected_best(values: Array, draws: int) -> float:
    """The expected value of the best of so many draws without replacement, from values sorted with the best last.

    Source: Tang et al. 2020, "Showing Your Work Doesn't Always Work", which shows it to be unbiased.
    """
    n = len(values)
    return float(scipy.special.comb(np.arange(n), draws - 1) @ values / scipy.special.comb(n, draws))


@dataclass(frozen=True)
class Share:
    """The share of the variance that a key explains beside all others: partial omega squared with a 95 % interval."""

    estimate: float
    low: float
    high: float


def omega_squared(f: float, between: int, within: int, n: int) -> Share:
    """The share from an F of so many degrees of freedom over n trials.

    The interval is that of lambda / (lambda + n), lambda being the noncentrality of F. Source: Steiger 2004, "Beyond
    the F Test", Psychological Methods 9.
    """
    gain = between * (f - 1)

    def bound(tail: float) -> float:
        def above(noncentrality: float) -> float:
            return float(scipy.stats.ncf.cdf(f, between, within, noncentrality)) - tail

        if scipy.stats.f.cdf(f, between, within) < tail:
            return 0.0
        high = 10.0
        while above(high) > 0:
            high *= 2
        found = scipy.optimize.brentq(above, 1e-12, high)
        return float(found / (found + n))

    return Share(max(0.0, float(gain / (gain + n))), bound(1 - ALPHA / 2), bound(ALPHA / 2))


def explained(values: Array, columns: Mapping[str, Array]) -> dict[str, Share]:
    """The share of each key, by a type-II analysis of variance: F of its columns beside those of all other keys.

    Args:
        values: one per trial.
        columns: of each key, ``[trials, columns]``. Those of a key that only some trials have are 0 in all others.
    """
    from statsmodels.regression.linear_model import OLS

    design = np.column_stack([np.ones(len(values)), *columns.values()])
    fit = OLS(values, design).fit()
    shares, start = {}, 1
    for key, some in columns.items():
        test = fit.f_test(np.eye(design.shape[1])[start : start + some.shape[1]])
        shares[key] = omega_squared(float(test.fvalue), int(test.df_num), int(test.df_denom), len(values))
        start += some.shape[1]
    return shares


def within(values: Sequence[Any], here: Array) -> Array:
    """The columns of a key that the trials ``here`` have: a quadratic of numbers, an indicator per value of text.

    They are centred over those trials, so that whether a trial has the key at all is left to the key that decides it.
    """
    if all(isinstance(value, str) for value in values):
        levels = sorted(set(values))
        found = np.array([[value == level for level in levels[1:]] for value in values], float).reshape(len(values), -1)
    else:
        x = np.asarray(values, float)
        x = (x - x.mean()) / (x.std() or 1.0)
        found = np.column_stack([x, x**2])
    columns = np.zeros((len(here), found.shape[1]))
    columns[here] = found - found.mean(axis=0)
    return columns
