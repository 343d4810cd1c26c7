"""A whole study against Lightning + Optuna + MLFlowLogger and against Ray Tune, each the usual way.

    python tests/benchmarks/study.py [--runs 3] [--cache FOLDER] [--trials 8] [--epochs 3]

Every program trains the same configurations of the 784-512-256-128-64-b denoiser on the same images of full MNIST,
with the same batches, optimiser and schedule, and records them in MLflow on a fresh sqlite file. Whole processes are
timed, from the command to its end, in turn. The first table compares at equal precision (``--precision``), the second
this project as shipped, whose default precision is `auto`, with the others in float32, their default. "difference"
shows that the work is the same: of each trial's best validation PSNR, in dB, from this project's.

The rivals' programs are in ``rivals/``. Their environments are made under the cache folder at the first call, with the
torch of this one and with the registry's current releases of the rest; what they hold is stored with the results.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from measure import REPOSITORY, Spread, begin, in_turn, options, report

from pipeline import load_study
from pipeline.config.catalogue import CATALOGUE
from pipeline.data import load
from pipeline.data.formats import read
from pipeline.data.published import status
from pipeline.data.sets import HELD_OUT, stratified
from pipeline.errors import DataError

RIVALS = {"Lightning": ("lightning", ["lightning"]), "Ray Tune": ("ray", ["ray[tune]"])}
COMMON = [f"torch=={version('torch')}", f"torchvision=={version('torchvision')}", "optuna", "mlflow"]
GOALS = {"equal": {"Lightning": 4.5, "Ray Tune": 2.5}, "shipped": {"Lightning": 5, "Ray Tune": 3}}
STUDY = """
name = "bench"
dataset = "mnist"

[degrade]
kind = "gaussian"
sigma = 0.5

[budget]
trials = {trials}
epochs = {epochs}

[pruner]
name = "none"

[model]
depth = 5
width = 512
bottleneck = {{ low = 16, high = 64, log = true }}
activation = "leaky_relu"

[train]
lr = {{ low = 1e-3, high = 4e-3, log = true }}
"""


def configurations(trials: int) -> list[dict[str, Any]]:
    """The same for every program, through its own way of giving the first trials."""
    bottlenecks, rates = (32, 16, 24, 48, 64, 20, 28, 40), (1e-3, 2e-3, 3e-3, 4e-3)
    return [{"bottleneck": bottlenecks[i % 8], "lr": rates[i // 2 % 4]} for i in range(trials)]


def study_file(trials: int, epochs: int) -> str:
    enqueued = (f"[[enqueue]]\nbottleneck = {c['bottleneck']}\nlr = {c['lr']}\n" for c in configurations(trials))
    return STUDY.format(trials=trials, epochs=epochs) + "\n" + "\n".join(enqueued)


def prepare_data(data_dir: Path, folder: Path) -> None:
    """Full MNIST as torchvision wants it, and the splits of this project. Raises DataError if it is not at hand."""
    entry = CATALOGUE["mnist"]
    found = status(entry, data_dir)
    if found.state != "verified":
        raise DataError(found.remark)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for path in found.paths:
        content = path.read_bytes()
        (raw / path.name.removesuffix(".gz")).write_bytes(gzip.decompress(content) if path.suffix == ".gz" else content)
    labels = read(entry, found.paths)[0][0][1]
    train, val, _ = stratified(labels, (HELD_OUT, HELD_OUT))
    sizes = load("mnist", data_dir).sizes
    assert (len(train), len(val)) == (sizes["train"], sizes["val"])
    (folder / "splits.json").write_text(json.dumps({"train": train.tolist(), "val": val.tolist()}))


def environment(cache: Path, name: str) -> tuple[Path, dict[str, str]]:
    """The Python of a rival's environment, made if it is not there, and the versions in it."""
    folder, packages = RIVALS[name]
    python, complete = cache / folder / "bin" / "python", cache / folder / "complete"
    wanted = [*COMMON, *packages]
    if not complete.is_file() or complete.read_text() != "\n".join(wanted):
        print(f"making {name}'s environment in {cache / folder}: a few minutes, several GB", file=sys.stderr)
        shutil.rmtree(cache / folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", cache / folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
        complete.write_text("\n".join(wanted))
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], capture_output=True, check=True).stdout
    shown = {"torch", "torchvision", "optuna", "mlflow", folder}
    return python, {p["name"]: p["version"] for p in json.loads(listed) if p["name"] in shown}


