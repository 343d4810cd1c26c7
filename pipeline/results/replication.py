"""What several seeds and the trials that were not chosen say of a candidate, on *select*: beside the gate's verdict.

Comes in: a study's summary and runs, and how a restoration is scored on *select*. Goes out: by how much one replicated
configuration is better than another, and by how much the search flattered its winner. May not import mlflow.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pipeline.errors import TrackingError
from pipeline.evaluation.intervals import Figures, Interval, configurations_interval
from pipeline.evaluation.scores import Scores
from pipeline.home import Home
from pipeline.results.summary import Configuration, StudySummary, summarise
from pipeline.search.records import EndedTrial, ranked
from pipeline.search.studies import load_searches
from pipeline.tracking.registry import RegisteredVersion
from pipeline.tracking.runs import Tracking, read_tracking

MOST_OTHERS = 20  # trials that were not chosen, at even distances in the ranking: each is restored and scored

ScoreTrial = Callable[[EndedTrial, Tracking], Scores]  # on *select*; TrackingError if the weights are lost


@dataclass(frozen=True)
class Optimism:
    """How much the search flattered its winner: val less *select*, less the same of what was not chosen."""

    trial: int
    flattered: float  # in the objective's unit; above 0 where val shows the winner better than it is
    trials: int  # that were not chosen, and are compared
    baselines: int


def optimism(
    summary: StudySummary, tracking: Tracking, score: ScoreTrial, baselines: Mapping[str, Scores]
) -> Optimism | None:
    """The optimism of the trial with the best value; None where there is nothing to compare it with, or it is lost.

    The difference of the splits in difficulty is that of the baselines and of the other trials, whose mean is taken.
    """
    winner, *others = ranked(summary.records, summary.config.objective.direction)
    chosen = sorted({int(place) for place in np.linspace(0, len(others) - 1, min(MOST_OTHERS, len(others)))})
    gaps = [
        metrics[summary.objective] - baselines[name].summary()[summary.metric]
        for name, metrics in summary.baselines.items()
        if name in baselines
    ]
    of_baselines = len(gaps)
    for place in chosen:
        with suppress(TrackingError):  # its weights are lost
            gaps.append(_gap(summary, others[place], tracking, score))
    if not gaps:
        return None
    try:
        flattered = summary.sign * (_gap(summary, winner, tracking, score) - float(np.mean(gaps)))
    except TrackingError:
        return None
    return Optimism(winner.number, flattered, len(gaps) - of_baselines, of_baselines)


def _gap(summary: StudySummary, trial: EndedTrial, tracking: Tracking, score: ScoreTrial) -> float:
    """A trial's objective on val less that on *select*."""
    return summary.value(trial) - score(trial, tracking).summary()[summary.metric]


def champion_configuration(home: Home, version: RegisteredVersion) -> tuple[str, Configuration, Tracking] | None:
    """The replicated configuration that a version was promoted from, and how it is called; None if there is none."""
    for search in load_searches(home, version.tags.get("study.name", "")):
        summary = summarise(search)
        found = {str(number): each for number, each in summary.configurations.items()}
        number = version.tags.get("trial.number", "")
        if search.uid == version.tags.get("study.uid") and number in found:
            tracking = read_tracking(home, summary.name, search.uid)
            return f"trial {number} of {summary.name}", found[number], tracking
    return None


def seeds_on_select(trials: Iterable[EndedTrial], tracking: Tracking, score: ScoreTrial, metric: str) -> Figures:
    """The figures of replicates by image, ``[seeds, images]``. Raises TrackingError if weights are lost."""
    return np.stack([score(trial, tracking).figures(metric) for trial in trials])


def configurations_compared(first: Figures, second: Figures, sign: int) -> Interval:
    """By how much one replicated configuration is better than another, for other seeds and other images."""
    return configurations_interval(sign * first, sign * second)
