"""The MLflow store: connections, errors, the queue of requests, the experiments of studies.

Comes in: a home. Goes out: a client, and this project's errors in place of MLflow's. May not import torch.
"""

import errno
import logging
import os
import re
import subprocess
import sys
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import RESUME, InputError, NotFoundError, TrackingError
from pipeline.files import check_database, create_whole
from pipeline.home import Home, shown
from pipeline.patience import Patience
from pipeline.tracking._mlflow import CLIENT_ERROR, DELETED_RUN, SERVER_ERROR, artifact_locations, relocate
from pipeline.tracking.outbox import Outbox

STUDY_TAG = "study.name"  # of an experiment and of each of its runs
UID_TAG, HOME_TAG = "study.uid", "study.home"  # of an experiment: its study's uid, its home's id
DELETED_TAG = "study.deleted"  # of an experiment that is being deleted
DISK_ERRNOS = (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT)
SQLITE_DISK_ERROR = re.compile(r"database or disk is full|disk I/O error|attempt to write a readonly database")


def connect(home: Home, create: bool = False) -> MlflowClient:
    """A client of the home's store.

    Side effect: sets the store in MLflow's global state too. MLflow creates a model version there whatever its client
    was given, and would otherwise leave a database in the working directory.

    Raises:
        NotFoundError: there is no database, and ``create`` is false.
        TrackingError: the store cannot be used.
    """
    if not create and not home.has_tracking():
        raise NotFoundError(f"there is no MLflow database at {home.tracking_shown}; `study run` creates it")
    if home.local_tracking:
        check_database(database_file(home))
    environment = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    for key, value in environment.items():  # MLflow sets these too, and they would name the store of the next home
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
    with quiet(), store_errors(home):
        if create and home.local_tracking:
            create_whole(database_file(home), _create_database)
        client = MlflowClient(home.tracking_uri, home.tracking_uri)
        client.search_experiments(max_results=1)
        return client


def _create_database(path: Path) -> None:
    """Create the tables of a database; MLflow cannot use one whose creation was interrupted."""
    MlflowClient(f"sqlite:///{path}", f"sqlite:///{path}").search_experiments(max_results=1)


def every_page(search: Callable[..., Any]) -> Iterator[Any]:
    """Everything that one of MLflow's searches finds; a single call returns only the first page."""
    page = search()
    yield from page
    while page.token:
        page = search(page_token=page.token)
        yield from page


def local_path(uri: str) -> Path | None:
    """The path on this machine that a URI of artifacts names; None if a server keeps them."""
    parts = urlparse(uri)
    if parts.scheme not in ("", "file"):
        return None
    return Path(url2pathname(parts.path if parts.scheme else uri))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_unreachable(error: Exception) -> bool:
    """Whether MLflow's error means that the store is down, overloaded or locked, and not that a request was wrong."""
    if _disk_trouble(error) or CLIENT_ERROR.search(str(error)):
        return False
    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    # The errors of HTTP requests are OSErrors.
    return bool(SERVER_ERROR.search(str(error))) or any(isinstance(cause, OSError) for cause in _causes(error))


def patience_with(home: Home, **listeners: Any) -> Patience:
    """The patience with a home's store; ``listeners`` are ``stop_asked`` and ``say`` of `Patience`."""
    return Patience(f"MLflow at {home.tracking_shown}", is_unreachable, **listeners)


def _disk_trouble(error: Exception) -> str | None:
    """What the disk refused, if that is the cause: waiting does not help."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_ERRNOS:
            return f"{cause.filename or 'the disk'}: {cause.strerror}"
        if match := SQLITE_DISK_ERROR.search(str(cause)):
            return match[0]
    return None


@contextmanager
def disk_errors() -> Iterator[None]:
    """Report a disk that is full or read-only as an error that the user can act on; also a decorator."""
    try:
        yield
    except (MlflowException, OSError) as error:
        if trouble := _disk_trouble(error):
            raise TrackingError(f"MLflow: {trouble}; when that is repaired, {RESUME}") from error
        raise


@contextmanager
def store_errors(home: Home) -> Iterator[None]:
    """Report MLflow's errors as this project's."""
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        reason = shown(str(error) or type(error).__name__).splitlines()[0]
        raise TrackingError(f"MLflow at {home.tracking_shown} cannot be used: {reason}") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' warnings about how they save, on which the user cannot act."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


T = TypeVar("T")
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class OpenExperiment:
    """A study's experiment, opened, and the queue of the requests to it."""

    home: Home
    client: MlflowClient
    experiment_id: str
    location: str  # the URI of its artifacts, as the store has it
    outbox: Outbox
    say: Callable[[str], None]

    def restoring(self, request: Callable[[], T]) -> T:
        """Send a request; a run that it writes to and that was deleted meanwhile is restored first."""
        try:
            return request()
        except MlflowException as error:
            if not (deleted := DELETED_RUN.search(str(error))):
                raise
        self.say(f"run {deleted[1]} was deleted in MLflow while its study runs; it is restored")
        self.client.restore_run(deleted[1])
        return request()

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write all of a run's tags in one request."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def _sent(send: Callable[[Outbox, Callable[[], Any]], Any]) -> Callable[[Method], Method]:
    """A decorator for methods of an object with an `OpenExperiment`: its outbox sends the requests of a call."""

    def decorate(method: Method) -> Method:
        @wraps(method)
        @disk_errors()
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            request = partial(method, self, *args, **kwargs)
            return send(self.experiment.outbox, partial(self.experiment.restoring, request))

        return cast(Method, call)

    return decorate