def timed(command: list[object], folder: Path, environ: dict[str, str] | None = None) -> float:
    """Seconds of a whole process, started in ``folder``; its output is shown if it fails."""
    started = time.perf_counter()
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=os.environ | (environ or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with exit code {done.returncode}:\n{done.stdout[-4000:]}")
    return seconds


def this_project(arguments: argparse.Namespace, precision: str | None, scores: dict[str, Any], name: str) -> float:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "bench.toml").write_text(study_file(arguments.trials, arguments.epochs))
        command = [sys.executable, "-m", "pipeline", "run", "bench.toml", "--home", folder / "home"]
        command += ["--data-dir", arguments.data_dir.absolute(), "--workers", 2, "--quiet"]
        command += ["--set", f"train.precision={precision}"] if precision else []
        seconds = timed(command, folder, {"PYTHONPATH": str(REPOSITORY)})
        scores[name] = [trial.value for trial in load_study("bench", home=folder / "home").optuna.trials]
        return seconds


def rival(
    arguments: argparse.Namespace, name: str, python: Path, data: Path, bfloat16: bool, scores: dict[str, Any], row: str
) -> float:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "trials.json").write_text(json.dumps(configurations(arguments.trials)))
        script = Path(__file__).parent / "rivals" / f"{RIVALS[name][0]}_study.py"
        command = [python, script, "--data-dir", data, "--trials", "trials.json", "--epochs", arguments.epochs]
        command += ["--result", folder / "result.json", *(["--bfloat16"] if bfloat16 else [])]
        seconds = timed(command, folder)
        scores[row] = json.loads((folder / "result.json").read_text())
        return seconds


def main(arguments_given: list[str] | None = None) -> None:
    parser = options(__doc__, runs=3)
    cache = Path(platformdirs.user_cache_dir("restoration-study")) / "benchmarks"
    parser.add_argument("--cache", type=Path, default=cache, help="for the rivals' environments (%(default)s)")
    parser.add_argument("--rivals", nargs="*", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="of the first table")
    arguments = parser.parse_args(arguments_given)
    pythons = {name: environment(arguments.cache.absolute(), name) for name in arguments.rivals}
    begin(arguments)

    with tempfile.TemporaryDirectory() as path:
        data = Path(path)
        try:
            prepare_data(arguments.data_dir, data)
        except DataError as error:
            sys.exit(f"needs full MNIST: {error}")
        scores: dict[str, list[float]] = {}
        equal, shipped = f"this project, {arguments.precision}", "this project, as shipped"
        variants = {
            equal: partial(this_project, arguments, arguments.precision, scores, equal),
            shipped: partial(this_project, arguments, None, scores, shipped),
        }
        for precision in dict.fromkeys([arguments.precision, "float32"]):
            for name, (python, _) in pythons.items():
                row, bfloat16 = f"{name}, {precision}", precision == "bfloat16"
                variants[row] = partial(rival, arguments, name, python, data, bfloat16, scores, row)
        times = in_turn(variants, arguments.runs, warm_up=False)

    work = f"{arguments.trials} trials x {arguments.epochs} epochs of full MNIST, batch 128"
    installed = {name: ", ".join(f"{p} {v}" for p, v in found.items()) for name, (_, found) in pythons.items()}
    for title, own, precision, goals in (
        (f"At equal precision: {work}", equal, arguments.precision, GOALS["equal"]),
        (f"As shipped: {work}", shipped, "float32", GOALS["shipped"]),
    ):
        rows = [
            _row(row, name, times, scores, own, arguments, goals)
            for row, name in [(own, ""), *((f"{name}, {precision}", name) for name in pythons)]
        ]
        report(title, rows, arguments, **installed)


def _row(
    row: str,
    name: str,
    times: dict[str, list[float]],
    scores: dict[str, list[float]],
    own: str,
    arguments: argparse.Namespace,
    goals: dict[str, float],
) -> dict[str, Any]:
    differences = [a - b for a, b in zip(scores[row], scores[own], strict=True)]
    return {
        "program": row,
        "s per trial-epoch": Spread.of(t / arguments.trials / arguments.epochs for t in times[row]),
        "times slower": Spread.of(a / b for a, b in zip(times[row], times[own], strict=True)),
        "goal": goals.get(name, ""),
        "n": len(times[row]),
        "best PSNR": max(scores[row]),
        "mean PSNR": statistics.mean(scores[row]),
        "difference": Spread.of(differences),
    }


if __name__ == "__main__":
    main()
