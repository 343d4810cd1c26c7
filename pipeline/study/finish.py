"""The end of a trial: its figures, its model, its pictures, its run's status, its checkpoints.

Comes in: a trial that has ended in Optuna's database. Goes out: an MLflow run that says the same. Every step may be
repeated: interrupted work is completed by repeating it.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, Failed, Trained
from pipeline.epoch import run_epoch, trained_restorer
from pipeline.errors import CheckpointError, Interrupted, StudyError, TrackingError
from pipeline.evaluation.batches import fixed_batches, threads, without_gradients
from pipeline.evaluation.panel import labelled, panel_images, panel_title, tiles
from pipeline.evaluation.panel import panel as draw
from pipeline.search.records import EndedTrial, Summary
from pipeline.study.session import Session
from pipeline.tracking.models import MODEL_ID, WEIGHTS_TAG, load_restorer
from pipeline.tracking.runs import PANEL, PANEL_FILE, RESTORED, best_figures
from pipeline.training.model import Restorer
from pipeline.training.weights import weights_bytes
from pipeline.workers import Raised, Returned, ThisProcess


def finish(session: Session, trial: EndedTrial, log_again: bool = False, panel: np.ndarray | None = None) -> None:
    """Bring an ended trial's run to its end and remove its checkpoints.

    A model that is stored and sound is kept, unless ``log_again``. ``panel`` is the best epoch's; without it, it is
    read back from MLflow, and of a complete trial drawn again where MLflow lost it.

    Raises:
        StudyError: the weights are lost and training them again failed.
        Interrupted: the user asked to stop while they were trained again; the next attempt starts from epoch 1.
    """
    summary, tracking = trial.summary, session.tracking
    folder = session.home.checkpoints(session.search.uid, trial.number)
    if summary.metrics:
        tracking.log_figures(summary.run_id, end_figures(session, summary))
    if trial.state == "COMPLETE":
        run = tracking.read(summary.run_id)
        tags = run.tags if run else {}
        if log_again or tracking.models.problem(summary.run_id, tags, summary.weights_sha256):
            _log_model(session, trial, folder)
    if panel is None and summary.metrics:
        panel = tracking.panel(summary.run_id, summary.best_epoch)
    if panel is None and trial.state == "COMPLETE":
        panel = _drawn_again(session, trial.number)
        tracking.log_image(summary.run_id, PANEL, panel, summary.best_epoch, look_first=True)
    if panel is not None:
        name = session.label(trial.number).name
        log_pictures(session, summary.run_id, name, panel, summary.metrics, summary.best_epoch)
    tracking.end(summary.run_id, trial.state, summary.reason)
    session.home.remove(folder)


def end_figures(session: Session, summary: Summary) -> dict[str, float]:
    """What a trial's run has beside its epochs' metrics, where an epoch was reported."""
    figures = {"objective": summary.metrics[session.objective], "best_epoch": float(summary.best_epoch)}
    return figures | best_figures(summary.metrics) | {key: float(value) for key, value in summary.cost.items()}


def baseline_figures(session: Session, metrics: Mapping[str, float]) -> dict[str, float]:
    """What a baseline's run has."""
    return {**metrics, "objective": metrics[session.objective], **best_figures(metrics)}


def log_pictures(
    session: Session, run_id: str, name: str, panel: np.ndarray, metrics: Mapping[str, float], epoch: int = 0
) -> None:
    """Log the two pictures that are made of a run's panel: the restored images, and the panel with labels.

    ``metrics`` are the ``val/…`` metrics of the epoch, which is 0 of a baseline.
    """
    restored = tiles(panel, panel_images(session.data.val))
    session.tracking.log_image(run_id, RESTORED, restored, 0, look_first=True)
    title = panel_title(name, session.config.name, metrics, epoch)
    session.tracking.log_picture(run_id, labelled(panel, title), PANEL_FILE)


def _drawn_again(session: Session, number: int) -> np.ndarray:
    """The panel of a complete trial's best epoch, drawn by its stored model."""
    summary = session.search.ended(number).summary  # the model may have other weights than when the trial ended
    run = session.tracking.read(summary.run_id)
    model = load_restorer(run.tags[MODEL_ID] if run else "", summary.weights_sha256)
    with threads(session.config.budget.threads_per_trial):
        return draw(without_gradients(model), session.data.val, session.config.degrade, "val")


def _log_model(session: Session, trial: EndedTrial, folder: Path) -> None:
    """Log the model of a trial's best epoch; where its weights are not those that Optuna has, record the new ones."""
    config, summary = session.trial(trial), trial.summary
    model = _best_model(session, trial, config, folder)
    weights = weights_bytes(model, config, session.data.image_size)
    sha256 = hashlib.sha256(weights).hexdigest()
    if sha256 != summary.weights_sha256:
        session.reporter.note(
            f"trial {trial.number} was trained again and has other weights than before, as on other hardware; "
            "they take the place of the lost ones, and the recorded metrics are those of the lost ones"
        )
        session.search.replace_weights(trial.number, sha256)
    two = session.data.val.take(np.arange(2))  # an example batch of 1 would fix the exported batch size
    degraded, _ = next(fixed_batches(two, session.config.degrade, "example"))
    name = f"{session.config.name}-{session.label(trial.number).name}"
    session.tracking.models.log(summary.run_id, name, model, degraded.numpy(), summary.best_epoch, weights)


def _best_model(session: Session, trial: EndedTrial, config: TrialConfig, folder: Path) -> Restorer:
    """The model of a trial's best epoch: from its checkpoint, else stored weights, else trained again here."""
    summary = trial.summary
    saved = Checkpoint(str(folder / summary.checkpoint), summary.sha256, summary.best_epoch)
    try:
        return trained_restorer(config, session.data, saved)
    except CheckpointError as error:
        lost = error
    stored = session.tracking.models.of_run(summary.run_id)
    stored += [v.model_id for v in session.tracking.versions() if v.tags.get(WEIGHTS_TAG) == summary.weights_sha256]
    for model_id in stored:
        with suppress(TrackingError):
            return load_restorer(model_id, summary.weights_sha256)
    session.reporter.note(f"{lost}; training trial {trial.number} again up to epoch {summary.best_epoch}")
    return trained_restorer(config, session.data, _train_again(session, config, summary.best_epoch, folder))


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
