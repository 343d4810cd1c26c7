"""Repeat what a run records: train it again and compare every metric of every epoch, or evaluate its model.

What comes in: a run id. What goes out: a `Reproduction` or an `Evaluation`. Imports no optuna.
"""

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, Failed
from pipeline.data import Dataset, load
from pipeline.epoch import run_epoch
from pipeline.errors import InputError
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.judge import Judge, judge_of
from pipeline.evaluation.panel import labelled, panel_title
from pipeline.evaluation.scores import validation
from pipeline.files import check_output, png, write_output
from pipeline.home import Home
from pipeline.provenance import git_state, hardware, versions
from pipeline.tracking.models import WEIGHTS_TAG, recorded_weights
from pipeline.tracking.runs import StoredRun, metric_histories, read_run, restorer_of
from pipeline.tracking.uids import CONFIG_TAG


@dataclass(frozen=True)
class Reproduction:
    """The outcome of training a run again."""

    run: str
    epochs: int
    compared: int
    differences: dict[tuple[int, str], tuple[float | None, float | None]]  # epoch and metric to recorded and now
    failure: tuple[str, str] | None  # of a trial that failed in training: the recorded reason, and what happened now
    reconstructed: bool  # `doctor` rebuilt the run: for most epochs it has the objective only
    surroundings: list[str]  # what is not as recorded, and may be the reason

    @property
    def identical(self) -> bool:
        return not self.differences and (self.failure is None or self.failure[0] == self.failure[1])


@dataclass(frozen=True)
class Evaluation:
    """A run's model on the validation split: its figures now, and those recorded for its best epoch."""

    run: str
    best_epoch: int
    figures: dict[str, float]
    recorded: dict[str, float]


def reproduce(home: Home, run_id: str) -> Reproduction:
    """Train a run's trial again from what the run records, in this process, and compare.

    A trial that failed in training is trained up to the epoch that failed. Of a run that `doctor` rebuilt, only what
    the run has is compared. Nothing is written to the home, except the data set's judge where it is missing.

    Raises:
        NotFoundError: there is no such run.
        InputError: the run records no training, its data set differs from the one here, or it was trained on a GPU
            and there is none.
    """
    stored, config, data = _recorded(home, run_id)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(f"run {run_id} was trained on a GPU, and torch sees none here; it can be evaluated")
    recorded = {
        (epoch, name): value
        for name, history in metric_histories(home, stored).items()
        if name == "train/loss" or name.startswith("val/")
        for epoch, value in history.items()
        if 1 <= epoch <= config.epochs
    }
    epochs = max((epoch for epoch, _ in recorded), default=0)
    # A value that is not finite fails its trial after the epoch, which is recorded. Else the next epoch failed.
    next_failed = stored.tags.get("trial.state") == "FAIL" and all(map(math.isfinite, recorded.values()))
    now, reason = _train(config, home, judge_of(data, home.judges), epochs + next_failed)
    recorded_reason = stored.tags.get("trial.reason", "no reason is recorded")
    failure = (recorded_reason, reason or f"epoch {epochs + 1} was trained") if next_failed else None
    now = {key: value for key, value in now.items() if key[0] <= epochs}
    reconstructed = "reconstructed" in stored.tags
    keys = sorted(recorded if reconstructed else {*recorded, *now})
    pairs = {key: (recorded.get(key), now.get(key)) for key in keys}
    differences = {key: pair for key, pair in pairs.items() if not _same(*pair)}
    return Reproduction(stored.name, epochs, len(keys), differences, failure, reconstructed, _surroundings(stored.tags))


def evaluate(home: Home, run_id: str, picture: Path | None = None) -> Evaluation:
    """Verify the weights of a trained run's model, and evaluate it on *val*; ``picture`` is a PNG file for the panel.

    Nothing is written to the home, except the data set's judge where it is missing.

    Raises:
        NotFoundError: there is no such run.
        InputError: the run records no training, has no model, or its data set differs from the one here; or the
            picture cannot be written.
        TrackingError: the weights are missing, or not those that were recorded.
    """
    if picture is not None:
        check_output(picture, (".png",))
    stored, config, data = _recorded(home, run_id)
    if WEIGHTS_TAG not in stored.tags:
        raise InputError(f"run {stored.name} ({stored.status}) has no model; only completed trainings have one")
    model = restorer_of(stored, recorded_weights(home, stored.tags))
    with threads(config.threads):
        figures, panel = validation(without_gradients(model), data, config.degrade, judge_of(data, home.judges))
    best = stored.best_epoch
    if picture is not None:
        title = panel_title(stored.name, stored.tags.get("study.name", "?"), figures, best)
        write_output(picture, png(labelled(panel, title)))
    histories = metric_histories(home, stored)
    recorded = {name: histories[name][best] for name in figures if best in histories.get(name, {})}
    return Evaluation(stored.name, best, figures, recorded)


def _recorded(home: Home, run_id: str) -> tuple[StoredRun, TrialConfig, Dataset]:
    """A run of a training, the configuration it records, and the data it was trained on."""
    stored = read_run(home, run_id)
    try:
        config = TrialConfig.model_validate_json(stored.tags[CONFIG_TAG])
    except (KeyError, ValidationError):
        role = stored.tags.get("study.role", "other")
        raise InputError(f"run {run_id} ({role}) records no training of this program; give a trial's run") from None
    data = load(config.dataset, home.with_data(config.dataset).data_dir)
    if data.digest != stored.tags.get("data.sha256"):
        raise InputError(f"run {run_id}: dataset {config.dataset} here is not the one that it was trained on")
    return stored, config, data


def _train(
    config: TrialConfig, home: Home, judge: Judge | None, epochs: int
) -> tuple[dict[tuple[int, str], float], str | None]:
    """Every metric except the times, by epoch and name; and the reason if training failed."""
    metrics: dict[tuple[int, str], float] = {}
    before: Checkpoint | None = None
    data_dir = home.with_data(config.dataset).data_dir
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(epochs):
            outcome = run_epoch(config, before, data_dir, Path(folder), judge)
            if isinstance(outcome, Failed):
                return metrics, outcome.reason
            before, figures = outcome.checkpoint, outcome.result.metrics.items()
            metrics |= {(outcome.result.epoch, name): value for name, value in figures if not name.startswith("time/")}
    return metrics, None


def _same(recorded: float | None, now: float | None) -> bool:
    """Whether two figures are equal, or both NaN."""
    return recorded == now or (recorded != recorded and now != now)


def _surroundings(tags: dict[str, str]) -> list[str]:
    """Versions, hardware and code that are not as a run's tags record them."""
    try:
        recorded = dict(json.loads(tags.get("zz.env.versions", "{}")))
    except (ValueError, TypeError):  # anyone can edit a tag
        recorded = {}
    recorded |= {"hardware": tags.get("env.hardware"), **{key: tags.get(key) for key in git_state()}}
    now = versions() | {"hardware": hardware()} | git_state()
    return [
        f"{name}: recorded {recorded.get(name) or 'unknown'}, now {value}"
        for name, value in now.items()
        if recorded.get(name) != value
    ]
