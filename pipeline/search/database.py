"""Optuna's database: opened, created once, and its errors as this project's.

Comes in: a home. Goes out: a storage of Optuna's, and whether an error means that waiting helps.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import optuna
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

from pipeline.errors import RESUME, StudyError, first_line
from pipeline.files import check_database, create_whole
from pipeline.home import Home, shown, sqlite_file
from pipeline.patience import Patience
from pipeline.search._optuna import Storage

_SHARED: ContextVar[dict[str, optuna.storages.BaseStorage] | None] = ContextVar("_SHARED", default=None)
ATTEMPTS = 5  # to create the tables
LOCKED_S = 10  # that one request waits for a locked file; a run goes on waiting, and says so
SQLITE_LOCKED = (5, 6)  # SQLITE_BUSY and SQLITE_LOCKED, in the lower eight bits of sqlite's error code
# PostgreSQL: the connection failed (class 08), the server is shut down, crashed or starting, or has no free connection.
UNREACHABLE_STATES = ("08", "57P01", "57P02", "57P03", "53300")
# A server that refuses a connection says why, but psycopg has no code for it.
REFUSED, REFUSED_FOR_NOW = "FATAL:", ("starting up", "shutting down", "recovery mode", "too many", "connection slots")
# A PostgreSQL host that is gone is noticed in half a minute: without these after hours.
KEEPALIVE = {"connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
POSTGRESQL_OPTIONS = {"pool_pre_ping": True, "connect_args": KEEPALIVE}


@contextmanager
def reading_once() -> Iterator[None]:
    """Within, every study of a database has the same storage, so ended trials are read once: only under its lock."""
    token = _SHARED.set({})
    try:
        yield
    finally:
        _SHARED.reset(token)


def open_storage(home: Home) -> optuna.storages.BaseStorage:
    """Connect to the database of a home; a file that does not exist is created. Raises StudyError."""
    shared = _SHARED.get()
    if shared is None:
        return _opened(home)
    if home.storage_url not in shared:
        shared[home.storage_url] = optuna.storages.get_storage(_opened(home))
    return shared[home.storage_url]


def _opened(home: Home) -> Storage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = sqlite_file(home.storage_url)
    options: dict[str, Any] = {"connect_args": {"timeout": LOCKED_S}} if file else POSTGRESQL_OPTIONS
    if file is not None:
        check_database(file)
    try:
        if file is not None:
            create_whole(file, lambda made: Storage(f"sqlite:///{made}"))
        url = home.storage_url.replace("{", "%7B").replace("}", "%7D")  # Optuna passes it through `str.format`
        return _connect(url, options)
    except Exception as error:  # SQLAlchemy's and Optuna's own errors, of drivers that are not installed, and OSError
        reason = shown(first_line(getattr(error, "orig", error)))
        raise StudyError(f"--storage {home.storage_shown}: the database cannot be used: {reason}") from None


def _connect(url: str, options: dict[str, Any]) -> Storage:
    """Connect, and create the tables; tried again where another process creates them at the same moment."""
    for _ in range(ATTEMPTS):
        with suppress(IntegrityError, ProgrammingError):
            return Storage(url, engine_kwargs=options)
        time.sleep(0.2)
    return Storage(url, engine_kwargs=options)


@contextmanager
def database_errors() -> Iterator[None]:
    """Database errors as errors that a user can act on; also a decorator."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = error.__cause__ or error
        reason = shown(first_line(getattr(cause, "orig", cause)))
        raise StudyError(f"Optuna's database: {reason}; when that is repaired, {RESUME}") from error


def patience_with(storage: str) -> Patience:
    """The patience with a database, named as it may be printed."""
    return Patience(f"Optuna's database at {storage}", is_unreachable)


def is_unreachable(error: BaseException) -> bool:
    """Whether an error means that the database is down, starting, overloaded or locked, and not that it is broken."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DBAPIError) and (cause.connection_invalidated or _is_temporary(cause.orig)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _is_temporary(error: BaseException | None) -> bool:
    """Whether a driver's error passes by itself."""
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in SQLITE_LOCKED
    if (state := getattr(error, "sqlstate", None)) is not None:
        return str(state).startswith(UNREACHABLE_STATES)
    text = str(error)
    if type(error).__name__ != "OperationalError":
        return False
    return REFUSED not in text or any(reason in text for reason in REFUSED_FOR_NOW)
