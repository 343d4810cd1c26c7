"""Logged models: signatures, manifests, verified loading."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from pipeline.errors import TrackingError
from pipeline.tracking.store import quiet

ADDED_BY_LOADING = "registered_model_meta"  # mlflow writes it beside a model that is loaded through the registry


def load_verified(model_id: str, manifest: Mapping[str, str]) -> Any:
    """A logged model as a torch module, loaded only if its files are the ones that were logged.

    Args:
        model_id: the logged model, in the store that `connect` named.
        manifest: sha256 of every file by its path in the model's folder, kept outside that folder.

    Raises:
        TrackingError: files are missing, changed or added.
    """
    with tempfile.TemporaryDirectory() as temporary, quiet():
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{model_id}", dst_path=temporary))
        there = manifest_of(folder)
        if manifest and not there.keys() & manifest.keys():
            raise TrackingError(
                f"model {model_id}: none of its files are where they were logged; if the home was moved, "
                "`study doctor --repair` puts that right"
            )
        changed = differing(manifest, there)
        if changed:
            raise TrackingError(f"model {model_id}: {changed[0]} since the model was logged; it is not loaded")
        return mlflow.pytorch.load_model(str(folder))


def signature_of(model: Any, example: np.ndarray) -> ModelSignature:
    import torch

    with torch.inference_mode():
        height, width = model(torch.from_numpy(example)).shape[-2:]
    inputs = TensorSpec(np.dtype(np.float32), (-1, *example.shape[1:]))
    outputs = TensorSpec(np.dtype(np.float32), (-1, 1, height, width))
    return ModelSignature(inputs=Schema([inputs]), outputs=Schema([outputs]))


def differing(manifest: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """The files that are not as logged, each with what became of it."""
    words = {
        file: "is missing" if file not in actual else "was added" if file not in manifest else "was changed"
        for file in sorted({*manifest, *actual})
        if manifest.get(file) != actual.get(file)
    }
    return [f"{file} {word}" for file, word in words.items()]


def manifest_of(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ADDED_BY_LOADING)
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
