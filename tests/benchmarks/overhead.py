"""The workers' time by what it was spent on, on the quickstart and on full MNIST.

    python tests/benchmarks/overhead.py [--runs 3] [--trials 8] [--epochs 3] [--json FILE]

Runs whole studies in homes that have the judge: the quickstart as it is shipped, and `denoise.toml` with so many trials
and epochs. The parts are those of `pipeline/workers/timed.py`: training with validation, baselines, waiting for the
driver, idle because of the window of trials, and idle at the end, when every trial has been asked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from measure import REPOSITORY, Spread, begin, options, report

from pipeline.api import run_study
from pipeline.config import load_study_file
from pipeline.data import load
from pipeline.evaluation.judge import judge_of
from pipeline.home import open_home
from pipeline.study.lines import PlainLines
from pipeline.study.session import Options


def shares(study: str, overrides: list[str], trials: int | None, data_dir: Path) -> dict[str, float]:
    """The shares of the workers' time in one run of a study."""
    file = load_study_file(REPOSITORY / "studies" / study, overrides, None, trials)
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder) / "home", data_dir)
        judge_of(load(file.config.dataset, data_dir), home.judges)
        outcome = run_study(file, home, Options(report=False), PlainLines(write=lambda _: None))
    return outcome.shares | {"seconds": outcome.seconds}


def main() -> None:
    parser = options(__doc__, runs=3)
    parser.add_argument("--trials", type=int, default=8, help="of the study on full MNIST (default 8)")
    parser.add_argument("--epochs", type=int, default=3, help="of each of its trials (default 3)")
    arguments = parser.parse_args()
    begin(arguments)
    studies: dict[str, tuple[list[str], int | None]] = {
        "quickstart.toml": ([], None),
        "denoise.toml": ([f"budget.epochs={arguments.epochs}"], arguments.trials),
    }
    rows: list[dict[str, Any]] = []
    for study, (overrides, trials) in studies.items():
        found = [shares(study, overrides, trials, arguments.data_dir) for _ in range(arguments.runs)]
        spreads = {part: Spread.of(run[part] for run in found) for part in found[0]}
        rows.append({"study": study, "n": arguments.runs, **spreads})
    report("Shares of the workers' time", rows, arguments)


if __name__ == "__main__":
    main()
