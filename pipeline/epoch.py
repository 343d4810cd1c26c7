"""What a worker runs: one epoch of one trial, trained, validated and saved.

Comes in: a trial's configuration and the checkpoint of the epoch before. Goes out: `Trained` with the next checkpoint,
metrics and panel, or `Failed`. `run_epoch` is a pure function of its arguments, so any process may run it, and run it
again. May not import optuna, mlflow or distributed.
"""

import hashlib
import math
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, EpochResult, Failed, Trained
from pipeline.data import Dataset, load
from pipeline.data.degrade import degrade, input_size
from pipeline.data.sets import to_float
from pipeline.errors import CheckpointError, first_line
from pipeline.evaluation.batches import threads
from pipeline.evaluation.judge import Judge
from pipeline.evaluation.scores import validation
from pipeline.seeds import derive_seed
from pipeline.training import checkpoint as checkpoints
from pipeline.training import model as models
from pipeline.training.losses import loss_value
from pipeline.training.optimizers import build_optimizer, build_scheduler
from pipeline.training.weights import checkpoint_weights, weights_bytes

# On the CPU and inside CUDA's libraries only the message says that memory is exhausted.
OUT_OF_MEMORY = re.compile(r"out of memory|not enough memory|can't allocate memory|ALLOC_FAILED|bad_alloc", re.I)


def run_epoch(
    config: TrialConfig, before: Checkpoint | None, data_dir: Path, folder: Path, judge: Judge | None = None
) -> Trained | Failed:
    """Train a trial for one epoch and validate it; nothing is downloaded.

    ``before`` is the checkpoint of the epoch before, None at the start; the new one is written into ``folder``. Without
    a ``judge``, ``val/class_kept`` is left out.

    Returns:
        `Trained`, or `Failed` for a reason that concerns this trial only: a non-finite loss, or memory exhausted.

    Raises:
        CheckpointError: ``before`` is absent, damaged or belongs to another trial.
        StudyError: the judge is absent or damaged.
        DataError: the data set is absent or damaged.
        OSError: the checkpoint could not be written.
        RuntimeError: torch failed otherwise: a bug or a broken machine, which would fail every other trial as well.
    """
    started = time.perf_counter()
    epoch = before.epoch + 1 if before else 1
    try:
        with fixed_numerics(config):
            state, result, panel = train_and_validate(config, epoch, before, load(config.dataset, data_dir), judge)
    except FloatingPointError as error:
        return Failed(str(error), time.perf_counter() - started)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not OUT_OF_MEMORY.search(str(error)):
            raise
        reason = f"out of memory in epoch {epoch}: {first_line(error)}"
        return Failed(reason, time.perf_counter() - started)
    saved = checkpoints.save(folder, epoch, state)
    return Trained(saved, result, panel, time.perf_counter() - started)


def train_and_validate(
    config: TrialConfig, epoch: int, before: Checkpoint | None, data: Dataset, judge: Judge | None
) -> tuple[checkpoints.TrainingState, EpochResult, np.ndarray]:
    """An epoch on this data set, inside `fixed_numerics`: the state after it, its metrics and its panel.

    Raises FloatingPointError for a loss, weight or restored image that is not finite, else as `run_epoch`.
    """
    images = data.train.images.to(config.device)
    batch_size = min(config.train.batch_size, len(images))
    steps = len(images) // batch_size  # an incomplete last batch is left out; the order is new every epoch

    model = build_model(config, data).to(config.device)
    optimizer = build_optimizer(config.train, model.parameters(), config.device)
    scheduler = build_scheduler(config.train, optimizer, steps * config.epochs)
    history: list[dict[str, Any]] = []
    if before is not None:
        state = _load_own(before, config)
        state.restore(model)
        state.restore_training(optimizer, scheduler)
        history = state.meta["history"]

    torch.manual_seed(_seed(config, epoch, "dropout"))
    shuffling = Generator().manual_seed(_seed(config, epoch, "shuffle"))
    noise = Generator(config.device).manual_seed(_seed(config, epoch, "noise"))
    autocast = torch.autocast(config.device, torch.bfloat16, enabled=config.train.precision == "bfloat16")

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

    restorer = models.Restorer(model).eval()

    @torch.inference_mode()
    def finite(degraded: Tensor) -> Tensor:
        # The last steps can leave weights or batch-norm statistics that are finite, but so large that outputs overflow.
        restored = restorer(degraded)
        if not bool(restored.isfinite().all()):
            raise FloatingPointError(f"non-finite restored images after epoch {epoch}")
        return restored

    scores, panel = validation(finite, data, config.degrade, judge, config.device)
    times = {"time/epoch_s": seconds, "time/images_per_s": steps * batch_size / seconds}
    sha256 = hashlib.sha256(weights_bytes(restorer, config, data.image_size)).hexdigest()
    result = EpochResult(epoch, {"train/loss": mean, **scores, **times}, time.time(), sha256)
    meta = {"config": config.model_dump(mode="json"), "epoch": epoch, "history": [*history, asdict(result)]}
    return checkpoints.capture(model, optimizer, scheduler, torch.from_numpy(panel), meta), result, panel


def build_model(config: TrialConfig, data: Dataset) -> nn.Module:
    """A trial's autoencoder with its initial weights, on the CPU; they depend on the trial's seeds only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_seed(config, 0, "weights"))
        return models.build(config.model, input_size(data.image_size, config.degrade), data.image_size)


def trained_weights(config: TrialConfig, data: Dataset, checkpoint: Checkpoint) -> bytes:
    """The weights file of a checkpoint. No model is built, so no thread's random numbers change.

    Raises CheckpointError as `run_epoch`.
    """
    state = _load_own(checkpoint, config)
    return checkpoint_weights(state.part("model."), config, data.image_size)


def history(checkpoint: Checkpoint, config: TrialConfig) -> tuple[list[EpochResult], np.ndarray]:
    """The results of all epochs up to a checkpoint, and the last one's panel. Raises CheckpointError as `run_epoch`."""
    state = _load_own(checkpoint, config)
    return [EpochResult(**entry) for entry in state.meta["history"]], state.tensors["panel"].numpy()


def _load_own(checkpoint: Checkpoint, config: TrialConfig) -> checkpoints.TrainingState:
    state = checkpoints.load(checkpoint)
    if state.meta["config"] != config.model_dump(mode="json") or state.meta["epoch"] != checkpoint.epoch:
        raise CheckpointError(f"{checkpoint.path}: belongs to another trial")
    return state


@contextmanager
def fixed_numerics(config: TrialConfig) -> Iterator[None]:
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


def _seed(config: TrialConfig, epoch: int, purpose: str) -> int:
    return derive_seed(config.seed, config.number, config.replicate, epoch, purpose)
