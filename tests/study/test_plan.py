"""What a study is expected to need, from real steps; and what is said about choices that look wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from pipeline.config import StudyConfig, StudyFile, load_study_file
from pipeline.config.catalogue import CATALOGUE
from pipeline.config.study_config import Budget
from pipeline.data import load
from pipeline.errors import ConfigError, DataError
from pipeline.study import plan as planning
from pipeline.study.advice import advice
from pipeline.study.plan import Plan, extremes, plan
from pipeline.workers.machine import room_for

STUDIES = sorted((Path(__file__).parents[2] / "studies").glob("*.toml"))
SPACE = {
    "model": {
        "layer_type": ["linear", "conv"],
        "depth": [1, 3],
        "bottleneck": {"low": 4, "high": 32, "log": True},
        "width": ["auto", 64],
        "channels": [2, 4, 8],
    },
    "train": {"batch_size": [8, 9], "lr": {"low": 1e-3, "high": 1e9, "log": True}},
}


@pytest.fixture(autouse=True)
def _short_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "STEPS_S", 0.02)
    monkeypatch.setattr(planning, "DRAWN", 5)


def study(**changes: Any) -> StudyConfig:
    raw = {"name": "tiny", "dataset": tiny.NAME, "degrade": tiny.GAUSSIAN, **SPACE}
    return StudyConfig.model_validate(raw | changes)


def test_a_plan_times_real_steps_of_the_extremes_and_of_trials_between(tiny_data: Path) -> None:
    random = torch.get_rng_state()
    made = plan(study(budget={"trials": 12, "epochs": 5}), tiny_data, "cpu", 2)
    assert torch.equal(torch.get_rng_state(), random)
    assert list(tiny_data.rglob("*")) == []
    smallest, largest, *drawn = made.timed
    assert [one.what for one in made.timed] == ["smallest", "largest", *["drawn"] * planning.TIMED]
    for one in drawn:
        assert smallest.multiply_adds <= one.multiply_adds <= largest.multiply_adds
    seconds = [one.epoch_s for one in made.timed]
    assert min(seconds) <= made.epoch_s <= max(seconds)
    assert all(one.epoch_s > 0 and 1 <= one.steps <= 12 for one in made.timed)
    # Weights and Adam's two averages as 32-bit numbers; batch norm and the panel have a few more.
    assert largest.checkpoint_bytes > 12 * largest.parameters
    assert 4 * smallest.parameters < made.weights_bytes < 4 * largest.parameters
    assert made.baselines == ["degraded", "linear"]
    assert made.worker_bytes > 100e6


def test_the_forecast_follows_from_the_timings(tiny_data: Path) -> None:
    made = plan(study(budget={"trials": 12, "epochs": 5}), tiny_data, "cpu", 2)
    training = 12 * 5 * made.epoch_s / made.at_once / made.busy
    assert made.seconds(made.epoch_s) == pytest.approx(planning.START_S + training)
    assert plan(study(), tiny_data, "cpu", 999).at_once == min(room_for("cpu", 1), Budget().concurrency)
    assert made.seconds(made.epoch_s, made.trained) < made.seconds(made.epoch_s)
    assert plan(study(pruner={"name": "none"}), tiny_data, "cpu", 0).trained == 1
    assert made.disk_bytes["records"] == 60 * (planning.EPOCH_BYTES + made.picture_bytes)


def test_a_study_of_one_configuration_has_one_timing(tiny_data: Path) -> None:
    made = plan(study(model={}, train={}, budget={"trials": 1}), tiny_data, "cpu", None)
    assert (made.parameters, made.combinations, [one.what for one in made.timed]) == ([], 1, ["only size"])
    assert made.workers >= 1


def test_the_extremes_are_the_ends_of_the_space(tiny_data: Path) -> None:
    smallest, largest = extremes(study(), load(tiny.NAME, tiny_data))
    assert (smallest["layer_type"], smallest["depth"], smallest["bottleneck"]) == ("linear", 1, 4)
    assert smallest["batch_size"] == 9
    assert (largest["layer_type"], largest["depth"], largest["bottleneck"]) == ("conv", 3, 32)
    assert (largest["channels"], largest["batch_size"]) == (8, 8)


def test_what_a_run_refuses_a_plan_refuses(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size: up to 5000 is searched"):
        plan(study(train={"batch_size": [8, 5000]}), tiny_data, "cpu", 0)


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_shipped_study_can_be_planned(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whose data are absent it is said, and nothing is downloaded."""
    monkeypatch.setattr(planning, "TIMING_S", 0.0)  # the extremes only
    config = load_study_file(file).config
    if CATALOGUE[config.dataset].files:
        with pytest.raises(DataError, match=rf"^{config.dataset}: .* not found under .*\n.*study prepare"):
            plan(config, tmp_path, "cpu", None)
    else:
        made: Plan = plan(config, tmp_path, "cpu", None)
        smallest, largest = made.timed
        assert smallest.multiply_adds < largest.multiply_adds
    assert list(tmp_path.iterdir()) == []


