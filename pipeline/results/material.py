"""What a page shows of a study besides its records: pictures, restorations, the study file, versions.

Comes in: a home, a study's search and its MLflow runs. Goes out: a `Material`, of plain values and arrays. Nothing is
written, downloaded from the internet or trained. May not import mlflow or optuna; torch only where pictures are read.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.choices import METRICS
from pipeline.errors import DataError, TrackingError
from pipeline.home import Home
from pipeline.results.summary import StudySummary
from pipeline.search.records import EndedTrial
from pipeline.tracking.runs import STUDY_FILES
from pipeline.tracking.uids import baseline_uid, study_run_uid

if TYPE_CHECKING:
    from pipeline.data import Dataset
    from pipeline.search.ask_tell import Search
    from pipeline.tracking.runs import Tracking
    from pipeline.training.model import Restorer

SHEET_TRIALS = 8  # the best trials, on the contact sheet
EXAMPLES = 5  # images of each kind of restoration: best, median, worst


@dataclass(frozen=True)
class Restored:
    """A validation image as the best trial restores it: uint8 images, and the score of this image alone."""

    value: float
    clean: np.ndarray  # [h, w]
    degraded: np.ndarray  # fewer pixels where the degradation is a downscale
    restored: np.ndarray  # [h, w]


@dataclass(frozen=True)
class Material:
    """What is shown of a study and is not in its records; without anything the page has fewer sections."""

    experiment: str | None = None  # MLflow's id
    file: str = ""  # the text of the study file
    overrides: Sequence[str] = ()  # what --set changed of it
    environment: Mapping[str, str] = field(default_factory=dict)  # versions, code, hardware
    importances: Mapping[str, float] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)  # images by split
    image_size: tuple[int, int] | None = None
    # Ten fixed validation images beside each other, uint8 [h, w]: clean, degraded, by baseline and by trial number.
    strips: Mapping[str | int, np.ndarray] = field(default_factory=dict)
    restored: Mapping[str, Sequence[Restored]] = field(default_factory=dict)  # best, median, worst
    image_metric: str = "psnr"  # by which these are chosen
    missing: str = ""  # why there are none


def gather(home: Home, search: Search, summary: StudySummary, tracking: Tracking) -> Material:
    """Read what a page shows of a study and its records do not have.

    Pictures and models that were deleted are left out, and the data set's if it is not at hand.

    Raises:
        StudyError: a database cannot be read.
    """
    run = tracking.find(study_run_uid(search.uid))
    restored: Mapping[str, Sequence[Restored]] = {}
    data, missing = _data(home, summary)
    if data is not None and summary.best is not None:
        try:
            restored = _restored(summary, summary.best, data, tracking, summary.image_metric)
        except TrackingError as error:
            missing = str(error)
    return Material(
        experiment=search.experiment,
        file=(tracking.text(run.run_id, STUDY_FILES[0]) or "") if run else "",
        overrides=stored_overrides(run.tags) if run else (),
        environment=search.environment,
        importances=search.importances(),
        sizes=data.sizes if data else {},
        image_size=data.image_size if data else None,
        strips=strips_of(summary, search.uid, tracking),
        restored=restored,
        image_metric=summary.image_metric,
        missing=missing,
    )


def stored_overrides(tags: Mapping[str, str]) -> list[str]:
    """What --set changed; nothing if somebody edited the tag so that it cannot be read."""
    with suppress(ValueError):
        return shlex.split(tags.get("study.overrides", ""))
    return []


def _data(home: Home, summary: StudySummary) -> tuple[Dataset | None, str]:
    """The study's data set, or why it is not at hand."""
    from pipeline.data import load

    try:
        data = load(summary.config.dataset, home.with_data(summary.config.dataset).data_dir)
    except DataError as error:
        return None, str(error)
    if data.digest != summary.facts.get("data.sha256"):
        return None, f"dataset {summary.config.dataset}: not the data that the study was trained on"
    return data, ""


def strips_of(summary: StudySummary, uid: str, tracking: Tracking) -> dict[str | int, np.ndarray]:
    """The rows of the panels that MLflow has of the baselines and the best trials, one screen pixel per pixel."""
    from pipeline.evaluation.panel import PANEL_SCALE

    panels: dict[str | int, np.ndarray | None] = {}
    for name in summary.baselines:
        run = tracking.find(baseline_uid(uid, name))
        panels[name] = tracking.panel(run.run_id, 0) if run else None
    for trial in summary.ranked[:SHEET_TRIALS]:
        panels[trial.number] = tracking.panel(trial.summary.run_id, trial.summary.best_epoch)
    strips: dict[str | int, np.ndarray] = {}
    for key, panel in panels.items():
        if panel is not None:
            clean, degraded, restored, _ = np.split(panel[::PANEL_SCALE, ::PANEL_SCALE], 4)
            strips = {"clean": clean, "degraded": degraded} | strips | {key: restored}
    return strips


def trial_restorer(tracking: Tracking, trial: EndedTrial) -> Restorer:
    """A complete trial's model. Raises TrackingError if its weights are missing or not those that Optuna has."""
    from pipeline.tracking.runs import restorer_of

    run = tracking.read(trial.summary.run_id)
    if run is None:
        raise TrackingError(f"trial {trial.number} has no run in MLflow; run the study again to repair that")
    return restorer_of(run, trial.summary.weights_sha256)


def _restored(
    summary: StudySummary, trial: EndedTrial, data: Dataset, tracking: Tracking, metric: str
) -> dict[str, list[Restored]]:
    """The best, the median and the worst restorations of a trial's model on the validation images.

    Raises TrackingError as `trial_restorer`.
    """
    from torch import Tensor, uint8

    from pipeline.evaluation.batches import threads, without_gradients
    from pipeline.evaluation.scores import evaluate

    model = without_gradients(trial_restorer(tracking, trial))
    seen: list[tuple[Tensor, Tensor]] = []

    def pixels(images: Tensor) -> Tensor:
        return images.clamp(0, 1).mul(255).round().to(uint8)

    def restore(degraded: Tensor) -> Tensor:
        restored = model(degraded)
        seen.append((pixels(degraded), pixels(restored)))
        return restored

    with threads(summary.config.budget.threads_per_trial):
        scores = evaluate(restore, data.val, summary.config.degrade, "val")
    values = scores.columns[METRICS[metric].columns[0]].double()
    order = values.argsort(descending=METRICS[metric].direction == "maximize", stable=True).tolist()
    images = [pair for batch in seen for pair in zip(*batch, strict=True)]

    def example(index: int) -> Restored:
        degraded, restored = images[index]
        clean = data.val.images[index, 0].numpy()
        return Restored(values[index].item(), clean, degraded[0].numpy(), restored[0].numpy())

    count = min(EXAMPLES, max(1, len(order) // 3))
    middle = (len(order) - count) // 2
    chosen = {"best": order[:count], "median": order[middle : middle + count], "worst": order[-count:]}
    return {kind: [example(index) for index in indices] for kind, indices in chosen.items()}
