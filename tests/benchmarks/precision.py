"""Does training in bfloat16 cost quality? Paired trainings, float32 and bfloat16 from the same seed.

    python tests/benchmarks/precision.py [--data-dir FOLDER] [--runs 5] [--margin 0.05] [--json FILE]

Trains the report's denoiser and a small U-Net behind `unshuffle = 2`, on full MNIST if it is under the data folder,
otherwise on the embedded digits. A pair's figure is the validation PSNR of the best epoch in bfloat16 less that in
float32. Prints mean and standard deviation of the pairs, and p of the two one-sided t tests that the mean lies within
the margin: below 0.05 the two are equivalent. A kind of layer for which that is not so does not belong in
`AUTO_BFLOAT16` of pipeline/config/choices.py.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from measure import Spread, begin, mnist, options, report
from scipy.stats import ttest_1samp

from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.outcomes import Checkpoint, Trained
from pipeline.config.trial import Gaussian
from pipeline.epoch import run_epoch

# By the kind of layer: a network, the peak of its learning rate, and its epochs.
NETWORKS = {
    "linear": (ModelConfig(depth=5, bottleneck=32, activation="leaky_relu"), 3e-3, 6),
    "conv": (ModelConfig(layer_type="conv", depth=1, channels=32, bottleneck=64, unshuffle=2, skip=True), 5e-3, 3),
}
PRECISIONS = ("float32", "bfloat16")


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


def compare(dataset: str, layers: str, runs: int, margin: float, data_dir: Path) -> dict[str, object]:
    """The pairs of one kind of layer, of as many seeds, and what they show."""
    pairs = [{name: train(dataset, layers, name, seed, data_dir) for name in PRECISIONS} for seed in range(runs)]
    differences = [pair["bfloat16"][0] - pair["float32"][0] for pair in pairs]
    tests = (
        ttest_1samp(differences, -margin, alternative="greater"),
        ttest_1samp(differences, margin, alternative="less"),
    )
    return {
        "layers": layers,
        "epochs": NETWORKS[layers][2],
        "mean dB": f"{statistics.mean(differences):+.4f}",
        "sd dB": f"{statistics.stdev(differences):.4f}",
        "p": max(float(test.pvalue) for test in tests),
        **{f"{name}, dB": Spread.of(pair[name][0] for pair in pairs) for name in PRECISIONS},
        **{f"{name}, CPU s an epoch": Spread.of(pair[name][1] for pair in pairs) for name in PRECISIONS},
        "n": runs,
    }


def main() -> None:
    parser = options(__doc__, runs=5)
    parser.add_argument("--layers", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--margin", type=float, default=0.05, help="in dB")
    given = parser.parse_args()
    begin(given)
    dataset = mnist(given.data_dir).name
    rows = [compare(dataset, layers, given.runs, given.margin, given.data_dir) for layers in given.layers]
    report("bfloat16 less float32, validation PSNR", rows, given, dataset=dataset, margin_db=given.margin)


if __name__ == "__main__":
    main()
