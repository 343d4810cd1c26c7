"""The runs of one study's experiment: metrics, pictures, tags, status.

Comes in: what the driver decided and the epochs returned. Goes out: run ids, runs read back. May not import torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow.artifacts
import numpy as np
from mlflow import entities
from mlflow.entities import DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from PIL import Image

from pipeline.config.outcomes import WEIGHTS_FILE, EpochResult
from pipeline.errors import NotFoundError, TrackingError
from pipeline.files import png, write_files
from pipeline.home import Home
from pipeline.patience import Patience
from pipeline.tracking._mlflow import image_files, image_key_and_step
from pipeline.tracking.experiments import create_experiment, find_by_name, find_experiment, home_experiments, owned_path
from pipeline.tracking.models import MODEL_ID, WEIGHTS_TAG, LoggedModels, export, restorer_at, stored_weights
from pipeline.tracking.registry import ABSENT, RegisteredVersion, every_version
from pipeline.tracking.store import (
    OpenExperiment,
    connect,
    disk_errors,
    every_page,
    local_path,
    patience_with,
    store_errors,
    waits,
)

if TYPE_CHECKING:
    from pipeline.data import Dataset
    from pipeline.training.model import Restorer

RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
PANEL, RESTORED = "panel", "restored"  # keys of images: one per epoch; of the best epoch, at step 0
IMAGES_TAG = {"mlflow.loggedImages": "True"}  # of runs with images: MLflow's pages show them then
MOST_METRICS = 1000  # in one request
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum
PANEL_FILE = "panel.png"  # the best epoch's panel with labels; a file of a fixed name can be compared between runs
# In the study's own run.
CONTACT_SHEET, STUDY_FILES = "contact-sheet.png", ("study.toml", "study.json")
FILES_TAG = "zz.files"  # what it has
LEADERBOARD = {"md": "leaderboard.md", "csv": "leaderboard.csv"}  # by format


@dataclass(frozen=True)
class StoredRun:
    """A run as read back. Its tags and metrics may hold anything, or be missing: people edit them."""

    run_id: str
    name: str
    status: str
    tags: dict[str, str]
    metrics: dict[str, float]  # the last value of each
    artifact_uri: str
    deleted: bool = False
    started: float = 0.0  # in seconds since 1970

    @property
    def best_epoch(self) -> int:
        """The best epoch of a trial or a training; 0 if it is not recorded."""
        epoch = self.metrics.get("best_epoch", math.nan)
        return int(epoch) if math.isfinite(epoch) else 0


class Tracking:
    """One study's experiment in the MLflow store. Only one process writes to it: the driver.

    Every method may be called by any thread, and repeated: a request whose reply was lost is not done twice. While the
    store is unreachable, it waits for a bounded time, then raises StudyError.
    """

    def __init__(self, experiment: OpenExperiment) -> None:
        self.experiment = experiment
        self.home, self.experiment_id = experiment.home, experiment.experiment_id
        self.models = LoggedModels(experiment)
        self._client = experiment.client
        self._locations: dict[str, str] = {}  # of artifacts, by run: MLflow itself remembers those of 1,024 runs
        self._one_at_a_time = threading.Lock()  # a server refuses a data set that two requests add at once

    def run(
        self,
        uid: str,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        data: Dataset,
        started: float,
        look_first: bool = True,
    ) -> str:
        """The id of the run with this ``trial.uid``, created if it does not exist; its status is RUNNING afterwards.

        A run that exists keeps its name, its tags and its start, in seconds since 1970. Without ``look_first`` it is
        known that there is none.
        """
        run_id = self._created(uid, name, tags, started, look_first)
        self._describe(run_id, params, data)
        return run_id

    @disk_errors()
    def _created(self, uid: str, name: str, tags: Mapping[str, str], started: float, look_first: bool) -> str:
        def write() -> str:
            nonlocal look_first
            look, look_first = look_first, True  # this request may be sent again
            if look and (found := self._with_uid(uid)) is not None:
                self._client.update_run(found.run_id, status="RUNNING")
                return found.run_id
            all_tags = {"trial.uid": uid, **tags}
            created = self._client.create_run(self.experiment_id, int(started * 1000), all_tags, run_name=name).info
            self._locations[created.run_id] = created.artifact_uri
            return str(created.run_id)

        return self.experiment.send(write)

    @waits
    def _describe(self, run_id: str, params: Mapping[str, Any], data: Dataset) -> None:
        # Also for a run that exists: the process that created it may have been killed before it wrote these.
        self._client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
        # The store takes at most 36 characters of digest; the run's tags have all of it.
        source, profile = json.dumps({"name": data.name}), json.dumps(data.sizes)
        dataset = entities.Dataset(data.name, data.digest[:32], "local", source, profile=profile)
        with self._one_at_a_time:
            self._client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])

    @waits
    def find(self, uid: str, deleted: bool = False) -> StoredRun | None:
        """The run with this ``trial.uid``; with ``deleted`` one that was deleted and can be restored."""
        return self._with_uid(uid, ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY)

    @waits
    def read(self, run_id: str) -> StoredRun | None:
        """The run with this id; None if the experiment has none, or it was deleted."""
        return self._first(f"attributes.run_id = '{run_id}'")

    @waits
    def runs(self, deleted: bool = False) -> list[StoredRun]:
        """All runs in the order they were created, with ``deleted`` also those that can be restored."""
        return [self._stored(run) for run in self._search(ViewType.ALL if deleted else ViewType.ACTIVE_ONLY)]

    @waits
    def exported(self) -> list[StoredRun]:
        """The runs whose tags name an exported model."""
        return [self._stored(run) for run in self._search(query=f"tags.`{MODEL_ID}` != ''")]

    def _with_uid(self, uid: str, view: int = ViewType.ACTIVE_ONLY) -> StoredRun | None:
        return self._first(f"tags.`trial.uid` = '{uid}'", view)

    def _first(self, query: str, view: int = ViewType.ACTIVE_ONLY) -> StoredRun | None:
        runs = self._client.search_runs([self.experiment_id], query, view, max_results=1)
        return self._stored(runs[0]) if runs else None

    def _stored(self, run: Run) -> StoredRun:
        owned_path(self.experiment.home, run.info.artifact_uri)  # refuses a run whose files would be written elsewhere
        return _stored(run)

    def _search(self, view: int = ViewType.ACTIVE_ONLY, query: str = "") -> Iterator[Run]:
        order = ["attributes.start_time ASC"]
        return every_page(partial(self._client.search_runs, [self.experiment_id], query, view, order_by=order))

    @waits
    def epochs(self, run_id: str) -> frozenset[int]:
        """The epochs whose metrics a run has."""
        return frozenset(metric.step for metric in self._client.get_metric_history(run_id, "train/loss"))

    @waits
    def log_epochs(self, run_id: str, results: Iterable[EpochResult]) -> None:
        """Log all metrics of epochs, with the time each epoch ended; repeating it changes nothing."""
        self._log(run_id, _points(results), {})

    def _log(self, run_id: str, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """Write metrics and then tags, in one request where MLflow takes so many at once."""
        batches = [metrics[i : i + MOST_METRICS] for i in range(0, len(metrics), MOST_METRICS)]
        last = batches.pop() if batches else []
        for batch in batches:
            self._client.log_batch(run_id, batch)
        if last or tags:
            self._client.log_batch(run_id, last, tags=[RunTag(key, value) for key, value in tags.items()])

    @disk_errors()
    def log_images(self, run_id: str, images: Mapping[tuple[str, int], np.ndarray], look_first: bool = False) -> None:
        """Log images by key and step; with ``look_first`` only those that the run lacks, so that it has none twice."""

        def write() -> None:
            nonlocal look_first
            look, look_first = look_first, True  # this request may be sent again
            there = _images(self._location(run_id)) if look else {}
            new = [image_files(key, image, step) for (key, step), image in images.items() if (key, step) not in there]
            self._log_files(run_id, {f"images/{name}": data for files in new for name, data in files.items()})

        self.experiment.send(write)

    @waits
    def log_figures(self, run_id: str, figures: Mapping[str, float]) -> None:
        """Log metrics without a history, at step 0; a metric that has this value already is left unchanged."""
        logged, stamp = self._client.get_run(run_id).data.metrics, int(time.time() * 1000)
        new = {key: value for key, value in figures.items() if not same_value(logged.get(key), value)}
        self._client.log_batch(run_id, metrics=[Metric(key, value, stamp, 0) for key, value in new.items()])

    @waits
    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """A metric's values by step."""
        return _by_step(self._client.get_metric_history(run_id, metric))

    @waits
    def log_again(self, run_id: str, metric: str, value: float, step: int | None = None) -> None:
        """Log a metric that somebody else changed: nothing is removed, but of its step it is the last value now.

        Without a step: of its last step, so that it is the metric's last value.
        """
        points = self._client.get_metric_history(run_id, metric)
        step = max((point.step for point in points), default=0) if step is None else step
        after = max((point.timestamp + 1 for point in points if point.step == step), default=0)
        stamp = max(after, int(time.time() * 1000))
        self._client.log_batch(run_id, metrics=[Metric(metric, value, stamp, step)])

    @waits
    def panel(self, run_id: str, epoch: int) -> np.ndarray | None:
        """An epoch's panel, uint8 ``[height, width]``; None if it is absent or damaged."""
        file = _images(self._location(run_id)).get((PANEL, epoch))
        if file is None:
            return None
        with tempfile.TemporaryDirectory() as folder:
            picture = self._client.download_artifacts(run_id, file, folder)
            with suppress(OSError, SyntaxError, ValueError):  # Pillow's errors of a damaged file
                return np.asarray(Image.open(picture, formats=("PNG",)).convert("L"))
        return None

    @waits
    def lost_pictures(self, run: StoredRun, epoch: int) -> list[str]:
        """Which of its three pictures of the best epoch a run lacks: PANEL, RESTORED, PANEL_FILE."""
        images = _images(run.artifact_uri)
        lost = [key for key, step in ((PANEL, epoch), (RESTORED, 0)) if (key, step) not in images]
        return lost if PANEL_FILE in _pictures(run.artifact_uri) else [*lost, PANEL_FILE]

    @waits
    def local_file(self, run_id: str, file: str) -> Path | None:
        """The path of an artifact on this machine; None if a server keeps it, or it does not exist."""
        folder = owned_path(self.home, self._location(run_id))
        return folder / file if folder is not None and (folder / file).is_file() else None

    @waits
    def files(self, run_id: str) -> set[str]:
        """The paths of a run's artifacts, at the top level and in the folders there."""
        top = list(self._client.list_artifacts(run_id))
        inner = [entry for folder in top if folder.is_dir for entry in self._client.list_artifacts(run_id, folder.path)]
        return {entry.path for entry in [*top, *inner]}

    @waits
    def text(self, run_id: str, file: str) -> str | None:
        """The text of an artifact at the top level; None if there is no such file."""
        if file not in {entry.path for entry in self._client.list_artifacts(run_id)}:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._client.download_artifacts(run_id, file, folder)).read_text()

    @waits
    def log_files(self, run_id: str, files: Mapping[str, bytes | np.ndarray]) -> None:
        """Log artifacts by their paths, pictures as PNG; of one path the last stays."""
        encoded = {path: png(x, compress_level=1) if isinstance(x, np.ndarray) else x for path, x in files.items()}
        self._log_files(run_id, encoded)

    def _log_files(self, run_id: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        location = self._location(run_id)
        if (folder := owned_path(self.home, location)) is not None:
            write_files(folder, files)
            return
        with tempfile.TemporaryDirectory() as temporary:
            write_files(Path(temporary), files)
            get_artifact_repository(location, self.home.tracking_uri).log_artifacts(temporary)

    def _location(self, run_id: str) -> str:
        """Where a run's artifacts are, which never changes."""
        if run_id not in self._locations:
            self._locations[run_id] = self._client.get_run(run_id).info.artifact_uri
        return self._locations[run_id]

    def export(self, run: StoredRun, name: str, sha256: str, images: np.ndarray, epoch: int) -> None:
        """Export a run's model in this process, from the run's weights file, and log it; as of `LoggedModels.log`."""
        self.models.log(run.run_id, name, export(weights_of(run, sha256), sha256, images), epoch)

    @waits
    def weights_problem(self, run: StoredRun, sha256: str | None = None) -> str | None:
        """What is wrong with a run's weights file; None if it is sound, or a server keeps it.

        ``sha256`` is what Optuna has; of a single training the run's own tag counts.
        """
        recorded = run.tags.get(WEIGHTS_TAG)
        if not recorded or recorded != (sha256 or recorded):
            return f"its tag {WEIGHTS_TAG} is not that of its weights"
        folder = local_path(run.artifact_uri)
        if folder is None:  # verified when it is loaded
            return None if WEIGHTS_FILE in _names(run.artifact_uri) else f"its {WEIGHTS_FILE} is missing"
        if not (folder / WEIGHTS_FILE).is_file():
            return f"its {WEIGHTS_FILE} is missing"
        changed = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest() != recorded
        return f"its {WEIGHTS_FILE} was changed" if changed else None

    @waits
    def tag_experiment(self, tags: Mapping[str, str]) -> None:
        """Write tags of the experiment."""
        for key, value in tags.items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    @waits
    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.experiment.tag(run_id, tags)

    @waits
    def end(
        self,
        run_id: str,
        state: str,
        reason: str = "",
        results: Iterable[EpochResult] = (),
        figures: Mapping[str, float] | None = None,
        at: float = 0.0,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """End a run with the state of its trial; when this returns, the store has everything of the run.

        Before that, what it still lacks is logged in one request: epochs, figures without a history (at step 0, as of
        ``at`` in seconds since 1970), and tags. Repeating it changes nothing.
        """
        metrics = [
            *_points(results),
            *(Metric(key, value, int(at * 1000), 0) for key, value in (figures or {}).items()),
        ]
        self._log(
            run_id, metrics, {**(tags or {}), "trial.state": state, **({"trial.reason": reason} if reason else {})}
        )
        self._client.set_terminated(run_id, RUN_STATUS[state])

    @waits
    def suspend(self, run_id: str) -> None:
        """Mark a run as waiting to be resumed."""
        self._client.update_run(run_id, status="SCHEDULED")

    @disk_errors()
    def delete(self, run_id: str) -> None:
        """Delete a run and its models; MLflow keeps what is deleted until `mlflow gc`."""
        self.models.delete_of_run(run_id)
        self.experiment.send(lambda: self._client.delete_run(run_id))

    @waits
    def restore(self, run_id: str) -> bool:
        """Restore a run of this experiment if it was deleted; False if the store does not have it any more."""
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if run.info.experiment_id != self.experiment_id:
            return False
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            self._client.restore_run(run_id)
        return True

    @waits
    def versions(self) -> list[RegisteredVersion]:
        """Every version of every registered model in the store, newest first within a model."""
        return every_version(self._client)

    def stray_images(self, runs: Iterable[StoredRun]) -> list[Path]:
        """Files on this machine in these runs' image folders that MLflow did not write, or not to their end."""
        folders = [local_path(run.artifact_uri) for run in runs]
        files = [file for folder in folders if folder is not None for file in sorted((folder / "images").glob("*"))]
        return [file for file in files if image_key_and_step(file.name) is None or not _is_whole(file)]


def _images(artifact_uri: str) -> dict[tuple[str, int], str]:
    """The paths of a run's images by key and step."""
    names = [name for name in _pictures(f"{artifact_uri}/images") if name.endswith(".png")]
    found = {image_key_and_step(name): f"images/{name}" for name in names}
    return {image: path for image, path in found.items() if image is not None}


def _pictures(uri: str) -> set[str]:
    """As `_names`, without the pictures on this machine that were not written to their end."""
    folder = local_path(uri)
    return {name for name in _names(uri) if folder is None or _is_whole(folder / name)}


def _is_whole(file: Path) -> bool:
    """Whether a file is no PNG, or has its end: a process or a machine may have died while it was written."""
    if file.suffix != ".png":
        return True
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - len(PNG_END)))
        return opened.read() == PNG_END


