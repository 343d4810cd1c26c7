"""The saved views of MLflow's pages of a study: made before its first trial, and again when it has grown.

Comes in: a session, and what is recorded so far. Goes out: tags of the experiment. Imports no matplotlib, since a run
starts with it.
"""

import time
from collections.abc import Iterable

from pipeline.config.choices import METRICS
from pipeline.config.trial import applies
from pipeline.results.summary import StudySummary, summarise
from pipeline.results.table import FIGURES
from pipeline.study.session import Session
from pipeline.tracking.runs import StoredRun
from pipeline.tracking.views import DRAWN, Views, view_tags


def arrange(session: Session) -> None:
    """Make the saved views of a study whose results were not published yet, so that its first trials are in order."""
    if session.search.published is None:
        first = views(summarise(session.search), ())
        session.tracking.tag_experiment(view_tags(first, time.time()))


def views(summary: StudySummary, runs: Iterable[StoredRun]) -> Views:
    """What the saved views show of a study."""
    recorded = {name for trial in summary.ended for name in trial.summary.metrics} or {f"val/{m}" for m in METRICS}
    names = [name for name in FIGURES if name != summary.metric and f"val/{name}" in recorded]
    shown = summary.ranked[:DRAWN]
    return Views(
        objective=f"best/{summary.metric}",
        ascending=summary.sign < 0,
        figures=[f"best/{name}" for name in names if name != "sharpness"],
        curves=[summary.objective, *(f"val/{name}" for name in names), "train/loss"],
        searched=summary.config.space.searched(),
        axes=[key for key in summary.config.space.searched() if _is_axis(summary, key)],
        hidden={name for run in runs for name in run.metrics},
        bound=min((summary.value(trial) for trial in shown), key=lambda value: summary.sign * value, default=None),
    )


def _is_axis(summary: StudySummary, key: str) -> bool:
    """Whether parallel coordinates can show a key: MLflow leaves out runs without it, and words among numbers."""
    values = [trial.values for trial in summary.ended]
    words = {isinstance(each[key], str | bool) for each in values}
    return len(words) == 1 and all(applies(key, each) for each in values)
