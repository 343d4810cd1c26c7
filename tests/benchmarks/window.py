"""The window rule: what `[budget] concurrency` costs, in idle workers and in what a guided sampler does not learn.

    python tests/benchmarks/window.py [--runs 40] [--json FILE]

Busy: the share of time that workers train, through the real `study.window` machine with a driver that takes no time.
Trials differ as those of a search do: in how long their epochs take, from half to twice the mean, and in how many they
have, since a pruner ends every second one early.
Learning: the best value that the real search finds in so many trials on an invented objective, through windows of
several widths, beside random search; each run has another seed. Prints means with standard errors.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from measure import begin, options, report

from pipeline.study import window as w

WORKERS, FACTORS = (8, 64, 256), (1, 2, 4, 8)
TRIALS, WIDTHS = (30, 60, 120), (1, 2, 4, 5, 8, 10, 16, 20, 32, 40)
STUDY = """\
name = "invented"
dataset = "mnist-5k"
seed = {seed}
[degrade]
kind = "gaussian"
sigma = 0.5
[budget]
trials = {trials}
epochs = 1
concurrency = {width}
[sampler]
name = "{sampler}"
[pruner]
name = "none"
[model]
bottleneck = {{ low = 8, high = 256, log = true }}
depth = {{ low = 1, high = 5 }}
activation = ["relu", "leaky_relu", "elu"]
dropout = {{ low = 0.0, high = 0.5 }}
[train]
optimizer = ["adam", "sgd"]
lr = {{ by = "optimizer", sgd = {{ low = 0.01, high = 10.0, log = true }}, default = {{ low = 1e-4, high = 1e-1, log = true }} }}
batch_size = {{ low = 32, high = 512, log = true }}
"""  # noqa: E501


def epoch_length(number: int, lengths: str) -> float:
    """How long an epoch of a trial takes, beside the mean."""
    return 2 ** random.Random(f"length {number}").uniform(-1, 1) if lengths == "random" else 1.0


def last_epoch(number: int, epochs: int) -> int:
    """The epoch after which a trial ends."""
    draw = random.Random(f"epochs {number}")
    return draw.randint(1, epochs) if draw.random() < 0.5 else epochs


def busy_share(workers: int, width: int, trials: int, epochs: int, lengths: str = "random") -> float:
    """The share of time that equal workers are busy if the driver takes none, until the last trial is asked."""
    window = w.Window(trials, width)
    running: list[tuple[float, int, int]] = []  # when it ends, trial, epoch
    now = busy = busy_then = asked_last = 0.0
    events: list[w.Event] = [w.SlotsChanged(workers)]
    while not window.finished:
        while events:
            for action in window.feed(events.pop(0)):
                match action:
                    case w.Open(number):
                        events.append(w.Opened(number, 0))
                        if number == trials - 1:  # from here on workers run out of trials, whatever the window
                            asked_last, busy_then = now, busy - sum(end - now for end, _, _ in running)
                    case w.Submit(number, epoch):
                        length = epoch_length(number, lengths)
                        busy += length
                        heapq.heappush(running, (now + length, number, epoch))
                    case w.Report(number, epoch):
                        events.append(
                            w.EpochReported(number, w.End("COMPLETE") if epoch == last_epoch(number, epochs) else None)
                        )
        if running:
            now, number, epoch = heapq.heappop(running)
            events.append(w.EpochTrained(number, epoch))
    return busy_then / (workers * asked_last) if asked_last else busy / (workers * now)


def invented(number: int, values: Mapping[str, Any]) -> float:
    """A PSNR that depends on the settings as real ones do: a best rate and width, small effects, noise."""
    best = {"adam": 3e-3, "sgd": 1.0}[values["optimizer"]]
    fit = -0.8 * math.log10(values["lr"] / best) ** 2 - 0.15 * (math.log2(values["bottleneck"]) - 7) ** 2
    fit -= 2 * values["dropout"] + 0.1 * (values["depth"] - 3) ** 2 + 0.1 * abs(math.log2(values["batch_size"]) - 6)
    fit += {"relu": 0.0, "leaky_relu": 0.1, "elu": 0.05}[values["activation"]] - 0.2 * (values["optimizer"] == "sgd")
    return 18.6 + fit + random.Random(number).gauss(0, 0.03)


def best_found(sampler: str, trials: int, width: int, seed: int) -> float:
    """The best value of a study whose trials are asked and told as the driver does, in a database in memory."""
    from pipeline.config import load_study_file
    from pipeline.search.records import Summary
    from pipeline.search.studies import detached

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_text(STUDY.format(seed=seed, trials=trials, width=width, sampler=sampler))
        config = load_study_file(file).config
    search = detached(config, "0" * 32)
    opened, values = [search.reopen(0)], []
    for number in range(trials):
        while len(opened) < min(width, trials - number):
            opened.append(search.ask())
        trial = opened.pop(0)
        values.append(invented(trial.number, trial.values))
        trial.report(1, values[-1])
        search.tell(trial, "COMPLETE", values[-1], Summary(""))
    return max(values)


def main() -> None:
    parser = options(__doc__, runs=40)
    parser.add_argument("--trials", type=int, nargs="+", default=TRIALS)
    parser.add_argument("--workers", type=int, nargs="+", default=WORKERS)
    given = parser.parse_args()
    begin(given)
    shares = [
        {"workers": n} | {f"window {f} x": busy_share(n, f * n, 6 * n * f, 12) for f in FACTORS} for n in given.workers
    ]
    report("Share of the time that workers are busy", shares, given)
    rows: list[dict[str, Any]] = []
    for trials in given.trials:
        for sampler, width in [("random", 1), *(("tpe", width) for width in WIDTHS if width <= trials // 2)]:
            found = [best_found(sampler, trials, width, seed) for seed in range(given.runs)]
            error = statistics.stdev(found) / math.sqrt(len(found))
            of = {"trials": trials, "sampler": sampler, "window": width}
            rows.append(of | {"best": f"{statistics.mean(found):.3f}", "error": f"{error:.3f}", "n": len(found)})
    report("Best value found", rows, given)


if __name__ == "__main__":
    main()