waits = _sent(Outbox.call)  # its result is needed: called after all earlier writes, once the store is reachable
queued = _sent(Outbox.put)  # it only writes: kept for later while the store is unreachable


def home_experiments(home: Home) -> list[Experiment]:
    """The experiments of a home's studies: active ones, and those whose deletion was interrupted or was not ours."""
    if not home.has_tracking() or not home.id:
        return []
    client, query = connect(home), f"tags.`{HOME_TAG}` = '{home.id}'"
    with store_errors(home):
        found = list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query)))
    # On a server, deleting completes a deletion: only its operator can purge.
    return [e for e in found if home.local_tracking or e.lifecycle_stage == "active" or DELETED_TAG not in e.tags]


def experiment_names(home: Home) -> set[str]:
    """The studies that have an experiment in a home's store, also those whose deletion was interrupted."""
    found = home_experiments(home)
    return {e.tags.get(STUDY_TAG, e.name) for e in found if e.lifecycle_stage == "active" or DELETED_TAG in e.tags}


def find_by_name(home: Home, name: str) -> Experiment:
    """The experiment of this home's study of that name. Raises NotFoundError if there is none."""
    for experiment in home_experiments(home):
        if experiment.tags.get(STUDY_TAG) == name and DELETED_TAG not in experiment.tags:
            return experiment
    raise NotFoundError(f"MLflow has no experiment of study {name!r} at {home.tracking_shown}")


def experiment_uid(home: Home, name: str) -> str | None:
    """The uid in the experiment of this home's study of that name; None if there is none."""
    with suppress(NotFoundError):
        return find_by_name(home, name).tags.get(UID_TAG)
    return None


def uid_for(home: Home, name: str, stored: str | None) -> str:
    """The uid of a study: the stored one, else that of its experiment of single trainings, else a new one.

    Raises:
        InputError: MLflow has an experiment of that name which is not this study's.
        TrackingError: the store cannot be used.
    """
    uid = stored or experiment_uid(home, name)
    if home.has_tracking() and (uid is None or find_experiment(home, uid) is None):
        with store_errors(home):
            taken = connect(home).get_experiment_by_name(name)
        if taken is not None:
            state = "an" if taken.lifecycle_stage == "active" else "a deleted"
            raise InputError(
                f"MLflow at {home.tracking_shown} has {state} experiment {name!r}, which is not this home's; use "
                "--name OTHER"
            )
    return uid or uuid.uuid4().hex


def find_experiment(home: Home, uid: str) -> Experiment | None:
    """The experiment of the study with this uid, whatever its name is by now.

    Raises:
        InputError: it belongs to another home.
        TrackingError: the store cannot be used.
    """
    client = connect(home)
    with store_errors(home):
        query = f"tags.`{UID_TAG}` = '{uid}'"
        found = list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query)))
    found = [e for e in found if DELETED_TAG not in e.tags]
    own = [e for e in found if e.tags.get(HOME_TAG) == home.id]
    if found and not own:
        raise InputError(f"MLflow's experiment {found[0].name!r} belongs to another home, which alone may change it")
    return own[0] if own else None


