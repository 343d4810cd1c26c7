"""The gate: what a champion must be to be replaced, in simulations with a known truth and with a trial that cheats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies_for_tests import Place, Recorder

from pipeline.config import TrialConfig, load_study_file
from pipeline.config.outcomes import Checkpoint, Failed, Trained
from pipeline.data import load
from pipeline.epoch import fixed_numerics, run_epoch, train_and_validate
from pipeline.errors import GateError
from pipeline.evaluation.judge import Judge
from pipeline.results.gate import PASSED, TOO_LITTLE, UNCLEAR, WORSE, judge_candidate
from pipeline.results.promote import check, promote
from pipeline.search.records import ranked
from pipeline.study.driver import run_to_total
from pipeline.study.session import Options, open_session
from pipeline.training import checkpoint
from pipeline.workers import ThisProcess

pytest_plugins = ["study_fixtures"]

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


def cheat(
    config: TrialConfig, before: Checkpoint | None, data_dir: Path, folder: Path, judge: Judge | None = None
) -> Trained | Failed:
    """As `run_epoch`, but trained on the validation images, eight times each in an epoch."""
    data, epoch = load(config.dataset, data_dir), before.epoch + 1 if before else 1
    leaked = data.val.take(np.tile(np.arange(len(data.val)), 8))
    with fixed_numerics(config):
        state, result, panel = train_and_validate(config, epoch, before, replace(data, train=leaked), judge)
    return Trained(checkpoint.save(folder, epoch, state), result, panel, 0.0)


class WithACheat(ThisProcess):
    """This process as the worker, in which trial 1 is trained on the validation images."""

    def submit(self, key: Any, function: Callable[..., Any], *arguments: Any) -> None:
        cheats = function is run_epoch and arguments[0].number == 1
        super().submit(key, cheat if cheats else function, *arguments)


def test_select_exposes_a_trial_that_was_trained_on_the_validation_images(place: Place) -> None:
    changes = ["enqueue=[]", "train.optimizer=adam", "train.lr=3e-3", "model.bottleneck=128", "model.depth=2"]
    changes += ["budget.epochs=12", "budget.keep_models=0", "pruner.n_startup_trials=10"]
    file = load_study_file(place.file, changes, None, 2)
    with open_session(file, place.home, Options(workers=0), Recorder()) as session:
        run_to_total(replace(session, workers=WithACheat()), Options(workers=0))
    honest, cheating = place.search().records()
    assert [trial.number for trial in ranked([honest, cheating], "maximize")] == [1, 0]
    assert promote(place.home, "small", honest.number).version == "1"
    verdict, optimism = check(place.home, "small")
    assert optimism is not None
    assert (optimism.trial, optimism.trials, optimism.baselines) == (1, 1, 2)
    assert optimism.flattered > 0.5
    assert (verdict.candidate, verdict.passed) == ("trial 1", False)
    assert verdict.comparisons[-1].outcome == WORSE
    with pytest.raises(GateError, match=r"\(trial 1\) are not shown to be better .* version 1"):
        promote(place.home, "small")
