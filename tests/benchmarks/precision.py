"""Does training in bfloat16 cost quality? Paired trainings, float32 and bfloat16 from the same seed.

    python tests/benchmarks/precision.py [--data-dir FOLDER] [--seeds 5] [--margin 0.05] [--json FILE]

Trains the report's denoiser and a small U-Net behind `unshuffle = 2`, on full MNIST if it is under the data folder,
otherwise on the embedded digits. A pair's figure is the validation PSNR of the best epoch in bfloat16 less that in
float32. Prints mean and standard deviation of the pairs, and p of the two one-sided t tests that the mean lies within
the margin: below 0.05 the two are equivalent. A kind of layer for which that is not so does not belong in
`AUTO_BFLOAT16` of pipeline/config/choices.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from scipy.stats import ttest_1samp

from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.outcomes import Checkpoint, Trained
from pipeline.config.trial import Gaussian
from pipeline.data import load
from pipeline.epoch import run_epoch
from pipeline.errors import DataError
from pipeline.home import default_data_dir
from pipeline.provenance import hardware, versions

# By the kind of layer: a network, the peak of its learning rate, and its epochs.
NETWORKS = {
    "linear": (ModelConfig(depth=5, bottleneck=32, activation="leaky_relu"), 3e-3, 6),
    "conv": (ModelConfig(layer_type="conv", depth=1, channels=32, bottleneck=64, unshuffle=2, skip=True), 5e-3, 3),
}


def train(dataset: str, layers: str, precision: str, seed: int, data_dir: Path) -> tuple[float, float]:
    """The validation PSNR of a training's best epoch, and its CPU seconds per epoch."""
    model, rate, epochs = NETWORKS[layers]
    trial = TrialConfig(
        dataset=dataset,
        degrade=Gaussian(kind="gaussian", sigma=0.5),
        model=model,
        train=TrainConfig(lr=rate, precision=precision),
        epochs=epochs,
        seed=seed,
    )
    before: Checkpoint | None = None
    values = []
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(epochs):
            outcome = run_epoch(trial, before, data_dir, Path(folder))
            assert isinstance(outcome, Trained), outcome
            before = outcome.checkpoint
            values.append(outcome.result.metrics["val/psnr"])
    return max(values), (time.process_time() - started) / epochs


def compare(dataset: str, layers: str, seeds: int, margin: float, data_dir: Path) -> dict[str, object]:
    """The pairs of one kind of layer, and what they show."""
    pairs = []
    for seed in range(seeds):
        pair = {name: train(dataset, layers, name, seed, data_dir) for name in ("float32", "bfloat16")}
        pairs.append(pair)
        shown = ", ".join(f"{name} {value:.3f} dB ({cpu:.1f} CPU s)" for name, (value, cpu) in pair.items())
        print(f"{layers:7s} seed {seed}: {shown}", flush=True)
    differences = [pair["bfloat16"][0] - pair["float32"][0] for pair in pairs]
    tests = (
        ttest_1samp(differences, -margin, alternative="greater"),
        ttest_1samp(differences, margin, alternative="less"),
    )
    return {
        "layers": layers,
        "epochs": NETWORKS[layers][2],
        "n": seeds,
        "mean_db": statistics.mean(differences),
        "sd_db": statistics.stdev(differences),
        "p": max(float(test.pvalue) for test in tests),
        "psnr_db": {name: [pair[name][0] for pair in pairs] for name in pairs[0]},
        "cpu_s_per_epoch": {name: statistics.mean(pair[name][1] for pair in pairs) for name in pairs[0]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--layers", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--margin", type=float, default=0.05, help="in dB")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dataset = "mnist"
    try:
        load(dataset, arguments.data_dir)
    except DataError as error:
        dataset = "mnist-5k"
        print(f"embedded digits instead of full MNIST: {error}")
    machine = {"dataset": dataset, "hardware": hardware(), "torch": versions()["torch"], "margin_db": arguments.margin}
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    found = [
        compare(dataset, layers, arguments.seeds, arguments.margin, arguments.data_dir) for layers in arguments.layers
    ]
    print(f"{'layers':8s}{'pairs':>6s}{'epochs':>7s}{'mean dB':>9s}{'sd dB':>8s}{'p':>10s}")
    for row in found:
        print("{layers:8s}{n:6d}{epochs:7d}{mean_db:+9.4f}{sd_db:8.4f}{p:10.2g}".format(**row))
    if arguments.json:
        arguments.json.write_text(json.dumps({**machine, "results": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
