"""What a trial sees: the numbers are those of a plain Optuna study of its own, with copies of the trials before it."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from test_search import EPOCHS, WINDOW, SimulatedDriver, configuration, fails, new_home, objective, rungs

from pipeline.config import Range, StudyConfig
from pipeline.search.samplers import build_pruner, build_sampler

SEEN = 16
FLAT: dict[str, Any] = {
    "model": {"bottleneck": {"low": 8, "high": 256, "log": True}, "activation": ["relu", "leaky_relu"]},
    "train": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
}


def suggest(trial: optuna.Trial, name: str, dimension: Any) -> Any:
    if not isinstance(dimension, Range):
        return trial.suggest_categorical(name, dimension.values)
    kind, number = (trial.suggest_int, int) if dimension.integer else (trial.suggest_float, float)
    step = {"step": number(dimension.step)} if dimension.step else {}
    return kind(name, number(dimension.low), number(dimension.high), log=dimension.log, **step)  # type: ignore[operator]


def plain_view(config: StudyConfig, number: int, stored: list[FrozenTrial]) -> optuna.Study:
    """Trial ``number``'s own study: trials that left the window as they ended, the others as they were asked."""
    view = optuna.create_study(
        direction="maximize",
        study_name=config.name,
        sampler=build_sampler(config, number),
        pruner=build_pruner(config),
    )
    running = TrialState.RUNNING
    for trial in stored[:number]:
        left = trial.number <= number - WINDOW
        view.add_trial(
            trial if left else create_trial(state=running, params=trial.params, distributions=trial.distributions)
        )
    return view


@pytest.mark.parametrize("space", ["conditional", "flat"])
@pytest.mark.parametrize(
    ("sampler", "pruner"),
    [("tpe", "none"), ("tpe", "median"), ("tpe", "successive_halving"), ("tpe", "hyperband"), ("random", "hyperband")],
)
def test_samples_and_prunings_are_those_of_plain_views(sampler: str, pruner: str, space: str) -> None:
    changes: dict[str, Any] = {} if space == "conditional" else FLAT
    config = configuration(sampler, pruner, budget={"trials": SEEN, "concurrency": WINDOW}, **changes)
    first = configuration(sampler, pruner, budget={"trials": WINDOW + 1, "concurrency": WINDOW}, **changes)
    with new_home() as home:
        SimulatedDriver(home, first).finish()  # the total is raised later
        driver = SimulatedDriver(home, config)
        driver.fill()
        driver.epoch(max(driver.unended()))
        driver = driver.restarted()
        driver.finish()
        stored = driver.search.trials()
    assert len(stored) == SEEN
    pruned = 0
    for number, expected in enumerate(stored):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            view = plain_view(config, number, stored)
            trial = view.ask()
            values = config.space.resolve(lambda name, dimension, trial=trial: suggest(trial, name, dimension))
        assert trial.params == expected.params
        for epoch in range(1, EPOCHS + 1):
            if fails(number, epoch):
                assert expected.state == TrialState.FAIL
                break
            trial.report(objective(number, values, epoch, None), epoch)
            if trial.should_prune() and epoch < EPOCHS:
                assert (expected.state, expected.last_step) == (TrialState.PRUNED, epoch)
                pruned += 1
                break
        else:
            assert expected.state == TrialState.COMPLETE
        assert rungs(view.trials[number]) == rungs(expected)
    assert (pruned > 0) == (pruner != "none")
