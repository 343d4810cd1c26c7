"""A data set and trials so small that an epoch takes milliseconds, and the part of an epoch that must be reproducible.

conftest switches the shape checks on before it imports this module; a fresh process can import it without conftest.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ModelConfig, TrainConfig, TrialConfig
from pipeline.config.outcomes import Checkpoint, Trained
from pipeline.data import LOADERS, Dataset, Split
from pipeline.data.sets import Loaded
from pipeline.epoch import build_model, run_epoch
from pipeline.evaluation.judge import Judge
from pipeline.training import checkpoint as checkpoints
from pipeline.training.model import Restorer

NAME = "tiny"
SIDE = 16
CLASSES = 10
GAUSSIAN = {"kind": "gaussian", "sigma": 0.3}


def strokes(count: int, seed: int, side: int = SIDE) -> Split:
    """Two grey strokes per image, one across and one down; the class decides their positions to within a pixel."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, 1, side, side), np.uint8)
    labels = np.arange(count) % CLASSES
    for image, label in zip(images[:, 0], labels, strict=True):
        row, column = 2 + label + random.integers(2), side - 4 - label + random.integers(2)
        image[row : row + 2, 2:-2] = random.integers(150, 256)
        image[2:-2, column : column + 2] = random.integers(150, 256)
    return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))


def loader(data_dir: Path, download: bool) -> Loaded:  # noqa: ARG001
    """The loader of the data set: 120 images to split (96, 12, 12) and 20 test images."""
    return strokes(120, seed=1), strokes(20, seed=2), [NAME]


def register() -> None:
    """Add the data set to `pipeline.data.LOADERS`."""
    LOADERS[NAME] = loader


def trial(**settings: Any) -> TrialConfig:
    """A two-epoch trial on the tiny data set; settings are keys of any section."""
    model: dict[str, Any] = {"depth": 2, "bottleneck": 8, "channels": 4}
    train: dict[str, Any] = {"batch_size": 16, "lr": 1e-2, "precision": "float32"}
    rest: dict[str, Any] = {"dataset": NAME, "degrade": GAUSSIAN, "epochs": 2}
    for key, value in settings.items():
        home = model if key in ModelConfig.model_fields else train if key in TrainConfig.model_fields else rest
        home[key] = value
    return TrialConfig.model_validate({**rest, "model": model, "train": train})


def train(
    trial: TrialConfig, before: Checkpoint | None, data_dir: Path, folder: Path, judge: Judge | None = None
) -> Trained:
    """Run one epoch that must not fail."""
    outcome = run_epoch(trial, before, data_dir, folder, judge)
    assert isinstance(outcome, Trained), outcome
    return outcome


def trace(epoch: Trained) -> dict[str, Any]:
    """Everything of an epoch that must be the same wherever and however often it runs: all but the clock."""
    state = checkpoints.load(epoch.checkpoint)
    scores = {name: value for name, value in epoch.result.metrics.items() if not name.startswith("time/")}
    settings = {name: value for name, value in state.meta.items() if name != "history"}
    tensors = {name: hashlib.sha256(t.numpy().tobytes()).hexdigest() for name, t in state.tensors.items()}
    return {**scores, **settings, **tensors, "panel": hashlib.sha256(epoch.panel.tobytes()).hexdigest()}


def restorer(trial: TrialConfig, data: Dataset, checkpoint: Checkpoint) -> Restorer:
    """The restoring model of a checkpoint, in evaluation mode, made without a weights file."""
    model = build_model(trial, data)
    checkpoints.load(checkpoint).restore(model)
    return Restorer(model).eval()
