"""The gate: what a champion must be to be replaced, in simulations with a known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.results.gate import PASSED, TOO_LITTLE, UNCLEAR, WORSE, judge_candidate

IMAGES, SEEDS_SD, IMAGES_SD = 500, 0.035, 0.3  # decibels: those of a linear denoiser on MNIST


def figures(rng: np.random.Generator, better: float = 0.0, seed_sd: float = 0.0) -> tuple[Any, Any]:
    """Per-image PSNR of a candidate and of a champion, which differ by ``better`` dB in truth."""
    images = rng.normal(18.5, 2.0, IMAGES)
    seeds = rng.normal(0, seed_sd, 2)
    return tuple(
        images + truth + seed + rng.normal(0, IMAGES_SD, IMAGES)
        for truth, seed in zip((better, 0.0), seeds, strict=True)
    )


@pytest.mark.parametrize(
    ("better", "outcome"), [(0.3, PASSED), (0.06, TOO_LITTLE), (0.0, UNCLEAR), (-0.3, WORSE), (-0.06, WORSE)]
)
def test_a_champion_that_is_truly_worse_or_equal_or_better(better: float, outcome: str) -> None:
    candidate, champion = figures(np.random.default_rng(1), better)
    verdict = judge_candidate("trial 3", "psnr", candidate, {"linear": champion - 5, "version 1": champion})
    assert [each.outcome for each in verdict.comparisons] == [PASSED, outcome]
    assert verdict.passed == (outcome == PASSED)
    assert verdict.least.rival == "version 1"
    assert verdict.text.startswith("these weights (trial 3) are ")
    assert ("not shown to be better" in verdict.text) != verdict.passed
    assert "\n" not in verdict.text


def test_of_an_objective_that_is_to_be_small_less_is_better() -> None:
    rng = np.random.default_rng(2)
    errors = rng.uniform(0.01, 0.02, IMAGES)
    assert judge_candidate("trial 3", "mse", errors * 0.9, {"version 1": errors}).passed
    assert judge_candidate("trial 3", "mse", errors, {"version 1": errors * 0.9}).comparisons[0].outcome == WORSE
    assert not judge_candidate("trial 3", "mse", errors * 0.9, {"version 1": errors}, margin=0.5).passed


def test_another_seed_of_the_champion_s_configuration_hardly_passes() -> None:
    """The interval over images excludes 0 in many pairs of seeds; the margin is what keeps them out."""
    rng = np.random.default_rng(3)
    verdicts = [
        judge_candidate("trial 3", "psnr", candidate, {"version 1": champion})
        for candidate, champion in (figures(rng, seed_sd=SEEDS_SD) for _ in range(100))
    ]
    assert np.mean([verdict.comparisons[0].gain.low > 0 for verdict in verdicts]) > 0.1
    assert np.mean([verdict.passed for verdict in verdicts]) <= 0.05


def test_a_champion_that_cannot_be_compared_is_no_pass() -> None:
    candidate, other = figures(np.random.default_rng(4), 1.0)
    verdict = judge_candidate(
        "trial 3", "psnr", candidate, {"linear": other}, incomparable="version 1 is of other data"
    )
    assert not verdict.passed
    assert verdict.text.endswith("than the champion: version 1 is of other data")