def _names(uri: str) -> set[str]:
    """The names of what is in a folder of artifacts, which may be absent.

    MLflow is asked only where a server keeps them, and not by the run's id: it would also look for the run's models.
    """
    folder = local_path(uri)
    if folder is None:
        return {Path(entry.path).name for entry in mlflow.artifacts.list_artifacts(uri)}
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _points(results: Iterable[EpochResult]) -> list[Metric]:
    return [
        Metric(key, value, int(result.ended_at * 1000), result.epoch)
        for result in results
        for key, value in result.metrics.items()
    ]


def best_figures(metrics: Mapping[str, float]) -> dict[str, float]:
    """The ``val/…`` metrics of a trial's best epoch, or of a baseline, as ``best/…``.

    MLflow's table shows the last value of a metric: of ``val/…`` the last epoch's, of ``best/…`` these.
    """
    return {f"best/{key.removeprefix('val/')}": value for key, value in metrics.items() if key.startswith("val/")}


def same_value(logged: float | None, value: float) -> bool:
    """Whether MLflow has a value; it stores infinity as the largest number."""
    if logged is None:
        return False
    limit = sys.float_info.max
    return logged == max(-limit, min(limit, value)) or (logged != logged and value != value)


def open_tracking(home: Home, study_name: str, uid: str, note: str, patience: Patience) -> Tracking:
    """As `read_tracking`; creates the database and the experiment, described by a note in Markdown, if absent."""
    connect(home, create=True)
    if find_experiment(home, uid) is None:
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": note}
        create_experiment(home, study_name, uid, tags)
    return read_tracking(home, study_name, uid, patience)


