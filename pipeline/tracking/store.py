"""The MLflow store: connections, errors, experiments."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    Experiment,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.store.entities.paged_list import PagedList
from mlflow.utils.file_utils import local_file_uri_to_path
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import NotFoundError, TrackingError
from pipeline.home import Home

STUDY_TAG = "study.name"  # of an experiment and of each of its runs
DELETED = "deleted-"  # and its number, before the name of an experiment that is being deleted
DISK_ERRNOS = (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT)
SQLITE_DISK_ERROR = re.compile(r"database or disk is full|disk I/O error|attempt to write a readonly database")
SERVER_ERROR = re.compile(r"failed with error code 5\d\d|50[234] Server Error")


def every_page(search: Callable[..., PagedList[Any]]) -> Iterator[Any]:
    """All that one of MLflow's searches finds, which by itself gives the first page only."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def experiment_names(home: Home) -> set[str]:
    """The experiments that studies made in a home's store, those among them whose deletion was cut short.

    A store may hold others, MLflow's own ``Default`` at least; they are nobody's to delete here.
    """
    if not home.has_tracking():
        return set()
    client = connect(home)
    with store_errors(home):
        active = list(every_page(partial(client.search_experiments, filter_string=f"tags.`{STUDY_TAG}` LIKE '%'")))
        half_deleted = _half_deleted(home, client)
    return {experiment.tags[STUDY_TAG] for experiment in active} | {e.name.split("-", 2)[2] for e in half_deleted}


def delete_experiment(home: Home, name: str) -> None:
    """Delete an experiment with its runs, models and files.

    MLflow only marks it as deleted, and keeps its name from being used again: so it is renamed first, and what the
    home keeps itself is then purged. A server's files stay until its keeper runs `mlflow gc`. Cut short anywhere, it
    is done by doing it again.

    Raises:
        TrackingError: the store cannot be used, or the purge failed; the same command tries again.
    """
    client = connect(home)
    with store_errors(home):
        experiment = client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "active":
            client.rename_experiment(experiment.experiment_id, f"{DELETED}{experiment.experiment_id}-{name}")
        doomed = [e for e in _half_deleted(home, client) if e.name == f"{DELETED}{e.experiment_id}-{name}"]
        for experiment in doomed:
            if experiment.lifecycle_stage == "active":
                client.delete_experiment(experiment.experiment_id)
    for experiment in doomed if home.local_tracking else ():
        # The files first: once the database has forgotten the experiment nothing says where they are.
        shutil.rmtree(local_file_uri_to_path(experiment.artifact_location), ignore_errors=True)
        store = ["--backend-store-uri", home.tracking_uri, "--tracking-uri", home.tracking_uri]
        purge = [sys.executable, "-m", "mlflow", "gc", *store, "--experiment-ids", experiment.experiment_id]
        done = subprocess.run(purge, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise TrackingError(f"MLflow could not purge the experiment of {name}: {said}")


def _half_deleted(home: Home, client: MlflowClient) -> list[Experiment]:
    """Experiments that `delete_experiment` renamed and has not done with; a server's are done with once deleted."""
    view = ViewType.ALL if home.local_tracking else ViewType.ACTIVE_ONLY
    found = every_page(partial(client.search_experiments, view))
    return [experiment for experiment in found if experiment.name.startswith(f"{DELETED}{experiment.experiment_id}-")]


def connect(home: Home, create: bool = False) -> MlflowClient:
    """A client of the home's store; a database that is not there is made only by who is to write to it (``create``).

    Also names the store to mlflow's global state: creating a model version goes there whatever the client was told, and
    would otherwise leave a stray database in the working directory.

    Raises:
        NotFoundError: there is no database, and it was not to be made.
        TrackingError: the store cannot be used.
    """
    if not create and not home.has_tracking():
        raise NotFoundError(f"there is no MLflow database at {home.tracking_uri}; `study run` makes it")
    environment = {key: os.environ.get(key) for key in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    for key, value in environment.items():  # mlflow sets them too, and they would name the next home's store
        os.environ.pop(key, None)
        if value is not None:
            os.environ[key] = value
    with quiet(), store_errors(home):
        if create and home.local_tracking:
            _create_database(Path(home.tracking_uri.removeprefix("sqlite:///")))
        client = MlflowClient(home.tracking_uri, home.tracking_uri)
        client.search_experiments(max_results=1)
        return client


def _create_database(path: Path) -> None:
    """A new database, there whole or not at all: mlflow can't go on with one whose making was cut short."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        MlflowClient(f"sqlite:///{made}", f"sqlite:///{made}").search_experiments(max_results=1)  # and migrates it
        try:
            os.link(made, path)
        except FileExistsError:
            return  # another study's driver was quicker; a rename would take its database away
        except OSError:  # a file system without hard links
            made.rename(path)


def is_away(error: Exception) -> bool:
    """Whether MLflow's error means that the store is down, overloaded or locked, and not that a request was wrong."""
    if disk_trouble(error):
        return False
    if isinstance(error, MlflowException) and error.error_code == "TEMPORARILY_UNAVAILABLE":
        return True
    if SERVER_ERROR.search(str(error)):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):  # requests' errors are among them
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def disk_trouble(error: BaseException | None) -> str | None:
    """What the disk refused, if that is the cause: waiting does not mend it."""
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno in DISK_ERRNOS:
        return f"{error.filename or 'the disk'}: {error.strerror}"
    said = SQLITE_DISK_ERROR.search(str(error))
    return said[0] if said else disk_trouble(error.__cause__ or error.__context__)


@contextmanager
def disk_errors() -> Iterator[None]:
    """A disk that is full or forbidden, in words that the user can act on."""
    try:
        yield
    except (MlflowException, OSError) as error:
        trouble = disk_trouble(error)
        if trouble is None:
            raise
        raise TrackingError(f"MLflow: {trouble}; when that is mended the same command goes on") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' own remarks on how they save, which tell the user nothing to act on."""
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


@contextmanager
def store_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        raise TrackingError(f"MLflow at {home.tracking_uri} cannot be used: {str(error).splitlines()[0]}") from None