def edited_tags(home: Home, name: str, uid: str, experiment_id: str | None) -> dict[str, str]:
    """The tags that make an experiment a study's, where they were edited in MLflow: those that it must have.

    ``experiment_id`` is what Optuna has of the study. Empty if the tags are right, or if the experiment may be another
    one: it must have two of the three tags, or its artifacts where only this study has them.
    """
    if experiment_id is None or not home.has_tracking():
        return {}
    client = connect(home)
    with store_errors(home):
        try:
            experiment = client.get_experiment(experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
    right = {STUDY_TAG: name, UID_TAG: uid, HOME_TAG: home.id}
    wrong = {key: value for key, value in right.items() if experiment.tags.get(key) != value}
    sure = len(wrong) == 1 or experiment.artifact_location == _location(home, name, uid)
    return wrong if sure and DELETED_TAG not in experiment.tags else {}


def tag_experiment(home: Home, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an experiment."""
    client = connect(home)
    with store_errors(home):
        for key, value in tags.items():
            client.set_experiment_tag(experiment_id, key, value)


def _location(home: Home, name: str, uid: str) -> str | None:
    """The URI of a study's artifacts; None if a server decides."""
    return (home.artifacts / f"{name}-{uid[:8]}").as_uri() if home.local_tracking else None


def create_experiment(home: Home, name: str, uid: str, tags: Mapping[str, str]) -> None:
    """Create a study's experiment, in a store that `connect` has made."""
    own = {STUDY_TAG: name, UID_TAG: uid, HOME_TAG: home.id}
    with store_errors(home):
        connect(home).create_experiment(name, _location(home, name, uid), {**tags, **own})


def owned_path(home: Home, uri: str) -> Path | None:
    """The path in this home that a URI of artifacts names; None if a server keeps them.

    Raises TrackingError if it is not one of this home's artifacts: a database may say anything.
    """
    path = local_path(uri)
    if path is not None and home.artifacts not in (path := Path(os.path.normpath(path))).parents:
        raise TrackingError(f"{path}: is not among the artifacts of {home.path}; it is left unchanged")
    return path


def delete_experiment(home: Home, name: str) -> None:
    """Delete a study's experiment with its runs, models and files. If it is interrupted, call it again.

    MLflow only marks an experiment as deleted, and then refuses its name to a new one. So it is renamed first, and
    purged where the home has the database. A server keeps the files until its operator runs `mlflow gc`. Raises
    TrackingError if the store cannot be used, names files that are not of this home, or the purge fails.
    """
    client = connect(home)
    doomed = [e for e in home_experiments(home) if e.tags.get(STUDY_TAG) == name]
    folders = []
    for experiment in doomed if home.local_tracking else ():
        folders.append(owned_path(home, experiment.artifact_location))
        for uri in artifact_locations(database_file(home), experiment.experiment_id):
            owned_path(home, uri)
    with store_errors(home):
        for experiment in doomed:
            if experiment.lifecycle_stage == "active":
                client.set_experiment_tag(experiment.experiment_id, DELETED_TAG, "true")
                client.rename_experiment(experiment.experiment_id, f"deleted-{experiment.experiment_id}-{name}")
                client.delete_experiment(experiment.experiment_id)
    # The files first: once the experiment is purged, nothing says where they are.
    for folder in folders:
        if folder is not None:
            home.remove(folder)
    for experiment in doomed if home.local_tracking else ():
        store = ["--backend-store-uri", home.tracking_uri, "--tracking-uri", home.tracking_uri]
        purge = [sys.executable, "-m", "mlflow", "gc", *store, "--experiment-ids", experiment.experiment_id]
        done = subprocess.run(purge, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise TrackingError(f"MLflow could not purge the experiment of {name}: {message}")


def settle_move(home: Home) -> Path | None:
    """If a home was moved, bring the paths that MLflow stores to where it is now. Returns where it was.

    Raises TrackingError if its artifacts were left behind.
    """
    old = home.moved_from
    if old is not None:
        if not home.artifacts.is_dir() and (old / "artifacts").is_dir():
            raise TrackingError(f"the artifacts of {home.path} were left behind in {old / 'artifacts'}; move them too")
        _relocate(home, old)
        home.identify()
    return old


def adopt(home: Home) -> None:
    """Give a copied home an id of its own, and its experiments the new id and paths. Interrupted, it is repeated.

    Optuna's studies are adopted by `search.studies.adopt`. Raises TrackingError if the store cannot be used.
    """
    if home.original is not None:
        _relocate(home, home.original)
        home.identify(new=True)
    client = connect(home)
    with store_errors(home):
        query = f"tags.`{HOME_TAG}` = '{home.replaces}'"
        for experiment in list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query))):
            client.set_experiment_tag(experiment.experiment_id, HOME_TAG, home.id)


def _relocate(home: Home, old: Path) -> None:
    if home.local_tracking and home.has_tracking():
        relocate(database_file(home), (old / "artifacts").as_uri(), home.artifacts.as_uri())


def database_file(home: Home) -> Path:
    """The file of a home's local store."""
    return Path(home.tracking_uri.removeprefix("sqlite:///"))
