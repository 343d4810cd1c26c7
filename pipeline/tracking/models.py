"""Logged models: written with the digests of their files, and loaded only if the files still match.

Comes in: a run's trained module. Goes out: verified modules, and what is wrong with stored ones. Imports torch only
inside the functions that need it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.models import infer_signature

from pipeline.errors import TrackingError
from pipeline.provenance import versions
from pipeline.tracking._mlflow import ADDED_BY_LOADING
from pipeline.tracking.store import OpenExperiment, every_page, local_path, quiet, waits

if TYPE_CHECKING:
    from torch import nn


class LoggedModels:
    """The models of one study's experiment. Every method may be repeated."""

    def __init__(self, experiment: OpenExperiment) -> None:
        self.experiment = experiment
        self._client = experiment.client

    @waits
    def log(self, run_id: str, model: Any, example: np.ndarray, epoch: int) -> str:
        """Log a model as pt2 (no pickle) under a run, with the digests of its files in the run's tags; returns its id.

        Args:
            run_id: the run; a complete model that it has is kept, an incomplete one is replaced.
            model: restoring module in evaluation mode on the CPU.
            example: degraded images, float32 ``[2, 1, h, w]``; a batch of 1 would fix the batch size.
            epoch: whose weights these are.
        """
        import mlflow.pytorch
        import torch

        for old in self._find(run_id):
            if old.status == LoggedModelStatus.READY and "model.sha256" in self._client.get_run(run_id).data.tags:
                return old.model_id
            self._client.delete_logged_model(old.model_id)
        with torch.inference_mode():
            restored = model(torch.from_numpy(example)).numpy()
        with tempfile.TemporaryDirectory() as temporary, quiet():
            folder = Path(temporary) / "model"
            mlflow.pytorch.save_model(
                model,
                folder,
                serialization_format="pt2",
                signature=infer_signature(example, restored),
                input_example=example,
                pip_requirements=[f"{name}=={version}" for name, version in versions().items() if name != "python"],
            )
            logged = self._client.create_logged_model(self.experiment.experiment_id, name="model", source_run_id=run_id)
            self._client.log_model_artifacts(logged.model_id, str(folder))
            manifest = _manifest(folder)
        self.experiment.tag(run_id, {"model.id": logged.model_id, "model.sha256": json.dumps(manifest, sort_keys=True)})
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, epoch)])
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        return logged.model_id

    @waits
    def problem(self, run_id: str, tags: Mapping[str, str]) -> str | None:
        """What is wrong with a finished run's model; None if its files are the logged ones, or a server keeps them."""
        ready = [model for model in self._find(run_id) if model.status == LoggedModelStatus.READY]
        if len(ready) != 1 or tags.get("model.id") != ready[0].model_id or "model.sha256" not in tags:
            return "its model is missing or not READY"
        folder = local_path(ready[0].artifact_location)
        if folder is None:
            return None  # verified when it is loaded
        if not folder.is_dir():
            return f"the files of its model are not at {folder}"
        changed = _differing(json.loads(tags["model.sha256"]), _manifest(folder))
        return f"its model's {', '.join(changed)}" if changed else None

    @waits
    def stray(self, owners: set[str]) -> list[tuple[str, str]]:
        """(id, status) of models that are not READY, or whose run is not one of ``owners``."""
        return [
            (model.model_id, str(model.status))
            for model in self._find()
            if model.status != LoggedModelStatus.READY or model.source_run_id not in owners
        ]

    @waits
    def delete(self, model_id: str) -> None:
        self._client.delete_logged_model(model_id)

    @waits
    def delete_of_run(self, run_id: str) -> None:
        """Delete all models of a run."""
        for model in self._find(run_id):
            self._client.delete_logged_model(model.model_id)

    def _find(self, run_id: str | None = None) -> list[LoggedModel]:
        query = f"source_run_id = '{run_id}'" if run_id else None
        return list(every_page(partial(self._client.search_logged_models, [self.experiment.experiment_id], query)))


def load_verified(model_id: str, manifest: Mapping[str, str]) -> nn.Module:
    """A logged model of the store that `connect` set; TrackingError if its files are not those of the manifest."""
    import mlflow.pytorch

    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=temporary))
        actual = _manifest(folder)
        if manifest and not actual.keys() & manifest.keys():
            raise TrackingError(
                f"model {model_id}: none of its files are where they were logged; if the home was moved, "
                "`study doctor --repair` corrects their locations"
            )
        if changed := _differing(manifest, actual):
            raise TrackingError(f"model {model_id}: {changed[0]} since the model was logged; it is not loaded")
        return mlflow.pytorch.load_model(str(folder))


def _differing(manifest: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """The files that are not as logged, each with what happened to it."""
    changes = {
        file: "is missing" if file not in actual else "was added" if file not in manifest else "was changed"
        for file in sorted({*manifest, *actual})
        if manifest.get(file) != actual.get(file)
    }
    return [f"{file} {change}" for file, change in changes.items()]


def _manifest(folder: Path) -> dict[str, str]:
    """The sha256 of every file by its path in a model's folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ADDED_BY_LOADING)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
