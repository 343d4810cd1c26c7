"""MLflow: the store, experiments, runs, metrics, images, data set inputs, models.

Comes in: what the driver has decided and what the legs returned. Goes out: run ids, and verified models read back. Only
this module and `registry` import mlflow. Optuna's database is the authority; what stands here can be made again from it
and from the checkpoints, so everything is looked up before it is created.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import mlflow
import mlflow.pytorch
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    Experiment,
    InputTag,
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from PIL import Image

from pipeline.config.results import EpochResult
from pipeline.errors import NotFoundError, TrackingError
from pipeline.home import Home
from pipeline.provenance import versions
from pipeline.tracking.models import differing, manifest_of, signature_of
from pipeline.tracking.outbox import Outbox
from pipeline.tracking.store import STUDY_TAG, connect, disk_errors, every_page, is_unreachable, quiet, store_errors

RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
PANEL = "panel"
CONTACT_SHEET = "contact-sheet.png"  # in the study's own run
IMAGE = re.compile(r"[^+%]+([+%])step\1\d+\1timestamp\1\d+\1[0-9a-f-]+(\1compressed)?\.(png|webp)")


@dataclass(frozen=True)
class StoredRun:
    """A run as read back."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: dict[str, float]


P = ParamSpec("P")
R = TypeVar("R")


