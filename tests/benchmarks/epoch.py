"""Seconds of one training epoch, and what the choices in the training loop are worth, as ratios within one run.

    python tests/benchmarks/epoch.py [--data-dir FOLDER] [--runs 5]

The report's denoiser (five reductions to 32) on full MNIST where it is found under the data folder, else on the
embedded digits. Each variant is timed in turn, round after round, so that a machine whose speed drifts harms all alike;
medians with the least and the greatest are printed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.trial import Gaussian
from pipeline.data import Dataset, load
from pipeline.errors import DataError
from pipeline.home import default_data_dir
from pipeline.numerics import threads
from pipeline.provenance import hardware, versions
from pipeline.train import build_model, build_optimizer, run_leg


def config(dataset: str, **train: object) -> TrialConfig:
    model = ModelConfig(depth=5, bottleneck=32, activation="leaky_relu")
    noise = Gaussian(kind="gaussian", sigma=0.5)
    settings = TrainConfig.model_validate({"batch_size": 128, "lr_scheduler": "constant", **train})
    return TrialConfig(dataset=dataset, degrade=noise, model=model, train=settings, epochs=1)


def leg(trial: TrialConfig, data_dir: Path) -> float:
    """The training time that a leg reports."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_leg(trial, None, data_dir, Path(folder))
    assert result.epoch is not None, result.failure
    return result.epoch.metrics["time/epoch_s"]


def with_data_loader(trial: TrialConfig, data: Dataset) -> float:
    """The same epoch as it is commonly written: a DataLoader, a loss read at every step, an unfused optimiser."""
    loader = DataLoader(TensorDataset(data.train.images), batch_size=128, shuffle=True, drop_last=True)
    model = build_model(trial, data)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with threads(1):
        started, total = time.perf_counter(), 0.0
        for (images,) in loader:
            clean = images.float() / 255
            noisy = (clean + 0.5 * torch.randn_like(clean)).clamp(0, 1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(noisy), clean)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    try:
        data = load("mnist", arguments.data_dir)
    except DataError as error:
        print(f"embedded digits instead of full MNIST: {error}")
        data = load("mnist-5k", arguments.data_dir)
    assert build_optimizer(TrainConfig(), iter([torch.nn.Parameter(torch.zeros(1))]), "cpu").defaults["fused"]
    base = config(data.name)
    variants: dict[str, Callable[[], float]] = {
        "leg, batch 128": lambda: leg(base, arguments.data_dir),
        "leg, batch 512": lambda: leg(config(data.name, batch_size=512), arguments.data_dir),
        "leg, batch 512, bfloat16": lambda: leg(
            config(data.name, batch_size=512, precision="bfloat16"), arguments.data_dir
        ),
        "DataLoader, batch 128": lambda: with_data_loader(base, data),
    }
    for measure in variants.values():
        measure()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.runs):
        for name, measure in variants.items():
            times[name].append(measure())
    print(f"{hardware()}; torch {versions()['torch']}; one thread; {len(data.train):,} images; {arguments.runs} runs")
    first = times["leg, batch 128"]
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:26s} {statistics.median(seconds):6.2f} s ({spread}), x {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
