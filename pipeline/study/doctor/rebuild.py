"""Make again what MLflow lost: a trial's run with its figures, its model and its pictures; a baseline's pictures.

Comes in: a session and an ended trial. Goes out: a run that says what Optuna and the checkpoints say.
"""

import time

from pipeline.config.outcomes import EpochResult
from pipeline.evaluation.baselines import baseline_scores
from pipeline.search.records import EndedTrial
from pipeline.study.doctor.model_findings import finish_again
from pipeline.study.finish import log_baseline_pictures, saved_epochs
from pipeline.study.session import Session
from pipeline.tracking.runs import IMAGES_TAG
from pipeline.tracking.uids import CONFIG_TAG


def rebuild(session: Session, trial: EndedTrial) -> None:
    """Make a lost run again: from its checkpoints, where they are, with every metric and the panels that they hold.

    What they lack comes from Optuna: the objective of every epoch, all metrics of the best one.
    """
    search, tracking, summary = session.search, session.tracking, trial.summary
    config = session.trial(trial)
    label = session.label(trial.number)
    results = {
        epoch: EpochResult(epoch, summary.metrics if epoch == summary.best_epoch else {session.objective: value}, now)
        for now in [time.time()]
        for epoch, value in trial.reported.items()
    }
    saved, _ = saved_epochs(session, trial)
    tags = {
        **label.tags,
        **IMAGES_TAG,
        "study.name": session.config.name,
        CONFIG_TAG: config.model_dump_json(),
        "data.sha256": session.data.digest,
        **({} if saved and len(saved) == summary.epochs else {"reconstructed": "true"}),
    }
    run_id = tracking.run(label.uid, label.name, tags, config.params(), session.data, trial.started.timestamp())
    logged = tracking.epochs(run_id)
    tracking.log_epochs(run_id, [result for result in (results | saved).values() if result.epoch not in logged])
    search.adopt(trial.number, run_id)
    finish_again(session, search.ended(trial.number))


def redraw_baseline(session: Session, name: str, run_id: str) -> None:
    """Log a baseline's pictures again: from its panel, which is drawn again if that is lost too."""
    config, tracking = session.config, session.tracking
    panel = tracking.panel(run_id, 0)
    if panel is None:
        _, panel = baseline_scores(name, config.dataset, config.degrade, session.home.data_dir)
    log_baseline_pictures(session, run_id, name, panel, session.search.baselines[name])
