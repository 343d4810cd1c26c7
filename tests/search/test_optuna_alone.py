"""A finished study read with nothing but Optuna: whoever knows Optuna needs no part of this program."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib import pyplot as plt
from optuna.visualization import matplotlib as plots
from studies_for_tests import TRIALS, Place

pytest_plugins = ["study_fixtures"]


@pytest.fixture
def study(finished: Place) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=f"sqlite:///{finished.path}/optuna.db")


def texts(drawn: Any) -> str:
    """All that is written in the figure of a plot: labels, ticks, legends."""
    figure = np.ravel(drawn)[0].figure
    figure.canvas.draw()
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(
    ("plot", "words"),
    [
        (plots.plot_optimization_history, ("psnr", "Trial")),
        (plots.plot_slice, ("psnr", "lr@default", "bottleneck")),
        (plots.plot_parallel_coordinate, ("psnr", "lr@default", "bottleneck")),
    ],
)
def test_optuna_draws_its_plots_with_the_objective_s_name(
    plot: Callable[..., Any], words: tuple[str, ...], study: optuna.Study
) -> None:
    assert study.metric_names == ["psnr"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its matplotlib plots are experimental, and it says so
        written = texts(plot(study, target_name=study.metric_names[0]))
    plt.close("all")
    for word in words:
        assert word in written


def test_optuna_draws_the_learning_curves(study: optuna.Study) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        curves = plots.plot_intermediate_values(study).get_lines()
    plt.close("all")
    assert len(curves) == sum(bool(trial.intermediate_values) for trial in study.trials) > 1


def test_its_table_names_the_objective(study: optuna.Study) -> None:
    table = study.trials_dataframe(attrs=("number", "value", "params"))
    assert len(table) == TRIALS
    assert {"number", "value_psnr", "params_lr@sgd", "params_lr@default"} <= set(table)
