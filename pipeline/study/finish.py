"""The end of a trial: its figures, its weights, its pictures, its run's status, its checkpoints.

Comes in: a trial that has ended in Optuna's database. Goes out: an MLflow run that says the same. Every step may be
repeated: interrupted work is completed by repeating it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.config import TrialConfig
from pipeline.config.outcomes import WEIGHTS_FILE, Checkpoint, EpochResult, Failed, Trained
from pipeline.epoch import history, run_epoch, trained_weights
from pipeline.errors import CheckpointError, Interrupted, StudyError, TrackingError
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.panel import labelled, panel_images, panel_title, tiles
from pipeline.evaluation.panel import panel as draw
from pipeline.search.records import EndedTrial, Summary
from pipeline.study.session import Session
from pipeline.tracking.models import WEIGHTS_TAG, model_weights
from pipeline.tracking.runs import (
    PANEL,
    PANEL_FILE,
    RESTORED,
    Tracking,
    best_figures,
    restorer_of,
    same_value,
    weights_of,
)
from pipeline.training.checkpoint import found
from pipeline.workers import Raised, Returned, ThisProcess


def finish(
    session: Session,
    trial: EndedTrial,
    panel: np.ndarray | None = None,
    results: Iterable[EpochResult] = (),
    panels: Mapping[int, np.ndarray] | None = None,
    on_thread: bool = False,
    new: bool = False,
) -> None:
    """Bring an ended trial's run to its end and remove its checkpoints.

    ``results`` and ``panels``, by epoch, are what the run lacks. Weights that are stored and sound are kept. ``panel``
    is the best epoch's; without it, it is read back from MLflow, and of a complete trial drawn again where MLflow lost
    it. A ``new`` run was created by this process, so it has neither weights nor pictures yet.
    Outside the main thread (``on_thread``) nothing is trained or drawn, since torch has one state of random numbers.

    Raises:
        CheckpointError: with ``on_thread``, something has to be trained or drawn; nothing was written.
        StudyError: the weights are lost and training them again failed.
        Interrupted: the user asked to stop while they were trained again; the next attempt starts from epoch 1.
    """
    summary, tracking, run_id = trial.summary, session.tracking, trial.summary.run_id
    folder = session.checkpoints(trial.number)
    images = {(PANEL, epoch): image for epoch, image in (panels or {}).items()}
    files: dict[str, bytes | np.ndarray] = {}
    tags: dict[str, str] = {}
    run = None if new else tracking.read(run_id)
    if trial.state == "COMPLETE" and (run is None or tracking.weights_problem(run, summary.weights_sha256)):
        files[WEIGHTS_FILE] = weights = _weights(session, trial, folder, on_thread)
        tags[WEIGHTS_TAG] = hashlib.sha256(weights).hexdigest()
    if panel is None and summary.metrics:
        panel = tracking.panel(run_id, summary.best_epoch)
    if panel is None and trial.state == "COMPLETE":
        if on_thread:
            raise CheckpointError(f"trial {trial.number}: the panel of its best epoch is lost")
        tracking.log_files(run_id, files)  # the weights that draw it
        files = {}
        panel = images[PANEL, summary.best_epoch] = _drawn_again(session, trial.number)
    if panel is not None:
        name = session.label(trial.number).name
        images[RESTORED, 0], files[PANEL_FILE] = pictures(session, name, panel, summary.metrics, summary.best_epoch)
    tracking.log_images(run_id, images, look_first=not new)
    tracking.log_files(run_id, files)
    logged = run.metrics if run else {}
    figures = end_figures(session, summary) if summary.metrics else {}
    figures = {key: value for key, value in figures.items() if not same_value(logged.get(key), value)}
    tracking.end(run_id, trial.state, summary.reason, results, figures, trial.ended.timestamp(), tags)
    session.home.remove(folder)


def log_saved(session: Session, trial: EndedTrial) -> None:
    """Log what a trial's checkpoints have and its run has not: the process that trained it may have ended before."""
    results, panels = saved_epochs(session, trial)
    run_id = trial.summary.run_id
    logged = session.tracking.epochs(run_id) if results else frozenset()
    log_again(session.tracking, run_id, [results[epoch] for epoch in sorted(results)], panels, logged)


def log_again(
    tracking: Tracking,
    run_id: str,
    results: Iterable[EpochResult],
    panels: Mapping[int, np.ndarray],
    logged: frozenset[int],
) -> None:
    """Log what an earlier process may have logged already; ``logged`` are the epochs whose metrics the run has."""
    tracking.log_epochs(run_id, [result for result in results if result.epoch not in logged])
    tracking.log_images(run_id, {(PANEL, epoch): panel for epoch, panel in panels.items()}, look_first=True)


def saved_epochs(session: Session, trial: EndedTrial) -> tuple[dict[int, EpochResult], dict[int, np.ndarray]]:
    """The results and the panels, by epoch, that a trial's checkpoints hold."""
    config = session.trial(trial)
    results: dict[int, EpochResult] = {}
    panels: dict[int, np.ndarray] = {}
    for saved in found(session.checkpoints(trial.number)):
        try:
            epochs, panels[saved.epoch] = history(saved, config)
        except CheckpointError as error:
            session.reporter.note(str(error))
            continue
        results = {result.epoch: result for result in epochs} | results
    return results, panels