def _patient(method: Callable[Concatenate[Tracking, P], R]) -> Callable[Concatenate[Tracking, P], R]:
    """A method whose answer is needed: after all earlier writes, waiting while the store is away."""

    @wraps(method)
    def call(self: Tracking, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with disk_errors():
            return self._outbox.call(lambda: method(self, *args, **kwargs))

    return call


def _buffered(method: Callable[Concatenate[Tracking, P], None]) -> Callable[Concatenate[Tracking, P], None]:
    """A method that only writes: kept for later while the store is away."""

    @wraps(method)
    def call(self: Tracking, /, *args: P.args, **kwargs: P.kwargs) -> None:
        with disk_errors():
            self._outbox.put(lambda: method(self, *args, **kwargs))

    return call


class Tracking:
    """One study's experiment in the MLflow store. One process writes to it: the driver.

    A store that is away is waited for, within bounds; writes that nothing depends on are kept meanwhile. Every method
    may be repeated: a reply that was lost leaves nothing doubled.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, outbox: Outbox) -> None:
        self._client = client
        self._outbox = outbox
        self.experiment_id = experiment_id
        self._model_requirements = [f"{name}=={version}" for name, version in versions().items() if name != "python"]

    @property
    def behind(self) -> bool:
        """Whether writes are waiting for the store to come back."""
        return self._outbox.behind

    def flush(self) -> None:
        """Write what is waiting, if the store is back. Raises TrackingError once it has been away too long."""
        with disk_errors():
            self._outbox.flush()

    @_patient
    def settle(self) -> None:
        """Wait until the store has everything that was written so far."""

    @_patient
    def experiment(self) -> Experiment:
        """The experiment as the store has it."""
        return self._client.get_experiment(self.experiment_id)

    @_patient
    def run(
        self, uid: str, name: str, tags: Mapping[str, str], params: Mapping[str, Any], data: DataInput, started: float
    ) -> str:
        """The run with this ``trial.uid``, made if it is not there; in either case it is under way afterwards.

        Args:
            uid: identity of the trial, baseline or study.
            name: shown in the UI.
            tags: beside ``trial.uid``; written when the run is created.
            params: likewise.
            data: logged as the run's input.
            started: seconds since 1970.
        """
        run_id = self._find(uid)
        if run_id is None:
            all_tags = {"trial.uid": uid, **tags}
            run = self._client.create_run(self.experiment_id, int(started * 1000), all_tags, run_name=name)
            run_id = run.info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        # Written again where the run was there: the process that created it may have been killed before this.
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        self._client.log_inputs(run_id, [data.entity()])
        return run_id

    @_patient
    def find(self, uid: str) -> str | None:
        """The id of the run with this ``trial.uid``."""
        return self._find(uid)

    @_patient
    def stored(self, uid: str) -> StoredRun | None:
        """The run with this ``trial.uid``."""
        run_id = self._find(uid)
        return _stored(self._client.get_run(run_id)) if run_id else None

    def _find(self, uid: str) -> str | None:
        runs = self._client.search_runs([self.experiment_id], f"tags.`trial.uid` = '{uid}'", max_results=1)
        return runs[0].info.run_id if runs else None

    @_patient
    def runs(self, role: str) -> list[StoredRun]:
        """All runs of a ``study.role``, in the order they were made."""
        return [_stored(run) for run in self._search(f"tags.`study.role` = '{role}'")]

    @_patient
    def count(self) -> int:
        """How many runs the experiment has."""
        return sum(1 for _ in self._search())

    @_patient
    def unfinished(self) -> list[StoredRun]:
        """Runs that a process left under way."""
        return [_stored(run) for run in self._search() if run.info.status in ("RUNNING", "SCHEDULED")]

    def _search(self, query: str = "") -> Iterator[Run]:
        order = ["attributes.start_time ASC"]
        return every_page(partial(self._client.search_runs, [self.experiment_id], query, order_by=order))

    @_patient
    def epochs(self, run_id: str) -> frozenset[int]:
        """The epochs whose metrics a run has."""
        return frozenset(metric.step for metric in self._client.get_metric_history(run_id, "train/loss"))

    @_buffered
    def log_epoch(self, run_id: str, result: EpochResult) -> None:
        """All of an epoch's metrics in one write, at the time the epoch ended; a repetition changes nothing."""
        stamp = int(result.ended_at * 1000)
        metrics = [Metric(key, value, stamp, result.epoch) for key, value in result.metrics.items()]
        self._client.log_batch(run_id, metrics=metrics)

    def log_panel(self, run_id: str, panel: np.ndarray, epoch: int, look_first: bool = False) -> None:
        """An epoch's pictures; with ``look_first`` only where that epoch has none yet (a second would double it)."""
        tried = look_first

        def write() -> None:
            nonlocal tried
            again, tried = tried, True
            if not again or self._panel_file(run_id, epoch) is None:
                self._client.log_image(run_id, panel, key=PANEL, step=epoch, synchronous=True)

        with disk_errors():
            self._outbox.put(write)

    @_buffered
    def log_figures(self, run_id: str, figures: Mapping[str, float]) -> None:
        """Metrics without a history, step 0; those that stand there already with that value are let be."""
        there, stamp = self._client.get_run(run_id).data.metrics, int(time.time() * 1000)
        new = {key: value for key, value in figures.items() if there.get(key) != value}
        self._client.log_batch(run_id, metrics=[Metric(key, value, stamp, 0) for key, value in new.items()])

    @_patient
    def panel(self, run_id: str, epoch: int) -> np.ndarray | None:
        """An epoch's panel read back, uint8 ``[height, width]``; None where there is none."""
        file = self._panel_file(run_id, epoch)
        if file is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return np.asarray(Image.open(self._client.download_artifacts(run_id, file, folder)).convert("L"))

    @_patient
    def has_panel(self, run_id: str, epoch: int) -> bool:
        """Whether an epoch's panel is there."""
        return self._panel_file(run_id, epoch) is not None

    def _panel_file(self, run_id: str, epoch: int) -> str | None:
        for entry in self._client.list_artifacts(run_id, "images"):
            # The store writes + or % between the parts of the name.
            if Path(entry.path).match(f"{PANEL}?step?{epoch}?timestamp*.png"):
                return str(entry.path)
        return None

    @_patient
    def local_file(self, run_id: str, file: str) -> Path | None:
        """Where an artifact lies on this machine; None if a server keeps it, or it is not there."""
        uri = self._client.get_run(run_id).info.artifact_uri
        path = Path(local_file_uri_to_path(uri)) / file
        return path if "://" not in uri.removeprefix("file://") and path.is_file() else None

    @_patient
    def has_file(self, run_id: str, file: str) -> bool:
        """Whether a run has an artifact of this name on its first level."""
        return any(entry.path == file for entry in self._client.list_artifacts(run_id))

    @_patient
    def log_text(self, run_id: str, text: str, file: str) -> None:
        self._client.log_text(run_id, text, file)

    @_patient
    def log_picture(self, run_id: str, picture: np.ndarray, file: str) -> None:
        self._client.log_image(run_id, picture, artifact_file=file)

    @_buffered
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._tag(run_id, tags)

    def _tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    @_patient
    def end(self, run_id: str, state: str, reason: str = "") -> None:
        """End a run as its trial ended; once this returns the store has all of it."""
        self._tag(run_id, {"trial.state": state} | ({"trial.reason": reason} if reason else {}))
        self._client.set_terminated(run_id, RUN_STATUS[state])

    @_buffered
    def suspend(self, run_id: str) -> None:
        """Mark a run as waiting to be gone on with."""
        self._client.update_run(run_id, status="SCHEDULED")

    @_patient
    def log_model(self, run_id: str, model: Any, example: np.ndarray, epoch: int) -> str:
        """Log a model as pt2 (no pickle) under a run, with the digests of its files in the run's tags.

        Args:
            run_id: of the trial.
            model: restoring module in evaluation mode on the CPU.
            example: degraded images, float32 ``[2, 1, h, w]``; a batch of 1 would fix the batch size.
            epoch: whose weights these are.

        Returns:
            The logged model's id. A model that is already there is kept; one that was left half-made is removed.
        """
        for old in self._models(run_id):
            if old.status == LoggedModelStatus.READY and "model.sha256" in self._client.get_run(run_id).data.tags:
                return old.model_id
            self._client.delete_logged_model(old.model_id)
        with tempfile.TemporaryDirectory() as temporary, quiet():
            folder = Path(temporary) / "model"
            signature = signature_of(model, example)
            mlflow.pytorch.save_model(
                model,
                folder,
                serialization_format="pt2",
                signature=signature,
                input_example=example,
                pip_requirements=self._model_requirements,
            )
            logged = self._client.create_logged_model(self.experiment_id, name="model", source_run_id=run_id)
            self._client.log_model_artifacts(logged.model_id, str(folder))
            manifest = manifest_of(folder)
        self._tag(run_id, {"model.id": logged.model_id, "model.sha256": json.dumps(manifest, sort_keys=True)})
        self._client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, epoch)])
        self._client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        return logged.model_id

    @_patient
    def delete(self, run_id: str) -> None:
        """Put a run aside, and its models; MLflow keeps deleted runs until `mlflow gc`."""
        for model in self._models(run_id):
            self._client.delete_logged_model(model.model_id)
        self._client.delete_run(run_id)

    @_patient
    def delete_models(self, run_id: str) -> None:
        """Put aside the models of a run."""
        for model in self._models(run_id):
            self._client.delete_logged_model(model.model_id)

    @_patient
    def delete_model(self, model_id: str) -> None:
        self._client.delete_logged_model(model_id)

    @_patient
    def model_problem(self, run: StoredRun) -> str | None:
        """What is wrong with the model of a finished run; None if its files are the ones that were logged."""
        ready = [model for model in self._models(run.run_id) if model.status == LoggedModelStatus.READY]
        if len(ready) != 1 or run.tags.get("model.id") != ready[0].model_id or "model.sha256" not in run.tags:
            return "its model is missing or not READY"
        folder = Path(local_file_uri_to_path(ready[0].artifact_location))
        if "://" in ready[0].artifact_location.removeprefix("file://"):
            return None  # a server keeps the files; they are verified when they are loaded
        if not folder.is_dir():
            return f"the files of its model are not at {folder}"
        changed = differing(json.loads(run.tags["model.sha256"]), manifest_of(folder))
        return f"its model's {', '.join(changed)}" if changed else None

    @_patient
    def stray_models(self, owners: set[str]) -> list[tuple[str, str]]:
        """(id, status) of logged models that are not READY, or whose run is not one of ``owners``."""
        models = self._all_models()
        bad = [m for m in models if m.status != LoggedModelStatus.READY or m.source_run_id not in owners]
        return [(model.model_id, str(model.status)) for model in bad]

    @_patient
    def stray_images(self) -> list[Path]:
        """Files on this machine that lie among a run's images and are none."""
        found = []
        for run in self._search():
            uri = run.info.artifact_uri
            if "://" in uri.removeprefix("file://"):
                continue
            files = sorted((Path(local_file_uri_to_path(uri)) / "images").glob("*"))
            found += [file for file in files if not IMAGE.fullmatch(file.name)]
        return found

    def _models(self, run_id: str) -> list[LoggedModel]:
        return self._all_models(f"source_run_id = '{run_id}'")

    def _all_models(self, query: str | None = None) -> list[LoggedModel]:
        return list(every_page(partial(self._client.search_logged_models, [self.experiment_id], query)))


