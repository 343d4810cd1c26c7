"""The training loop against a bare hand-written loop: the same network, optimiser, schedule, batches and epoch.

    python tests/benchmarks/fit.py [--runs 5] [--network linear conv] [--precision float32 bfloat16] [--cpu-time]

Both are timed with the allocator settings of the workers (`pipeline/workers/process.py`) and with glibc's own, each in
a process of its own; a last variant is the loop as it is commonly written, with a DataLoader. Only training is timed;
validation and checkpoints are the business of `overhead.py`. The mean loss of the epoch shows that the work is the
same. Where there is a CUDA device, it is measured too; the bare loop then has its data on the device.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import torch
from measure import begin, compared, in_turn, mnist, options, report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from pipeline import epoch
from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.trial import Gaussian
from pipeline.data import Dataset
from pipeline.workers.process import keep_freed_memory

SIGMA = 0.5
NETWORKS = {
    "linear": ModelConfig(depth=5, width=512, bottleneck=32, activation="leaky_relu"),  # the report's denoiser
    "conv": ModelConfig(layer_type="conv", depth=2, channels=16, bottleneck=64, skip=True),
}
IMAGES = {"linear": 50_000, "conv": 6_400}  # of an epoch; convolutions take ten times as long per image
LOSSES: dict[str, float] = {}  # of the last epoch of each variant


def trial(dataset: str, network: str, precision: str, batch_size: int, device: str) -> TrialConfig:
    train = TrainConfig(precision=precision, batch_size=batch_size)
    noise = Gaussian(kind="gaussian", sigma=SIGMA)
    model = NETWORKS[network]
    return TrialConfig(dataset=dataset, degrade=noise, model=model, train=train, epochs=1, device=device)


def this_project(config: TrialConfig, data: Dataset, cpu_time: bool) -> tuple[float, float]:
    """Seconds of training and mean loss of an epoch, as `train_and_validate` reports them."""
    if cpu_time:  # of the same lines
        epoch.time = SimpleNamespace(perf_counter=time.process_time, time=time.time)
    with epoch.fixed_numerics(config):
        _, result, _ = epoch.train_and_validate(config, 1, None, data, None)
    return result.metrics["time/epoch_s"], result.metrics["train/loss"]


def bare(config: TrialConfig, data: Dataset, cpu_time: bool, data_loader: bool = False) -> tuple[float, float]:
    """The same epoch as one writes it by hand: float images in memory (on the device), or in a DataLoader."""
    clock = time.process_time if cpu_time else time.perf_counter
    device, batch_size = config.device, config.train.batch_size
    torch.set_num_threads(config.threads)
    torch.manual_seed(0)
    model = epoch.build_model(config, data).to(device).train()
    images = data.train.images.float().div(255).to(device)
    steps = len(images) // batch_size
    optimizer = torch.optim.Adam(model.parameters(), lr=config.train.lr, fused=not data_loader)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.train.lr, total_steps=steps + 1, cycle_momentum=False
    )
    autocast = torch.autocast(device, torch.bfloat16, enabled=config.train.precision == "bfloat16")
    criterion = nn.BCEWithLogitsLoss()
    loader = DataLoader(TensorDataset(images), batch_size=batch_size, shuffle=True, drop_last=True)

    def batches():
        if data_loader:
            yield from (batch for (batch,) in loader)
        else:
            for indices in torch.randperm(len(images), device=device)[: steps * batch_size].split(batch_size):
                yield images[indices]

    started, total = clock(), torch.zeros((), device=device)
    for clean in batches():
        noisy = (clean + SIGMA * torch.randn_like(clean)).clamp(0, 1)
        with autocast:
            logits = model(noisy)
        loss = criterion(logits.float(), clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item() if data_loader else loss.detach()
    mean = total.item() / steps  # on CUDA this waits for the device
    return clock() - started, mean


Loop = Callable[[TrialConfig, Dataset, bool], tuple[float, float]]
VARIANTS: dict[str, tuple[Loop, bool]] = {  # the loop, and whether freed memory is kept as on a worker
    "bare loop": (bare, False),
    "bare loop, workers' allocator": (bare, True),
    "this project, glibc's allocator": (this_project, False),
    "this project": (this_project, True),
    "DataLoader, unfused, loss read at every step": (partial(bare, data_loader=True), False),
}


def main(arguments_given: list[str] | None = None) -> None:
    parser = options(__doc__, runs=5)
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--precision", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, help=f"of an epoch, at most (default {IMAGES})")
    parser.add_argument("--cpu-time", action="store_true", help="measure the processor's time instead")
    arguments = parser.parse_args(arguments_given)
    begin(arguments)
    whole = mnist(arguments.data_dir)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    if "cuda" not in devices:
        print("CUDA: not measured, since there is no such device", file=sys.stderr)

    with contextlib.ExitStack() as stack:
        start = partial(ProcessPoolExecutor, 1, get_context("spawn"))
        processes = {
            True: stack.enter_context(start(initializer=keep_freed_memory)),
            False: stack.enter_context(start()),
        }

        def run(name: str, config: TrialConfig, data: Dataset) -> float:
            loop, keep = VARIANTS[name]
            seconds, LOSSES[name] = processes[keep].submit(loop, config, data, arguments.cpu_time).result()
            return seconds

        for device in devices:
            for network in arguments.network:
                data = shortened(whole, arguments.images or IMAGES[network])
                for precision in arguments.precision:
                    config = trial(data.name, network, precision, arguments.batch_size, device)
                    measured = {name: partial(run, name, config, data) for name in VARIANTS}
                    unit = "CPU seconds" if arguments.cpu_time else "seconds"
                    rows = compared(in_turn(measured, arguments.runs), unit)
                    for row in rows:
                        row["mean loss"] = LOSSES[row["variant"]]
                    title = f"{network}, {precision}, {device}: an epoch of {len(data.train):,} images, one thread"
                    report(title, rows, arguments, batch=arguments.batch_size)


def shortened(data: Dataset, images: int) -> Dataset:
    """At most so many images to train on, and few to validate, which is not timed."""
    train, val = (np.arange(min(count, len(split))) for count, split in ((images, data.train), (250, data.val)))
    return replace(data, train=data.train.take(train), val=data.val.take(val))


if __name__ == "__main__":
    main()