def end_figures(session: Session, summary: Summary) -> dict[str, float]:
    """What a trial's run has beside its epochs' metrics, where an epoch was reported."""
    figures = {"objective": summary.metrics[session.objective], "best_epoch": float(summary.best_epoch)}
    return figures | best_figures(summary.metrics) | {key: float(value) for key, value in summary.cost.items()}


def baseline_figures(session: Session, metrics: Mapping[str, float]) -> dict[str, float]:
    """What a baseline's run has."""
    return {**metrics, "objective": metrics[session.objective], **best_figures(metrics)}


def pictures(
    session: Session, name: str, panel: np.ndarray, metrics: Mapping[str, float], epoch: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The two pictures that are made of a run's panel: the restored images, and the panel with labels.

    ``metrics`` are the ``val/…`` metrics of the epoch, which is 0 of a baseline.
    """
    title = panel_title(name, session.config.name, metrics, epoch)
    return tiles(panel, panel_images(session.data.val)), labelled(panel, title)


def log_baseline_pictures(
    session: Session, run_id: str, name: str, panel: np.ndarray, metrics: Mapping[str, float]
) -> None:
    """Log the three pictures of a baseline."""
    restored, picture = pictures(session, f"baseline-{name}", panel, metrics)
    session.tracking.log_images(run_id, {(PANEL, 0): panel, (RESTORED, 0): restored}, look_first=True)
    session.tracking.log_files(run_id, {PANEL_FILE: picture})


def _drawn_again(session: Session, number: int) -> np.ndarray:
    """The panel of a complete trial's best epoch, drawn by its stored model."""
    summary = session.search.ended(number).summary  # the model may have other weights than when the trial ended
    run = session.tracking.read(summary.run_id)
    if run is None:
        raise TrackingError(f"trial {number} has no run in MLflow; run the study again to repair that")
    model = restorer_of(run, summary.weights_sha256)
    with threads(session.config.budget.threads_per_trial):
        return draw(without_gradients(model), session.data.val, session.config.degrade, "val")


def _weights(session: Session, trial: EndedTrial, folder: Path, on_thread: bool) -> bytes:
    """The weights of a trial's best epoch; where they are not those that Optuna has, the new ones are recorded."""
    weights = _saved_weights(session, trial, folder) if on_thread else _best_weights(session, trial, folder)
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != trial.summary.weights_sha256:
        if on_thread:
            raise CheckpointError(f"trial {trial.number}: its weights are not those that were recorded")
        session.reporter.note(
            f"trial {trial.number} was trained again and has other weights than before, as on other hardware; "
            "they take the place of the lost ones, and the recorded metrics are those of the lost ones"
        )
        session.search.replace_weights(trial.number, sha256)
    return weights


def _best_weights(session: Session, trial: EndedTrial, folder: Path) -> bytes:
    """The weights of a trial's best epoch: from its checkpoint, else stored ones, else trained again here."""
    summary, tracking = trial.summary, session.tracking
    try:
        return _saved_weights(session, trial, folder)
    except CheckpointError as error:
        lost = error
    if run := tracking.read(summary.run_id):
        with suppress(TrackingError):
            return weights_of(run, summary.weights_sha256)
    models = tracking.models.of_run(summary.run_id)
    models += [v.model_id for v in tracking.versions() if v.tags.get(WEIGHTS_TAG) == summary.weights_sha256]
    for model_id in models:
        with suppress(TrackingError):
            return model_weights(model_id, summary.weights_sha256)
    session.reporter.note(f"{lost}; training trial {trial.number} again up to epoch {summary.best_epoch}")
    config = session.trial(trial)
    return trained_weights(config, session.data, _train_again(session, config, summary.best_epoch, folder))


def _saved_weights(session: Session, trial: EndedTrial, folder: Path) -> bytes:
    """The weights of a trial's best epoch from its checkpoint. Raises CheckpointError if it is absent or damaged."""
    summary, config = trial.summary, session.trial(trial)
    saved = Checkpoint(str(folder / summary.checkpoint), summary.sha256, summary.best_epoch)
    return trained_weights(config, session.data, saved)


def _train_again(session: Session, config: TrialConfig, epochs: int, folder: Path) -> Checkpoint:
    """The checkpoint of a trial's epoch, trained from the start in this process."""
    worker, before = ThisProcess(), None
    while before is None or before.epoch < epochs:
        worker.submit(config.number, run_epoch, config, before, session.home.data_dir, folder)
        outcome = None if session.stop.is_set() else worker.wait(0)
        match outcome:
            case Returned(result=Trained(checkpoint=checkpoint)):
                before = checkpoint
            case Returned(result=Failed(reason=reason)):
                raise StudyError(f"trial {config.number} could not be trained again: {reason}")
            case Raised(error=raised):
                raise raised
            case _:  # Ctrl-C drops the task
                raise Interrupted
    return before
