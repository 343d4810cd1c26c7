"""Logged models: the exported program, which serving loads, and beside it the weights file, which this project loads.

Comes in: a run's restorer and its weights file. Goes out: restorers rebuilt from verified weights files, and what is
wrong with stored models. The exported program is compared with its digests and never loaded: torch evaluates text in
it. Imports torch only inside the functions that need it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import mlflow.artifacts
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import infer_signature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from pipeline.config.outcomes import WEIGHTS_FILE
from pipeline.errors import RESUME, CheckpointError, StudyError, TrackingError, first_line
from pipeline.files import write_files
from pipeline.home import Home
from pipeline.provenance import versions
from pipeline.tracking._mlflow import ADDED_BY_LOADING
from pipeline.tracking.store import OpenExperiment, every_page, is_unreachable, local_path, quiet, waits
from pipeline.tracking.uids import replicate_uid, trial_uid

if TYPE_CHECKING:
    from pipeline.training.model import Restorer

# Tags; the last two also of versions.
MODEL_ID, EXPORT_TAG, WEIGHTS_TAG = "zz.model.id", "zz.model.sha256", "zz.weights.sha256"

REPAIR = "`study doctor --repair` restores a study's models"


class LoggedModels:
    """The models of one study's experiment. Every method may be repeated."""

    def __init__(self, experiment: OpenExperiment) -> None:
        self.experiment = experiment
        self._client = experiment.client

    @waits
    def log(self, run_id: str, name: str, files: Mapping[str, bytes], epoch: int) -> str:
        """Log a model under a run, as `export` made its files; returns its id.

        The digests go to the run's tags. A model that the run has is written again in place; it stays, and another is
        made, where a registered version names it with other weights. What no version names is deleted.

        Args:
            run_id: the run.
            name: of the model, in MLflow's pages; "." becomes "-", as MLflow allows none.
            files: by their paths.
            epoch: whose weights these are.
        """
        manifest = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        sha256, run, found = manifest[WEIGHTS_FILE], self._client.get_run(run_id), self._find(run_id)
        named = self._named_models() if found else {}
        usable = [m for m in found if self._in_place(m) and named.get(m.model_id, {sha256}) <= {sha256}]
        usable.sort(key=lambda m: (m.model_id not in named, m.model_id != run.data.tags.get(MODEL_ID)))
        logged = next(iter(usable), None) or self._client.create_logged_model(
            self.experiment.experiment_id, name=name.replace(".", "-"), source_run_id=run_id
        )
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), files)
            self._client.log_model_artifacts(logged.model_id, folder)
        if usable:
            self._remove_others(logged, manifest)
        tags = {MODEL_ID: logged.model_id, EXPORT_TAG: json.dumps(manifest, sort_keys=True), WEIGHTS_TAG: sha256}
        self.experiment.tag(run_id, tags)
        if logged.model_id not in [output.model_id for output in run.outputs.model_outputs]:
            self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, epoch)])
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        for other in found:
            if other.model_id not in (logged.model_id, *named):
                self._client.delete_logged_model(other.model_id)
        return str(logged.model_id)

    @waits
    def drop(self, run_id: str) -> None:
        """Remove the exported models of a run with their files, except what a registered version names."""
        named, tags = self._named_models(), self._client.get_run(run_id).data.tags
        if tags.get(MODEL_ID) not in named:
            for key in {MODEL_ID, EXPORT_TAG} & tags.keys():
                self._client.delete_tag(run_id, key)
        for model in self._find(run_id):
            if model.model_id not in named:
                self._remove(model)

    def _remove(self, model: LoggedModel) -> None:
        """Delete a model with its files, which MLflow would leave; only where MLflow puts them."""
        if self._in_place(model):
            folder = local_path(model.artifact_location)
            if folder is not None:
                self.experiment.home.remove(folder.parent)
            else:
                get_artifact_repository(model.artifact_location, self._client.tracking_uri).delete_artifacts()
        self._client.delete_logged_model(model.model_id)

    @waits
    def problem(self, run_id: str, tags: Mapping[str, str], weights_sha256: str | None = None) -> str | None:
        """What is wrong with a finished run's model; None if it is sound, or a server keeps its files.

        ``weights_sha256`` is what Optuna has; of a single training the run's own tag counts.
        """
        model = next((m for m in self._find(run_id) if m.model_id == tags.get(MODEL_ID)), None)
        if model is None or model.status != LoggedModelStatus.READY:
            return "its model is missing or not READY"
        if not self._in_place(model):
            return f"its model is recorded at {model.artifact_location}, which is not in its experiment"
        manifest, recorded = read_manifest(tags), weights_sha256 or tags.get(WEIGHTS_TAG, "")
        if manifest is None or not manifest.get(WEIGHTS_FILE) == tags.get(WEIGHTS_TAG) == recorded:
            return f"its tags {EXPORT_TAG} and {WEIGHTS_TAG} are not those of its model"
        folder = local_path(model.artifact_location)
        if folder is None:
            return None  # verified when it is loaded, and by `doctor` where it is registered
        if not folder.is_dir():
            return f"the files of its model are not at {folder}"
        changed = _differing(manifest, _manifest(folder))
        return f"its model's {', '.join(changed)}" if changed else None

    @waits
    def named(self) -> set[str]:
        """The ids of models that registered versions name."""
        return set(self._named_models())

    @waits
    def unnamed(self) -> set[str]:
        """The ids of the runs with a model that no registered version names."""
        named = self._named_models()
        return {model.source_run_id for model in self._find() if model.model_id not in named}

    @waits
    def of_run(self, run_id: str) -> list[str]:
        """The ids of a run's models."""
        return [model.model_id for model in self._find(run_id)]

    @waits
    def stray(self, current: Collection[str]) -> list[tuple[str, str]]:
        """(id, status) of models that are not READY or not among ``current``, but of none that a version names."""
        named = self._named_models()
        return [
            (model.model_id, str(model.status))
            for model in self._find()
            if model.model_id not in named
            and (model.status != LoggedModelStatus.READY or model.model_id not in current)
        ]

    @waits
    def delete(self, model_id: str) -> None:
        """Delete a model; its files stay until `mlflow gc`."""
        self._client.delete_logged_model(model_id)

    @waits
    def delete_of_run(self, run_id: str) -> None:
        """Delete the models of a run, except what a registered version names."""
        named = self._named_models()
        for model in self._find(run_id):
            if model.model_id not in named:
                self._client.delete_logged_model(model.model_id)

    def _find(self, run_id: str | None = None) -> list[LoggedModel]:
        query = f"source_run_id = '{run_id}'" if run_id else None
        return list(every_page(partial(self._client.search_logged_models, [self.experiment.experiment_id], query)))

    def _named_models(self) -> dict[str, set[str]]:
        """The ids of models that registered versions name, with the digests of weights in those versions' tags."""
        named: dict[str, set[str]] = defaultdict(set)
        for version in every_page(self._client.search_model_versions):
            named[model_of(version.source)] |= {version.tags[WEIGHTS_TAG]} if WEIGHTS_TAG in version.tags else set()
        return dict(named)

    def _in_place(self, model: LoggedModel) -> bool:
        """Whether a model's files are where MLflow puts them, and not at another location that someone wrote."""
        usual = f"{self.experiment.location.rstrip('/')}/models/{model.model_id}/artifacts"
        return bool(model.artifact_location.rstrip("/") == usual)

    def _remove_others(self, model: LoggedModel, manifest: Collection[str]) -> None:
        """Remove the files in a model's folder that are not its own."""
        repository = get_artifact_repository(model.artifact_location, self._client.tracking_uri)
        for file in list(_listed(self._client, model.model_id)):
            if file not in manifest and file != ADDED_BY_LOADING:
                repository.delete_artifacts(file)