# --- choices that look wrong ------------------------------------------------------------------------------------------

DENOISE, QUICKSTART = (next(file for file in STUDIES if file.stem == stem) for stem in ("denoise", "quickstart"))
SIZES = {"images": 3500, "inputs": 28 * 28}


def warnings(*overrides: str, file: Path = QUICKSTART, slots: int = 1, room: int | None = None) -> list[str]:
    config: StudyFile = load_study_file(file, overrides)
    return list(advice(config.config, **SIZES, slots=slots, room=room))


@pytest.mark.parametrize("file", [QUICKSTART, DENOISE], ids=lambda file: file.stem)
def test_nothing_is_said_about_sound_studies(file: Path) -> None:
    assert warnings(file=file, slots=2, room=2) == []


FIXED = [
    *("enqueue=[]", "model.layer_type=linear", "model.depth=2", "model.width=512", "model.bottleneck=32"),
    *("model.convs=1", "model.skip=false", 'model.activation=["relu"]'),
    *("train.loss=mse", "train.optimizer=adam", "train.lr=1e-3", "train.batch_size=128"),
]


@pytest.mark.parametrize(
    ("words", "overrides", "slots"),
    [
        ("bottleneck: 800 is wider than the input of 784 pixels", ["model.bottleneck={low=16, high=800}"], 1),
        ("batch_size: 512 is more than a tenth of the 3,500", ["enqueue=[]", "train.batch_size=[128, 512]"], 1),
        ("16 trials over 3 brackets", ["pruner.name=hyperband"], 1),
        ("no pruner: every trial trains 12 epochs", ["pruner.name=none"], 1),
        ("at most 4 open trials for 2 workers", [], 2),
        ("concurrency = 8 keeps them busy; the sampler learns less from more than 4", [], 2),
        ("8 of 16 trials are open at once", ["budget.concurrency=8"], 1),
        ("the 16 trials differ in their random numbers only", FIXED, 1),
        (
            "lr: 0.01 at most is low for sgd",
            ["enqueue=[]", "train.optimizer=sgd", "train.lr={low=1e-4, high=1e-2, log=true}"],
            1,
        ),
    ],
)
def test_each_choice_that_looks_wrong_is_named(words: str, overrides: list[str], slots: int) -> None:
    [warning] = warnings(*overrides, slots=slots)
    assert words in warning


@pytest.mark.parametrize(
    ("overrides", "slots"),
    [
        (["pruner.name=hyperband", "budget.trials=30"], 1),
        (["pruner.name=none", "sampler.name=random"], 1),  # a comparison needs all epochs
        (["budget.concurrency=8", "sampler.name=random"], 2),
        (["model.layer_type=conv", "model.bottleneck=800", "model.width=auto", "enqueue=[]"], 1),  # maps, not pixels
        ([*FIXED, "budget.trials=1"], 1),
    ],
)
def test_the_same_choices_where_they_are_right(overrides: list[str], slots: int) -> None:
    assert warnings(*overrides, slots=slots) == []
