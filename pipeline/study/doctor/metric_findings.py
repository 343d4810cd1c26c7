"""Whether a run's metrics are what Optuna has of them: people can log others in their place.

Comes in: a session, a run, and the trial that is its own. Goes out: what differs, and the same figures logged again.
"""

from collections.abc import Iterator, Mapping

from pipeline.search.records import EndedTrial
from pipeline.study.finish import end_figures
from pipeline.study.session import Session
from pipeline.tracking.runs import StoredRun, same_value


def last_figures(session: Session, trial: EndedTrial) -> dict[str, float]:
    """The last value of every metric that Optuna knows of an ended trial."""
    summary, last = trial.summary, max(trial.reported, default=0)
    if not summary.metrics:
        return {}
    figures = end_figures(session, summary)
    if last != summary.epochs:  # the last epoch failed, and its objective was not reported
        return figures
    if last == summary.best_epoch:
        figures |= _reproducible(summary.metrics)
    return figures | {session.objective: trial.reported[last]}


def wrong_figures(
    session: Session, figures: Mapping[str, float], trial: EndedTrial | None, run: StoredRun, thorough: bool
) -> list[str]:
    """The metrics of a run that are not what Optuna has, as text.

    ``figures`` are the last values; with ``thorough`` the points of an ended trial's histories are compared as well.
    """
    wrong = [
        f"metric {key} is {run.metrics.get(key, 'missing')}, and was {value}"
        for key, value in figures.items()
        if not same_value(run.metrics.get(key), value)
    ]
    if thorough and trial is not None:
        wrong += [
            f"metric {key} of epoch {epoch} is {'missing' if found is None else found}, and was {value}"
            for key, epoch, found, value in _wrong_points(session, trial, run.run_id)
            if key not in figures or same_value(run.metrics.get(key), figures[key])
        ]
    return wrong


def _wrong_points(session: Session, trial: EndedTrial, run_id: str) -> Iterator[tuple[str, int, float | None, float]]:
    """Metric, epoch, MLflow's and Optuna's value, where these differ: the objective's, and all of the best epoch."""
    metrics = _reproducible(trial.summary.metrics)
    right = {key: {trial.summary.best_epoch: value} for key, value in metrics.items()}
    if right:
        right[session.objective] |= trial.reported
    for key, points in right.items():
        logged = session.tracking.history(run_id, key)
        for epoch, value in points.items():
            if not same_value(logged.get(epoch), value):
                yield key, epoch, logged.get(epoch), value


def _reproducible(metrics: Mapping[str, float]) -> dict[str, float]:
    """All metrics but the times: an epoch that is trained again, since its checkpoint was damaged, has others."""
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def restore_figures(session: Session, figures: Mapping[str, float], trial: EndedTrial | None, run_id: str) -> None:
    """Log again what Optuna has: the points of the histories, then the last values."""
    tracking = session.tracking
    if trial is not None:
        for key, epoch, _, value in list(_wrong_points(session, trial, run_id)):
            tracking.log_again(run_id, key, value, epoch)
    run = tracking.read(run_id)
    for key, value in figures.items():
        if run is not None and not same_value(run.metrics.get(key), value):
            tracking.log_again(run_id, key, value)