@dataclass(frozen=True)
class DataInput:
    """The data set as the UI shows it."""

    name: str
    digest: str
    sizes: Mapping[str, int]

    def entity(self) -> DatasetInput:
        profile = json.dumps(dict(self.sizes))
        # The store takes at most 36 characters of digest; the whole one is in the run's tags.
        dataset = Dataset(self.name, self.digest[:32], "local", json.dumps({"name": self.name}), profile=profile)
        return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def open_tracking(home: Home, study_name: str, note: str, stop_asked: Callable[[], bool] = lambda: False) -> Tracking:
    """Open a study's experiment, made if it is not there; the database is migrated here, once, by the driver.

    Args:
        home: of the store.
        study_name: the experiment's name.
        note: its heading in the UI, Markdown.
        stop_asked: whether the user wants to stop; waiting for a store that is away ends then.

    Raises:
        TrackingError: the store cannot be used, or the experiment of that name was deleted.
    """
    client = connect(home, create=True)
    with store_errors(home):
        experiment = client.get_experiment_by_name(study_name)
        if experiment is None:
            location = (home.artifacts / study_name).as_uri() if home.local_tracking else None
            tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
            tags[STUDY_TAG] = study_name
            return Tracking(client, client.create_experiment(study_name, location, tags), _outbox(home, stop_asked))
    _check_active(experiment)
    return Tracking(client, experiment.experiment_id, _outbox(home, stop_asked))


