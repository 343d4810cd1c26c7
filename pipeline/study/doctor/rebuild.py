"""Make again what MLflow lost of a trial's run or a baseline's: the run itself, its figures, its model, its pictures.

Comes in: a session and an ended trial. Goes out: a run that says what Optuna and the checkpoints say.
"""

import time

import numpy as np

from pipeline.config import TrialConfig
from pipeline.config.outcomes import EpochResult
from pipeline.epoch import history
from pipeline.errors import CheckpointError
from pipeline.evaluation.baselines import baseline_scores
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.panel import panel
from pipeline.search.records import EndedTrial
from pipeline.study.doctor.model_findings import finish_again
from pipeline.study.session import Session
from pipeline.tracking.models import MODEL_ID, load_restorer
from pipeline.tracking.uids import CONFIG_TAG
from pipeline.training.checkpoint import found


def complete_run(session: Session, trial: EndedTrial) -> None:
    """Finish an ended trial again, with a new model or panel where that is lost or damaged."""
    tracking, run_id, epoch = session.tracking, trial.summary.run_id, trial.summary.best_epoch
    finish_again(session, trial)
    run = tracking.read(run_id)
    if trial.state == "COMPLETE" and run and not tracking.has_panel(run, epoch):
        sha256 = session.search.ended(trial.number).summary.weights_sha256
        model = load_restorer(run.tags[MODEL_ID], sha256)
        with threads(session.config.budget.threads_per_trial):
            picture = panel(without_gradients(model), session.data.val, session.config.degrade, "val")
        tracking.log_panel(run_id, picture, epoch, look_first=True)


def rebuild(session: Session, trial: EndedTrial) -> None:
    """Make a lost run again: from its checkpoints, where they are, with every metric and the panels that they hold.

    What they lack comes from Optuna: the objective of every epoch, all metrics of the best one.
    """
    search, tracking, summary = session.search, session.tracking, trial.summary
    config = session.config.trial(trial.values, trial.number, session.device)
    label = session.label(trial.number)
    results = {
        epoch: EpochResult(epoch, summary.metrics if epoch == summary.best_epoch else {session.objective: value}, now)
        for now in [time.time()]
        for epoch, value in trial.reported.items()
    }
    saved, panels = _from_checkpoints(session, trial, config)
    tags = label.tags | {
        "study.name": session.config.name,
        CONFIG_TAG: config.model_dump_json(),
        "data.sha256": session.data.digest,
        **({} if saved and len(saved) == summary.epochs else {"reconstructed": "true"}),
    }
    run_id = tracking.run(label.uid, label.name, tags, config.params(), session.data, trial.started.timestamp())
    logged = tracking.epochs(run_id)
    for result in (results | saved).values():
        if result.epoch not in logged:
            tracking.log_epoch(run_id, result)
    for epoch, picture in panels.items():
        tracking.log_panel(run_id, picture, epoch, look_first=True)
    search.adopt(trial.number, run_id)
    complete_run(session, search.ended(trial.number))


def redraw_baseline(session: Session, name: str, run_id: str) -> None:
    """Log a baseline's panel again."""
    config = session.config
    _, picture = baseline_scores(name, config.dataset, config.degrade, session.home.data_dir)
    session.tracking.log_panel(run_id, picture, 0, look_first=True)


def _from_checkpoints(
    session: Session, trial: EndedTrial, config: TrialConfig
) -> tuple[dict[int, EpochResult], dict[int, np.ndarray]]:
    """The results and the panels, by epoch, that a trial's checkpoints hold."""
    results: dict[int, EpochResult] = {}
    panels: dict[int, np.ndarray] = {}
    for saved in found(session.home.checkpoints(session.search.uid, trial.number)):
        try:
            epochs, panels[saved.epoch] = history(saved, config)
        except CheckpointError as error:
            session.reporter.note(str(error))
            continue
        results = {result.epoch: result for result in epochs} | results
    return results, panels
