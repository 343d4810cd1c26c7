"""The MLflow store: connections, errors, how requests are sent.

Comes in: a home. Goes out: a client, and this project's errors in place of MLflow's. May not import torch.
"""

import errno
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import RESUME, NotFoundError, TrackingError, first_line
from pipeline.files import check_database, create_whole
from pipeline.home import Home, shown
from pipeline.patience import Patience
from pipeline.tracking._mlflow import CLIENT_ERROR, DELETED_RUN, SERVER_ERROR

DISK_ERRNOS = (errno.ENOSPC, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EDQUOT)
SQLITE_TROUBLE = re.compile(
    r"database or disk is full|disk I/O error|attempt to write a readonly database|no such (table|column)[^\n]*"
)


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
    """What the disk refused or the database lacks, if that is the cause: waiting does not help."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in DISK_ERRNOS:
            return f"{cause.filename or 'the disk'}: {cause.strerror}"
        if match := SQLITE_TROUBLE.search(str(cause)):
            return match[0]
    return None


@contextmanager
def disk_errors() -> Iterator[None]:
    """Report a full disk or a damaged database as an error that the user can act on; also a decorator."""
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
        reason = shown(first_line(error))
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
# What a thread calls before each request to a study's experiment; it raises where this process may not write any more.
GUARD: ContextVar[Callable[[], None]] = ContextVar("GUARD", default=lambda: None)
Method = TypeVar("Method", bound=Callable[..., Any])


@dataclass(frozen=True)
class OpenExperiment:
    """A study's experiment, opened, and how requests are sent to it."""

    home: Home
    client: MlflowClient
    experiment_id: str
    location: str  # the URI of its artifacts, as the store has it
    patience: Patience

    def send(self, request: Callable[[], T]) -> T:
        """Send a request until the store answers. Raises StudyError once it has been unreachable for too long."""

        def attempt() -> T:
            GUARD.get()()
            return self.restoring(request)

        return self.patience.call(attempt)

    def restoring(self, request: Callable[[], T]) -> T:
        """Send a request; a run that it writes to and that was deleted meanwhile is restored first."""
        try:
            return request()
        except MlflowException as error:
            if not (deleted := DELETED_RUN.search(str(error))):
                raise
        self.patience.say(f"run {deleted[1]} was deleted in MLflow while its study runs; it is restored")
        self.client.restore_run(deleted[1])
        return request()

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Write all of a run's tags in one request."""
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def waits(method: Method) -> Method:
    """A decorator for methods of an object with an `OpenExperiment`: the call is a request, and waits for the store."""

    @wraps(method)
    @disk_errors()
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.experiment.send(partial(method, self, *args, **kwargs))

    return cast(Method, call)


def database_file(home: Home) -> Path:
    """The file of a home's local store."""
    return Path(home.tracking_uri.removeprefix("sqlite:///"))
