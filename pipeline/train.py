"""Training: losses, optimisers, schedules, and one epoch of one trial.

Comes in: a ``TrialConfig`` and the checkpoint of the epoch before (none at first). Goes out: the next checkpoint and
what the epoch showed. ``run_leg`` is a pure function of its arguments, so any process may run it, and run it again.
Imports neither optuna nor distributed nor mlflow.
"""

from __future__ import annotations

import inspect
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, OneCycleLR

from pipeline import checkpoint as checkpoints
from pipeline import model as models
from pipeline.checkpoint import Checkpoint, State
from pipeline.config import TrainConfig, TrialConfig
from pipeline.config.choices import OPTIMIZERS
from pipeline.config.losses import parse_loss
from pipeline.config.trial import applies
from pipeline.data import Dataset, load
from pipeline.degrade import degrade, input_size
from pipeline.errors import CheckpointError
from pipeline.evaluate import ssim, validation, without_gradients
from pipeline.judge import Judge
from pipeline.numerics import derive_seed, threads, to_float

Logits = Float[Tensor, "batch 1 height width"]
Images = Float[Tensor, "batch 1 height width"]

OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|bad_alloc", re.I)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch showed. Epochs count from 1; ``ended_at`` is in seconds since 1970."""

    epoch: int
    metrics: dict[str, float]
    ended_at: float


@dataclass(frozen=True)
class LegResult:
    """What a leg returns: a checkpoint with its epoch and panel, or else the reason why the trial cannot go on."""

    checkpoint: Checkpoint | None
    epoch: EpochResult | None
    panel: np.ndarray | None
    failure: str | None
    seconds: float


def run_leg(
    config: TrialConfig, before: Checkpoint | None, data_dir: Path, folder: Path, judge: Judge | None = None
) -> LegResult:
    """Train a trial for one epoch and validate it.

    Args:
        config: the trial.
        before: the checkpoint to go on from; None starts the trial.
        data_dir: where the data set lies; it must be there already.
        folder: where the checkpoint is written.
        judge: the data set's; without one ``val/class_kept`` is left out.

    Returns:
        The new checkpoint, the epoch's metrics and the panel; or a failure that is the trial's own (non-finite loss,
        memory exhausted).

    Raises:
        CheckpointError: ``before`` is damaged or is another trial's.
        StudyError: the judge is absent or damaged.
        DataError: the data set is absent or damaged.
        OSError: the checkpoint could not be written.
        RuntimeError: torch failed otherwise: a bug or a broken machine, which would fail every other trial as well.
    """
    started = time.perf_counter()
    epoch = before.epoch + 1 if before else 1
    try:
        with _fixed_numerics(config):
            state, result, picture = _train_epoch(config, epoch, before, load(config.dataset, data_dir), judge)
    except FloatingPointError as error:
        return LegResult(None, None, None, str(error), time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        reason = f"out of memory in epoch {epoch}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        return LegResult(None, None, None, reason, time.perf_counter() - started)
    saved = checkpoints.save(folder, epoch, state)
    return LegResult(saved, result, picture, None, time.perf_counter() - started)


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """Whether memory is exhausted; on the CPU, and within CUDA's libraries, only the message says so."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or bool(OUT_OF_MEMORY.search(str(error)))


def _train_epoch(
    config: TrialConfig, epoch: int, before: Checkpoint | None, data: Dataset, judge: Judge | None
) -> tuple[State, EpochResult, np.ndarray]:
    images = data.train.images.to(config.device)
    batch_size = min(config.train.batch_size, len(images))
    steps = len(images) // batch_size  # an incomplete last batch is left out; the order is new every epoch

    model = build_model(config, data)
    optimizer = build_optimizer(config.train, model.parameters(), config.device)
    scheduler = build_scheduler(config.train, optimizer, steps * config.epochs)
    history: list[dict[str, Any]] = []
    if before is not None:
        state = checkpoints.load(before)
        _check_own(state, config, before)
        state.restore(model)
        state.restore_training(optimizer, scheduler)
        history = state.meta["history"]

    torch.manual_seed(_seed(config, epoch, "dropout"))
    shuffling = Generator().manual_seed(_seed(config, epoch, "shuffle"))
    noise = Generator(config.device).manual_seed(_seed(config, epoch, "noise"))
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=_bfloat16(config))

    started = time.perf_counter()
    model.train()
    total = torch.zeros((), device=config.device)
    order = torch.randperm(len(images), generator=shuffling).to(config.device)
    for indices in order[: steps * batch_size].split(batch_size):
        clean = to_float(images[indices])
        degraded = degrade(clean, config.degrade, noise)
        with autocast:
            logits = model(degraded)
        loss = loss_value(logits.float(), clean, config.train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.detach()  # .item() here would make the device wait at every step

    mean = total.item() / steps
    if not math.isfinite(mean):
        raise FloatingPointError(f"non-finite loss ({mean}) in epoch {epoch}")
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise FloatingPointError(f"non-finite weights after epoch {epoch}")
    seconds = time.perf_counter() - started

    restore = without_gradients(models.Restorer(model).eval())

    def finite(degraded: Tensor) -> Tensor:
        # The last steps may have left weights, or statistics of batch norm, that are huge and not yet infinite.
        restored = restore(degraded)
        if not bool(restored.isfinite().all()):
            raise FloatingPointError(f"non-finite restored images after epoch {epoch}")
        return restored

    figures, picture = validation(finite, data, config.degrade, judge, config.device)
    times = {"time/epoch_s": seconds, "time/images_per_s": steps * batch_size / seconds}
    result = EpochResult(epoch, {"train/loss": mean, **figures, **times}, time.time())
    meta = {"config": config.model_dump(mode="json"), "epoch": epoch, "history": [*history, asdict(result)]}
    return checkpoints.capture(model, optimizer, scheduler, torch.from_numpy(picture), meta), result, picture


def build_model(config: TrialConfig, data: Dataset) -> nn.Module:
    """A trial's autoencoder with its initial weights, on its device; they depend on the trial's seeds only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config, 0, "weights"))
        model = models.build(config.model, input_size(data.image_size, config.degrade), data.image_size)
    return model.to(config.device)