def read_tracking(home: Home, study_name: str, uid: str, patience: Patience | None = None) -> Tracking:
    """Open a study's experiment by the study's uid; nothing is created.

    Raises:
        NotFoundError: there is none, or no store.
        InputError: it belongs to another home.
        TrackingError: the store cannot be used, or the experiment was deleted.
    """
    experiment = find_experiment(home, uid)
    if experiment is None:
        raise NotFoundError(f"MLflow has no experiment of study {study_name!r} at {home.tracking_shown}")
    if experiment.lifecycle_stage != "active":
        raise TrackingError(
            f"MLflow's experiment {experiment.name!r} was deleted; restore it (mlflow experiments restore "
            f"-x {experiment.experiment_id}) or use --name OTHER"
        )
    owned_path(home, experiment.artifact_location)
    patience = patience or patience_with(home)
    experiment_id, location = experiment.experiment_id, experiment.artifact_location
    opened = OpenExperiment(home, connect(home), experiment_id, location, patience)
    return Tracking(opened)


def weights_of(run: StoredRun, sha256: str) -> bytes:
    """The weights file of a run. Raises TrackingError if it is missing or not the one with this sha256."""
    return stored_weights(run.artifact_uri, f"run {run.name}", sha256)


def restorer_of(run: StoredRun, sha256: str) -> Restorer:
    """The restorer of a run, rebuilt from its weights file. Raises as `weights_of`."""
    return restorer_at(run.artifact_uri, f"run {run.name}", sha256)


