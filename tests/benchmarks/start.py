"""Seconds from a command to what it shows, as whole processes: a study's start, and the commands that read.

    python tests/benchmarks/start.py [--runs 5] [--json FILE]

`study run` of a denoiser on full MNIST (else the embedded digits), in a fresh home and in one that has the judge and
the databases: until its first line, until its first epoch starts, and until its result is printed. The start is
what the epoch's record in MLflow says: when its result was ready, less its training time, so its validation counts as
start. Then `list`, `show`, `export`, `models`, `list --trainings` and `--help` on the home that this leaves.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Spread, begin, mnist, options, report

from pipeline.home import open_home
from pipeline.search.studies import load_search
from pipeline.tracking.store import connect

STUDY = [sys.executable, "-m", "pipeline"]
FILE = """
name = "start"
dataset = "{dataset}"
[degrade]
kind = "gaussian"
sigma = 0.5
[budget]
trials = 2
epochs = 1
[model]
depth = 5
bottleneck = [32, 64]
"""
READING = ("list", "show start", "export start", "models", "list --trainings")


def run(file: Path, home: Path, data_dir: Path) -> dict[str, float]:
    """Run the study once; seconds until each event."""
    found: dict[str, float] = {}
    began, clock = time.perf_counter(), time.time()
    command = [*STUDY, "run", file, "--no-report", "--home", home, "--data-dir", data_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found.setdefault("first line", time.perf_counter() - began)
            if "epoch 1/" in line:
                found.setdefault("first epoch's result", time.perf_counter() - began)
    assert process.returncode == 0
    client = connect(open_home(home))
    starts = []
    for trial in load_search(open_home(home), "start").records():
        run_id = trial.summary.run_id  # type: ignore[union-attr]
        [took] = client.get_metric_history(run_id, "time/epoch_s")
        starts.append(took.timestamp / 1000 - took.value)
    return found | {"first epoch starts": min(starts) - clock}


def timed(*words: str | Path) -> float:
    began = time.perf_counter()
    subprocess.run([*STUDY, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    arguments = options(__doc__, runs=5).parse_args()
    begin(arguments)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        file = home = Path(folder) / "start.toml"
        file.write_text(FILE.format(dataset=mnist(arguments.data_dir).name))
        for kind in ("fresh home", "home with judge"):
            found = []
            for i in range(arguments.runs + (kind == "fresh home")):  # the first one fills the machine's caches
                if kind == "fresh home":
                    home = Path(folder) / f"home-{i}"
                else:
                    subprocess.run(
                        [*STUDY, "delete", "start", "--yes", "--home", home], check=True, capture_output=True
                    )
                found.append(run(file, home, arguments.data_dir))
            for event in ("first line", "first epoch starts", "first epoch's result"):
                seconds = Spread.of(each[event] for each in found[-arguments.runs :])
                rows.append({"command": "run", "home": kind, "until": event, "seconds": seconds, "n": arguments.runs})
        for words in (*READING, "--help"):
            given = [] if words == "--help" else ["--home", home]
            seconds = Spread.of(timed(*words.split(), *given) for _ in range(arguments.runs))
            rows.append({"command": words, "home": "", "until": "end", "seconds": seconds, "n": arguments.runs})
    report("Seconds from the command", rows, arguments)


if __name__ == "__main__":
    main()
