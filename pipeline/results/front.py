"""The front of a study: the complete trials that no other one beats both in the objective and in a cost.

Comes in: a `StudySummary`. Goes out: trials with their cost and their objective. Imports no torch and no matplotlib.
"""

import math

from pipeline.results.summary import StudySummary
from pipeline.search.records import EndedTrial

COSTS = ("parameters", "multiply_adds")
SHARPNESS = "sharpness"  # its cost is the distance from 1, which is as sharp as the clean images

Costed = tuple[EndedTrial, float, float]  # a trial, its cost, its objective


def costed(summary: StudySummary, name: str) -> list[Costed]:
    """The complete trials that have this cost, one of `COSTS` or `SHARPNESS`; the best first."""
    found = []
    for trial in summary.ranked:
        cost = trial.summary.metrics.get(f"val/{name}") if name == SHARPNESS else trial.summary.cost.get(name)
        if cost is not None and cost > 0 and math.isfinite(cost):
            found.append((trial, float(cost), summary.value(trial)))
    return found


def front(summary: StudySummary, name: str) -> list[Costed]:
    """Those that no other one beats in both, the least cost first: each has a better objective than all before it."""

    def cost(entry: Costed) -> float:
        return abs(math.log(entry[1])) if name == SHARPNESS else entry[1]

    best: list[Costed] = []
    for entry in sorted(costed(summary, name), key=lambda entry: (cost(entry), -summary.sign * entry[2])):
        if not best or summary.sign * entry[2] > summary.sign * best[-1][2]:
            best.append(entry)
    return best