def model_of(source: str) -> str:
    """The id of the logged model that a registered version names; the store does not return the version's model_id."""
    return source.removeprefix("models:/")


def recorded_weights(home: Home, tags: Mapping[str, str]) -> str:
    """The sha256 that the weights of a run or a registered version must have, by its tags.

    It is Optuna's of the trial where this home has the study, else the tag's. Raises TrackingError if there is none.
    """
    from pipeline.search.records import ended
    from pipeline.search.replicates import stored_replicates
    from pipeline.search.studies import load_searches

    uid = tags.get("trial.uid", "")
    for search in load_searches(home, tags.get("study.name", "")):
        records = search.records()
        known = {trial_uid(search.uid, trial.number): trial for trial in ended(records)}
        known |= {
            replicate_uid(search.uid, key.trial, key.epochs, key.seed): trial
            for key, trial in stored_replicates(search, records).items()
        }
        if uid in known and known[uid].summary.weights_sha256:
            return known[uid].summary.weights_sha256
    if not tags.get(WEIGHTS_TAG):
        raise TrackingError(f"no {WEIGHTS_TAG} is recorded, so its weights cannot be verified; it is not loaded")
    return tags[WEIGHTS_TAG]


def read_manifest(tags: Mapping[str, str]) -> dict[str, str] | None:
    """The digests of a model's files in the tags of a run or version; None if they are absent or malformed."""
    try:
        manifest = json.loads(tags[EXPORT_TAG])
    except (KeyError, ValueError):
        return None
    sound = isinstance(manifest, dict) and all(isinstance(digest, str) for digest in manifest.values())
    return manifest if sound else None


