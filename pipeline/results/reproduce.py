"""Do again what a run records: train it and compare every metric of every epoch, or evaluate its model.

Comes in: a run id. Goes out: what differs, and what is different about the machine and its libraries; or figures and
the panel.
"""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, Failed
from pipeline.data import Dataset, load
from pipeline.epoch import run_epoch
from pipeline.errors import InputError
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.judge import Judge, judge_of
from pipeline.evaluation.scores import validation
from pipeline.home import Home
from pipeline.provenance import git_state, hardware, versions
from pipeline.tracking.models import load_verified
from pipeline.tracking.runs import StoredRun, metric_histories, read_run


@dataclass(frozen=True)
class Difference:
    """One metric of one epoch that came out otherwise; None where it is missing on that side."""

    epoch: int
    metric: str
    recorded: float | None
    now: float | None


@dataclass(frozen=True)
class Reproduction:
    """What came of training a run again."""

    run: str
    epochs: int
    compared: int
    differences: list[Difference]
    failure: tuple[str, str] | None  # of a trial that failed in training: why then, and what became of it now
    reconstructed: bool  # the run was lost and made again: of most epochs it has the objective only
    surroundings: list[str]  # what is different here, and may be why

    @property
    def identical(self) -> bool:
        return not self.differences and (self.failure is None or self.failure[0] == self.failure[1])


@dataclass(frozen=True)
class Evaluation:
    """A run's model on the validation split: its figures now, those recorded for its best epoch, and the panel."""

    run: str
    best_epoch: int
    figures: dict[str, float]
    recorded: dict[str, float]
    panel: np.ndarray  # as `evaluate.panel` makes it


def reproduce(home: Home, run_id: str) -> Reproduction:
    """Train a run's trial again from what the run records, in this process, and compare.

    A trial that failed in training is trained into the epoch that failed. Of a run that `doctor` made again only what
    it has can be compared. Nothing is written to the home, but for the data set's judge where that is gone.

    Args:
        home: whose tracking store has the run.
        run_id: of a trial or a single training.

    Raises:
        NotFoundError: there is no such run.
        InputError: the run records no training, its data set is not the one that is here, or it was trained on a GPU
            and there is none.
    """
    stored, config, data = _recorded(home, run_id)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"run {run_id} was trained on a GPU, and torch sees none here; it can be evaluated")
    recorded = {
        (epoch, name): value
        for name, history in metric_histories(home, run_id).items()
        if name == "train/loss" or name.startswith("val/")
        for epoch, value in history.items()
    }
    epochs = max((epoch for epoch, _ in recorded), default=0)
    # A value that is not finite failed its trial after the epoch, which is recorded; else the next epoch broke off.
    broke_off = stored.tags.get("trial.state") == "FAIL" and all(map(math.isfinite, recorded.values()))
    now, failure = _train(config, home, judge_of(data, home.judges), epochs + broke_off)
    outcome = None
    if broke_off:
        then = stored.tags.get("trial.reason", "no reason is recorded")
        outcome = (then, failure or f"epoch {epochs + 1} was trained")
    now = {key: value for key, value in now.items() if key[0] <= epochs}
    reconstructed = "reconstructed" in stored.tags
    keys = sorted(recorded if reconstructed else {*recorded, *now})
    differences = [
        Difference(*key, recorded.get(key), now.get(key))
        for key in keys
        if recorded.get(key) != now.get(key) and not _both_nan(recorded.get(key), now.get(key))
    ]
    around = _surroundings(stored.tags)
    return Reproduction(stored.name, epochs, len(keys), differences, outcome, reconstructed, around)


def _train(
    config: TrialConfig, home: Home, judge: Judge | None, epochs: int
) -> tuple[dict[tuple[int, str], float], str | None]:
    """Every metric by epoch and name but the times, and why training failed if it did."""
    metrics: dict[tuple[int, str], float] = {}
    before: Checkpoint | None = None
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(epochs):
            outcome = run_epoch(config, before, home.data_dir, Path(folder), judge)
            if isinstance(outcome, Failed):
                return metrics, outcome.reason
            before, result = outcome.checkpoint, outcome.result
            figures = result.metrics.items()
            metrics |= {(result.epoch, name): value for name, value in figures if not name.startswith("time/")}
    return metrics, None


def evaluate(home: Home, run_id: str) -> Evaluation:
    """Evaluate a trained run's model on *val*, after its files are verified.

    Nothing is written, but for the data set's judge where that is gone.

    Raises:
        NotFoundError: there is no such run.
        InputError: the run records no training, has no model, or its data set is not the one that is here.
        TrackingError: the model's files are not those that were logged.
    """
    stored, config, data = _recorded(home, run_id)
    if "model.sha256" not in stored.tags:
        raise InputError(f"run {stored.name} ({stored.status}) has no model; only completed trainings have one")
    model = load_verified(stored.tags["model.id"], json.loads(stored.tags["model.sha256"]))
    with threads(config.threads):
        figures, panel = validation(without_gradients(model), data, config.degrade, judge_of(data, home.judges))
    histories, best = metric_histories(home, run_id), int(stored.metrics["best_epoch"])
    recorded = {name: histories[name][best] for name in figures if best in histories.get(name, {})}
    return Evaluation(stored.name, best, figures, recorded, panel)


def _recorded(home: Home, run_id: str) -> tuple[StoredRun, TrialConfig, Dataset]:
    """A run that trained something, what it trained, and the data that it did so on."""
    stored = read_run(home, run_id)
    try:
        config = TrialConfig.model_validate_json(stored.tags["trial.config"])
    except (KeyError, ValidationError):
        role = stored.tags.get("study.role", "other")
        raise InputError(f"run {run_id} ({role}) records no training of this program; give a trial's run") from None
    data = load(config.dataset, home.data_dir)
    if data.digest != stored.tags.get("data.sha256"):
        raise InputError(f"run {run_id}: dataset {config.dataset} here is not the one that it was trained on")
    return stored, config, data


def _both_nan(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and a != a and b != b


def _surroundings(tags: dict[str, str]) -> list[str]:
    before = json.loads(tags.get("env.versions", "{}"))
    now = versions()
    found = [
        f"{name} {before.get(name, 'unknown')} then, {now[name]} now" for name in now if before.get(name) != now[name]
    ]
    if tags.get("env.hardware") != hardware():
        found.append(f"hardware: {tags.get('env.hardware', 'unknown')} then, {hardware()} now")
    for key, value in git_state().items():
        if tags.get(key) != value:
            found.append(f"{key}: {tags.get(key, 'unknown')} then, {value} now")
    return found
