"""Seconds of one training epoch, and the gain from each choice in the training loop, as ratios within one run.

    python tests/benchmarks/epoch.py [--data-dir FOLDER] [--runs 5]

Times the report's denoiser (five reductions to 32) on full MNIST if it is under the data folder, otherwise on the
embedded digits, and 50 steps of convolutional autoencoders, whose epochs take longer. The variants are timed in turn in
every round, so that a change of the machine's speed affects all of them. Prints medians, minima and maxima.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.outcomes import Trained
from pipeline.config.trial import Gaussian
from pipeline.data import Dataset, load
from pipeline.data.degrade import degrade
from pipeline.data.sets import to_float
from pipeline.epoch import build_model, run_epoch
from pipeline.errors import DataError
from pipeline.evaluation.batches import threads
from pipeline.home import default_data_dir
from pipeline.provenance import hardware, versions
from pipeline.training.losses import loss_value
from pipeline.training.optimizers import build_optimizer
from pipeline.workers import Returned, start

REPORT = ModelConfig(depth=5, bottleneck=32, activation="leaky_relu")
U_NET = ModelConfig(layer_type="conv", depth=2, channels=16, bottleneck=64, skip=True)
STEPS = 50


def config(dataset: str, model: ModelConfig = REPORT, **train: object) -> TrialConfig:
    noise = Gaussian(kind="gaussian", sigma=0.5)
    settings = TrainConfig.model_validate(
        {"batch_size": 128, "lr_scheduler": "constant", "precision": "float32", **train}
    )
    return TrialConfig(dataset=dataset, degrade=noise, model=model, train=settings, epochs=1)


def epoch(trial: TrialConfig, data_dir: Path) -> float:
    """The training time that an epoch reports."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_epoch(trial, None, data_dir, Path(folder))
    assert isinstance(outcome, Trained), outcome
    return outcome.result.metrics["time/epoch_s"]


def on_a_worker(trial: TrialConfig, data_dir: Path, **environment: str) -> float:
    """The same time on a worker process, started with these environment variables."""
    before = dict(os.environ)
    os.environ.update(environment)
    workers = start(1, None)
    try:
        for _ in range(2):  # the first is a warm-up
            workers.submit("epoch", epoch, trial, data_dir)
            while (outcome := workers.wait(60)) is None:
                pass
        assert isinstance(outcome, Returned), outcome
        return float(outcome.result)
    finally:
        workers.close()
        os.environ.clear()
        os.environ.update(before)


def with_data_loader(trial: TrialConfig, data: Dataset) -> float:
    """The same epoch as it is usually written: a DataLoader, the loss read at every step, an unfused optimizer."""
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


def steps(trial: TrialConfig, data: Dataset, layout: torch.memory_format = torch.channels_last) -> float:
    """Training steps on one batch; all maps inherit ``layout`` from the weights of the first convolution."""
    model = build_model(trial, data)
    model.encoder[0][0][0].to(memory_format=layout)
    optimizer = build_optimizer(trial.train, model.parameters(), "cpu")
    clean = to_float(data.train.images[: trial.train.batch_size])
    noisy = degrade(clean, trial.degrade, torch.Generator().manual_seed(0))
    with threads(1):
        started = time.perf_counter()
        for _ in range(STEPS):
            with torch.autocast("cpu", torch.bfloat16, enabled=trial.train.precision == "bfloat16"):
                logits = model(noisy)
            loss = loss_value(logits.float(), clean, trial.train)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started


def compare(variants: dict[str, Callable[[], float]], runs: int) -> None:
    """Time the variants in turn and print them, with their ratio to the first."""
    for measure in variants.values():
        measure()  # warm-up
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(runs):
        for name, measure in variants.items():
            times[name].append(measure())
    first = times[next(iter(variants))]
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(seconds, first, strict=True)]
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"{name:40s} {statistics.median(seconds):6.2f} s ({spread}), x {statistics.median(ratios):.2f}")


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
        "epoch, batch 128": lambda: epoch(base, arguments.data_dir),
        "epoch, batch 512": lambda: epoch(config(data.name, batch_size=512), arguments.data_dir),
        "epoch, batch 512, bfloat16": lambda: epoch(
            config(data.name, batch_size=512, precision="bfloat16"), arguments.data_dir
        ),
        "DataLoader, batch 128": lambda: with_data_loader(base, data),
    }
    print(f"{hardware()}; torch {versions()['torch']}; one thread; {len(data.train):,} images; {arguments.runs} runs")
    compare(variants, arguments.runs)

    u_net = config(data.name, U_NET)
    wider = config(data.name, U_NET.model_copy(update={"channels": 24, "bottleneck": 96, "convs": 2}))
    convolutions = {
        "U-Net 16-32-64, batch 128": lambda: steps(u_net, data),
        "the same, channels outermost": lambda: steps(u_net, data, torch.contiguous_format),
        "the same, bfloat16": lambda: steps(config(data.name, U_NET, precision="bfloat16"), data),
        "the same, loss bce + 0.2 ssim": lambda: steps(config(data.name, U_NET, loss="bce + 0.2 ssim"), data),
        "U-Net 24-48-96, two convolutions per level": lambda: steps(wider, data),
    }
    # Dask's defaults for its workers: freed memory is returned to the system at once.
    dask_s = {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "8"}
    few, few_u_net = config("mnist-5k"), config("mnist-5k", U_NET)
    on_workers: dict[str, Callable[[], float]] = {
        "U-Net 16-32-64 on a worker": lambda: on_a_worker(few_u_net, arguments.data_dir),
        "the same, memory returned": lambda: on_a_worker(few_u_net, arguments.data_dir, **dask_s),
        "linear, on a worker": lambda: on_a_worker(few, arguments.data_dir),
        "the same, memory returned ": lambda: on_a_worker(few, arguments.data_dir, **dask_s),
    }
    print("an epoch of the embedded digits (3,500)")
    compare(on_workers, arguments.runs)

    print(f"{STEPS} steps of 128 images; an epoch of {len(data.train):,} has {len(data.train) // 128}")
    compare(convolutions, arguments.runs)


if __name__ == "__main__":
    main()