def read_tracking(home: Home, study_name: str) -> Tracking:
    """Open an existing experiment; nothing is created.

    Raises:
        NotFoundError: there is none of that name, or no store.
        TrackingError: the store cannot be used, or the experiment was deleted.
    """
    client = connect(home)
    with store_errors(home):
        experiment = client.get_experiment_by_name(study_name)
    if experiment is None:
        raise NotFoundError(f"MLflow has no experiment {study_name!r} at {home.tracking_uri}")
    _check_active(experiment)
    return Tracking(client, experiment.experiment_id, _outbox(home, lambda: False))


def _check_active(experiment: Experiment) -> None:
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow's experiment {experiment.name!r} was deleted; restore it (mlflow experiments restore "
            f"-x {experiment.experiment_id}) or use --name OTHER"
        )


def experiment_location(tracking: Tracking) -> str:
    """Where the store says that the experiment's artifacts are, a URI."""
    return str(tracking.experiment().artifact_location)


def read_run(home: Home, run_id: str) -> StoredRun:
    """A run by its id.

    Raises:
        NotFoundError: there is none.
    """
    if home.has_tracking():
        client = connect(home)
        with suppress(MlflowException):
            return _stored(client.get_run(run_id))
    raise NotFoundError(f"there is no run {run_id!r} at {home.tracking_uri}")


def metric_histories(home: Home, run_id: str) -> dict[str, dict[int, float]]:
    """Every metric of a run, by step."""
    client = connect(home)
    names = client.get_run(run_id).data.metrics
    return {name: {point.step: point.value for point in client.get_metric_history(run_id, name)} for name in names}


def _outbox(home: Home, stop_asked: Callable[[], bool]) -> Outbox:
    return Outbox(f"MLflow at {home.tracking_uri}", is_unreachable, stop_asked)


def _stored(run: Run) -> StoredRun:
    data = run.data
    return StoredRun(run.info.run_id, run.info.run_name, run.info.status, data.tags, data.params, data.metrics)
