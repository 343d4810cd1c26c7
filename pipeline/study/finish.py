"""The end of a trial: its figures, its model, its run's status, its checkpoints.

Comes in: a trial that has ended in Optuna's database. Goes out: an MLflow run that says the same. Every step may be
repeated: interrupted work is completed by repeating it.
"""

from pathlib import Path

import numpy as np
from torch import nn

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, Failed, Trained
from pipeline.epoch import run_epoch, trained_restorer
from pipeline.errors import CheckpointError, Interrupted, StudyError
from pipeline.evaluation.batches import fixed_batches
from pipeline.search.records import EndedTrial
from pipeline.study.session import Session
from pipeline.workers import Raised, Returned, ThisProcess


def finish(session: Session, trial: EndedTrial) -> None:
    """Bring an ended trial's run to its end and remove its checkpoints.

    Raises:
        StudyError: the weights are lost and training them again failed.
        Interrupted: the user asked to stop while they were trained again; the next attempt starts from epoch 1.
    """
    summary, tracking = trial.summary, session.tracking
    folder = session.home.checkpoints(session.search.uid, trial.number)
    if summary.metrics:
        figures = {"objective": summary.metrics[session.objective], "best_epoch": float(summary.best_epoch)}
        tracking.log_figures(summary.run_id, figures | {key: float(value) for key, value in summary.cost.items()})
    if trial.state == "COMPLETE":
        model = _best_model(session, trial, folder)
        two = session.data.val.take(np.arange(2))  # an example batch of 1 would fix the exported batch size
        degraded, _ = next(fixed_batches(two, session.config.degrade, "example"))
        tracking.models.log(summary.run_id, model, degraded.numpy(), summary.best_epoch)
    tracking.end(summary.run_id, trial.state, summary.reason)
    session.home.remove(folder)


def _best_model(session: Session, trial: EndedTrial, folder: Path) -> nn.Module:
    """The model of a trial's best epoch; trained again in this process if its checkpoint is damaged or lost."""
    config, summary = session.config.trial(trial.values, trial.number, session.device), trial.summary
    saved = Checkpoint(str(folder / summary.checkpoint), summary.sha256, summary.best_epoch)
    try:
        return trained_restorer(config, session.data, saved)
    except CheckpointError as error:
        session.reporter.note(f"{error}; training trial {trial.number} again up to epoch {summary.best_epoch}")
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
