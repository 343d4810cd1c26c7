"""Training state on disk: safetensors files that name their own digest.

``epoch-0003-<sha256>.safetensors`` holds the weights, the optimiser's and scheduler's state, that epoch's panel and the
history of all epochs so far. It is written beside, flushed and renamed, so a file with that name is whole; it is read
only if its bytes still have that digest. No pickle is involved.

There is no random state to keep: every epoch draws from generators seeded by (seed, number, replicate, epoch).
"""

from __future__ import annotations

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
from pipeline.errors import CheckpointError
from pipeline.files import write_atomically

FILE = re.compile(r"epoch-(\d{4,})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds. ``meta`` is plain JSON."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    def restore(self, model: nn.Module) -> None:
        """Load the weights into a model of the same shape."""
        model.load_state_dict(_part(self.tensors, "model."))

    def restore_training(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        """Load the optimiser's and the scheduler's state."""
        state: dict[int, dict[str, Any]] = {int(i): dict(scalars) for i, scalars in self.meta["scalars"].items()}
        for name, tensor in _part(self.tensors, "optimizer.").items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": self.meta["param_groups"]})
        scheduler.load_state_dict(self.meta["scheduler"])


def capture(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, panel: Tensor, meta: Any) -> State:
    """Gather what a leg leaves behind."""
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
    return State(tensors | {"panel": panel}, {**meta, **extra})


def save(folder: Path, epoch: int, state: State) -> Checkpoint:
    """Write a checkpoint so that it is there whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written; no partial checkpoint is left.
    """
    data = safetensors.torch.save(state.tensors, {"state": json.dumps(state.meta)})
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"epoch-{epoch:04d}-{sha256}.safetensors"
    write_atomically(path, data)
    return Checkpoint(str(path), sha256, epoch)


def load(checkpoint: Checkpoint) -> State:
    """Read and verify a checkpoint.

    Raises:
        CheckpointError: it is absent, or its bytes are not those that were written.
    """
    try:
        data = Path(checkpoint.path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be read: {error.strerror}") from None
    if hashlib.sha256(data).hexdigest() != checkpoint.sha256:
        raise CheckpointError(f"{checkpoint.path}: damaged: its bytes are not those that were written")
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return State(safetensors.torch.load(data), json.loads(header["__metadata__"]["state"]))


def found(folder: Path) -> list[Checkpoint]:
    """The checkpoints in a folder by their names, the latest epoch first; none is read."""
    matches = [(path, FILE.fullmatch(path.name)) for path in sorted(folder.glob("epoch-*.safetensors"))]
    checkpoints = [Checkpoint(str(path), m[2], int(m[1])) for path, m in matches if m]
    return sorted(checkpoints, key=lambda c: -c.epoch)


def _part(mapping: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in mapping.items() if name.startswith(prefix)}