def trained_restorer(config: TrialConfig, data: Dataset, checkpoint: Checkpoint) -> models.Restorer:
    """The restoring model of a checkpoint, on the CPU and ready to use.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or another trial's.
    """
    state = checkpoints.load(checkpoint)
    _check_own(state, config, checkpoint)
    model = build_model(config, data).cpu()
    state.restore(model)
    return models.Restorer(model).eval()


def history(checkpoint: Checkpoint, config: TrialConfig) -> tuple[list[EpochResult], np.ndarray]:
    """All epochs that led to a checkpoint, and the last one's panel.

    Raises:
        CheckpointError: the checkpoint is absent, damaged or another trial's.
    """
    state = checkpoints.load(checkpoint)
    _check_own(state, config, checkpoint)
    return [EpochResult(**entry) for entry in state.meta["history"]], state.tensors["panel"].numpy()


def loss_value(logits: Logits, clean: Images, config: TrainConfig) -> Float[Tensor, ""]:
    """The loss a trial is trained on: the weighted sum that its ``loss`` names, each a mean over the batch."""
    terms = parse_loss(config.loss).items()
    return torch.stack([weight * LOSSES[name](logits, clean, config) for name, weight in terms]).sum()


def _bce(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, clean)


def _mse(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.mse_loss(torch.sigmoid(logits), clean)


def _l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.l1_loss(torch.sigmoid(logits), clean)


def _smooth_l1(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.smooth_l1_loss(torch.sigmoid(logits), clean, beta=config.delta)


def _huber(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return F.huber_loss(torch.sigmoid(logits), clean, delta=config.delta)


def _ssim(logits: Logits, clean: Images, config: TrainConfig) -> Tensor:
    return 1 - ssim(torch.sigmoid(logits), clean).mean()


LOSSES: dict[str, Callable[[Tensor, Tensor, TrainConfig], Tensor]] = {
    "bce": _bce,
    "mse": _mse,
    "l1": _l1,
    "smooth_l1": _smooth_l1,
    "huber": _huber,
    "ssim": _ssim,
}


# What torch calls the keys that it takes as they are.
ARGUMENTS = {
    "weight_decay": "weight_decay",
    "momentum": "momentum",
    "amsgrad": "amsgrad",
    "smoothing": "alpha",
    "rho": "rho",
}


def build_optimizer(config: TrainConfig, parameters: Iterator[nn.Parameter], device: str) -> torch.optim.Optimizer:
    """One of torch's own optimisers with the settings that apply to it, fused where torch has that.

    ``weight_decay`` is given wherever it is taken, so adamw's default here is 0 and not torch's 0.01.
    """
    cls = getattr(torch.optim, OPTIMIZERS[config.optimizer])
    accepted = inspect.signature(cls).parameters
    settings = config.model_dump()
    arguments: dict[str, Any] = {"lr": config.lr}
    for key, argument in ARGUMENTS.items():
        if applies(key, settings):
            arguments[argument] = settings[key]
    if applies("beta1", settings):
        arguments["betas"] = (config.beta1, config.beta2)
    if applies("nesterov", settings):
        arguments["nesterov"] = config.nesterov and config.momentum > 0  # without momentum the two steps are one
    if "fused" in accepted and not (device == "cuda" and config.optimizer == "adagrad"):  # fused on the CPU only
        arguments["fused"] = True
    return cls(parameters, **arguments)


def build_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The learning rate over a trial of ``steps`` steps; ``lr`` is its peak. Momentum is left alone."""
    # An optimiser that sets its own steps takes the rate for its first one only, which no schedule may lower.
    scheduled = applies("lr_scheduler", config.model_dump())
    return SCHEDULERS[config.lr_scheduler if scheduled else "constant"](optimizer, steps)


def _one_cycle(optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    # One step more than is taken, so that the last one is not spent at the schedule's end, where the rate is next to
    # nothing. cycle_momentum would overwrite the trial's own momentum.
    peak = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peak, total_steps=steps + 1, cycle_momentum=False)


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer, int], LRScheduler]] = {
    "constant": lambda optimizer, steps: ConstantLR(optimizer, factor=1.0),
    "cosine": lambda optimizer, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "one_cycle": _one_cycle,
}


@contextmanager
def _fixed_numerics(config: TrialConfig) -> Iterator[None]:
    """The trial's own thread count and, on CUDA, deterministic kernels: the same numbers on any worker."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    if config.device == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        devices = [torch.cuda.current_device()] if config.device == "cuda" else []
        with threads(config.threads), torch.random.fork_rng(devices=devices):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def _bfloat16(config: TrialConfig) -> bool:
    """Whether to compute in bfloat16; ``auto`` does so on a GPU that has it."""
    if config.train.precision == "auto":
        return config.device == "cuda" and torch.cuda.is_bf16_supported()
    return config.train.precision == "bfloat16"


def _seed(config: TrialConfig, epoch: int, purpose: str) -> int:
    return derive_seed(config.seed, config.number, config.replicate, epoch, purpose)


def _check_own(state: State, config: TrialConfig, checkpoint: Checkpoint) -> None:
    if state.meta["config"] != config.model_dump(mode="json") or state.meta["epoch"] != checkpoint.epoch:
        raise CheckpointError(f"{checkpoint.path}: belongs to another trial")
