"""Checkpoints: the state of a training after an epoch, as a safetensors file whose name contains its digest.

Comes in: a model, its optimizer and scheduler, the epoch's panel and history. Goes out: a file
``epoch-0003-<sha256>.safetensors``, and the same state when it is read again. This module may not use pickle.
Random states are not stored: every epoch draws from generators seeded by (seed, number, replicate, epoch).
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.config.outcomes import Checkpoint
from pipeline.errors import RESUME, CheckpointError, StudyError
from pipeline.files import safetensors_metadata, write_atomically

FILE = re.compile(r"epoch-(\d{4,})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint holds."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]  # plain JSON

    def restore(self, model: nn.Module) -> None:
        """Load the weights into a model of the same shape."""
        model.load_state_dict(self.part("model."))

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, without that beginning."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def restore_training(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        """Load the state of the optimizer and the scheduler."""
        state: dict[int, dict[str, Any]] = {int(i): dict(scalars) for i, scalars in self.meta["scalars"].items()}
        for name, tensor in self.part("optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": self.meta["param_groups"]})
        scheduler.load_state_dict(self.meta["scheduler"])


def capture(
    model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, panel: Tensor, meta: Mapping[str, Any]
) -> TrainingState:
    """Copy the state after an epoch to the CPU; ``meta`` is the configuration, the epoch and the history."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    scalars: dict[int, dict[str, Any]] = {}
    saved = optimizer.state_dict()
    for index, entries in saved["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            elif value is not None:
                scalars.setdefault(index, {})[key] = value
    extra = {"scalars": scalars, "param_groups": saved["param_groups"], "scheduler": scheduler.state_dict()}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return TrainingState(tensors | {"panel": panel}, {**meta, **extra})


def save(folder: Path, epoch: int, state: TrainingState) -> Checkpoint:
    """Write a checkpoint; the file appears complete or not at all. Raises OSError if it cannot be written."""
    data = safetensors.torch.save(state.tensors, {"state": json.dumps(state.meta)})
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"epoch-{epoch:04d}-{sha256}.safetensors"
    write_atomically(path, data)
    return Checkpoint(str(path), sha256, epoch)


def load(checkpoint: Checkpoint) -> TrainingState:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: it is absent or not the bytes that were written; training it again repairs that.
        StudyError: it cannot be read for another reason, such as its permissions; it may be undamaged.
    """
    try:
        data = Path(checkpoint.path).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint.path}: is not there") from None
    except OSError as error:
        reason = f"{checkpoint.path}: cannot be read: {error.strerror}"
        raise StudyError(f"{reason}; when that is repaired, {RESUME}") from None
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{checkpoint.path}: damaged: its bytes are not those that were written")
    return TrainingState(safetensors.torch.load(data), json.loads(safetensors_metadata(data)["state"]))


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder, the latest epoch first. Only names are looked at, no file is read."""
    matches = [(path, FILE.fullmatch(path.name)) for path in sorted(folder.glob("epoch-*.safetensors"))]
    checkpoints = [Checkpoint(str(path), m[2], int(m[1])) for path, m in matches if m]
    return sorted(checkpoints, key=lambda c: -c.epoch)