def read_run(home: Home, run_id: str) -> StoredRun:
    """The run with this id, of any experiment. Raises NotFoundError if there is none, TrackingError as `find_runs`."""
    if home.has_tracking():
        client = connect(home)
        with store_errors(home):
            try:
                return _stored(client.get_run(run_id))
            except MlflowException as error:
                if error.error_code not in ABSENT:
                    raise
    raise NotFoundError(f"there is no run {run_id!r} at {home.tracking_shown}")


def find_runs(home: Home, query: str, study: str | None = None) -> list[StoredRun]:
    """The runs of this home's studies, or of one, for which a filter of MLflow's holds; the oldest first.

    Raises:
        NotFoundError: there is no such study.
        TrackingError: the store cannot be used.
    """
    chosen = [find_by_name(home, study)] if study else home_experiments(home)
    ids = [each.experiment_id for each in chosen if each.lifecycle_stage == "active"]
    if not ids:
        return []
    search = partial(connect(home).search_runs, ids, query, order_by=["attributes.start_time ASC"])
    with store_errors(home):
        return [_stored(run) for run in every_page(search)]


def metric_histories(home: Home, run: StoredRun) -> dict[str, dict[int, float]]:
    """Every metric of a run, by step. Raises TrackingError as `find_runs`."""
    points = partial(connect(home).get_metric_history, run.run_id)
    with store_errors(home):
        return {name: _by_step(points(name)) for name in run.metrics}


def _by_step(points: Iterable[Metric]) -> dict[int, float]:
    """The values by step; of several at one step the last, as MLflow shows it."""
    ordered = sorted(points, key=lambda point: point.timestamp)  # of one time MLflow gives the greatest last
    return {point.step: point.value for point in ordered}


def _stored(run: Run) -> StoredRun:
    info, deleted = run.info, run.info.lifecycle_stage != LifecycleStage.ACTIVE
    return StoredRun(
        info.run_id,
        info.run_name,
        info.status,
        run.data.tags,
        run.data.metrics,
        info.artifact_uri,
        deleted,
        info.start_time / 1000,
    )
