"""What each pruner saves and what it costs, replayed on the learning curves of unpruned studies.

    python tests/benchmarks/pruners.py STUDY... --home HOME [--runs 60] [--trials 30] [--json FILE]

Make the curves first: run a study with `[sampler] name = "random"` and `[pruner] name = "none"`. Each run draws
trials from its complete ones and replays them through the program's own search: its window of trials, its pruners.
Prints how many times fewer epochs are trained than without a pruner, and by how much the best complete trial is worse
than the best of all, mean and standard error over the runs. The same draws are used for all pruners.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path
from typing import Any

from measure import begin, options, report

from pipeline.config import StudyConfig
from pipeline.home import open_home
from pipeline.search.ask_tell import Search
from pipeline.search.records import Summary, ended
from pipeline.search.studies import detached, load_search

Curve = list[float]  # the objective of each epoch
WINDOWS = (4, 8)


def pruners(epochs: int) -> dict[str, dict[str, Any]]:
    """The settings that are compared; a sixth of the epochs is rounded up."""
    sixth = math.ceil(epochs / 6)
    halving = {"name": "successive_halving"}
    return {
        "median": {"name": "median"},
        f"median, {sixth} epochs of warm-up": {"name": "median", "n_warmup_steps": sixth},
        "hyperband": {"name": "hyperband"},
        "halving, auto": halving,
        "halving, from 1, by 4": halving | {"min_resource": 1, "reduction_factor": 4},
        f"halving, from {sixth}, by 2": halving | {"min_resource": sixth, "reduction_factor": 2},
        f"halving, from {sixth}, by 3": halving | {"min_resource": sixth, "reduction_factor": 3},
        f"halving, from {sixth}, by 4": halving | {"min_resource": sixth, "reduction_factor": 4},
        f"halving, from {sixth + 1}, by 4": halving | {"min_resource": sixth + 1, "reduction_factor": 4},
    }


def curves_of(search: Search) -> list[Curve]:
    """The curves of all complete trials, which were trained to the end."""
    found = [trial for trial in ended(search.records()) if trial.state == "COMPLETE"]
    return [[trial.reported[epoch] for epoch in sorted(trial.reported)] for trial in found]


def replay(config: StudyConfig, curves: list[Curve]) -> tuple[int, float]:
    """Run a study whose n-th trial has the n-th curve: the epochs that it trains, and its best value.

    One trial after the other, which gives what any number of workers would: a trial sees through the window only.
    """
    best = max if config.objective.direction == "maximize" else min
    epochs, values = 0, []
    search = detached(config, "0" * 32)
    for number, curve in enumerate(curves):
        trial = search.ask() if number else search.reopen(0)
        pruned = False
        for epoch, value in enumerate(curve, 1):
            epochs += 1
            pruned = trial.report(epoch, value) and epoch < len(curve)
            if pruned:
                break
        if not pruned:
            values.append(best(curve))
        search.tell(trial, "PRUNED" if pruned else "COMPLETE", None if pruned else best(curve), Summary("", cost={}))
    return epochs, best(values)


def compare(search: Search, trials: int, runs: int) -> list[dict[str, Any]]:
    """A row for each pruner and window."""
    curves, stored = curves_of(search), search.config
    best = max if stored.objective.direction == "maximize" else min
    drawn = [random.Random(run).sample(curves, min(trials, len(curves))) for run in range(runs)]
    rows = []
    for window in WINDOWS:
        for name, pruner in pruners(stored.budget.epochs).items():
            plain = stored.canonical() | {"model": {}, "train": {}, "enqueue": [], "sampler": {"name": "random"}}
            budget = plain["budget"] | {"trials": trials, "concurrency": window}
            config = StudyConfig.model_validate_json(json.dumps(plain | {"pruner": pruner, "budget": budget}))
            saved, lost = [], []
            for some in drawn:
                epochs, value = replay(config, some)
                saved.append(sum(map(len, some)) / epochs)
                lost.append(abs(best(map(best, some)) - value))
            rows.append(
                {
                    "study": stored.name,
                    "curves": len(curves),
                    "window": window,
                    "pruner": name,
                    "times fewer epochs": statistics.mean(saved),
                    "mean loss": f"{statistics.mean(lost):.4f}",
                    "standard error": f"{statistics.stdev(lost) / math.sqrt(runs):.4f}",
                    "best lost in": f"{sum(loss > 0 for loss in lost) / runs:.0%}",
                }
            )
    return rows


def main() -> None:
    parser = options(__doc__, runs=60)
    parser.add_argument("studies", nargs="+", metavar="STUDY")
    parser.add_argument("--home", type=Path, default=Path("mlruns"))
    parser.add_argument("--trials", type=int, default=30, help="of each run")
    given = parser.parse_args()
    begin(given)
    home = open_home(given.home)
    rows = [row for name in given.studies for row in compare(load_search(home, name), given.trials, given.runs)]
    report("Pruners, replayed", rows, given, n=given.runs)


if __name__ == "__main__":
    main()