def load_restorer(model_id: str, sha256: str) -> Restorer:
    """The restorer of a logged model in the store that `connect` set, rebuilt from its weights file.

    On the CPU, in evaluation mode. Raises TrackingError if the file is missing or not the one with this sha256.
    """
    return restorer_at(_location(model_id), f"model {model_id}", sha256)


def model_weights(model_id: str, sha256: str) -> bytes:
    """The weights file of a logged model. Raises as `load_restorer`."""
    return stored_weights(_location(model_id), f"model {model_id}", sha256)


def restorer_at(location: str, label: str, sha256: str) -> Restorer:
    """As `load_restorer`, of the weights file among these artifacts; ``label`` is what an error calls them."""
    from pipeline.training.weights import load_weights

    try:
        return load_weights(stored_weights(location, label, sha256), sha256)
    except CheckpointError as error:
        raise TrackingError(f"{label}: {error}; it is not loaded, {REPAIR}") from None


def stored_weights(location: str, label: str, sha256: str) -> bytes:
    """The weights file among these artifacts. Raises TrackingError if it is missing or another one."""
    with _downloaded(location, label, WEIGHTS_FILE) as file:
        data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        reason = f"{WEIGHTS_FILE} is damaged: its bytes are not those that were recorded"
        raise TrackingError(f"{label}: {reason}; it is not loaded, {REPAIR}")
    return data


def export(weights: bytes, sha256: str, example: np.ndarray) -> dict[str, bytes]:
    """The files of a model by path: exported as pt2 (no pickle), and its weights file. A worker's task.

    Args:
        weights: the weights file, with this sha256.
        example: degraded images, float32 ``[2, 1, h, w]``; a batch of 1 would fix the batch size.

    Raises CheckpointError: these are not the bytes with this sha256.
    """
    import mlflow.pytorch
    import torch

    from pipeline.training.weights import load_weights

    model = load_weights(weights, sha256)
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
        (folder / WEIGHTS_FILE).write_bytes(weights)
        return {file: (folder / file).read_bytes() for file in _manifest(folder)}


def check_files(model_id: str, manifest: Mapping[str, str]) -> None:
    """Compare a logged model's files with their digests; none is loaded. Raises TrackingError if one differs."""
    with _downloaded(_location(model_id), f"model {model_id}") as folder:
        changed = _differing(manifest, _manifest(folder))
    if changed:
        raise TrackingError(f"model {model_id}: {changed[0]} since it was logged; {REPAIR}")


def _location(model_id: str) -> str:
    """Where a logged model's files are. Raises as `_downloaded`."""
    with _reading(f"model {model_id}", lambda: True):
        return str(MlflowClient().get_logged_model(model_id).artifact_location)


@contextmanager
def _downloaded(location: str, label: str, file: str = "") -> Iterator[Path]:
    """A copy of a folder of artifacts, or of one file in it.

    Raises StudyError where the store is unreachable, which says nothing of the files, and TrackingError otherwise.
    """
    with tempfile.TemporaryDirectory() as temporary:
        with quiet(), _reading(label, lambda: local_path(location) is None):
            path = Path(mlflow.artifacts.download_artifacts(f"{location}/{file}".rstrip("/"), dst_path=temporary))
        yield path


@contextmanager
def _reading(label: str, remote: Callable[[], bool]) -> Iterator[None]:
    try:
        yield
    except (MlflowException, OSError) as error:
        reason = first_line(error)
        if is_unreachable(error) and remote():
            raise StudyError(f"MLflow is unreachable: {reason}; {RESUME}") from error
        raise TrackingError(f"{label}: its files cannot be read: {reason}; {REPAIR}") from None


def _listed(client: MlflowClient, model_id: str, folder: str | None = None) -> Iterator[str]:
    """The paths of a logged model's files, as the store lists them."""
    for entry in client.list_logged_model_artifacts(model_id, folder):
        if entry.is_dir:
            yield from _listed(client, model_id, entry.path)
        else:
            yield entry.path


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
