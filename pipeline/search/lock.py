"""The lock that admits one driver per study. It belongs to Optuna's storage, so it holds across homes and machines.

Comes in: a home and a study's name. Goes out: a lock that ends with the process: a file beside a sqlite database, an
advisory lock in PostgreSQL.
"""

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from pipeline.errors import RESUME, InputError, StudyError, first_line
from pipeline.home import Home, shown
from pipeline.search.database import KEEPALIVE


class StudyLock(Protocol):
    def ensure(self) -> bool:
        """Take the lock again if it was lost with its connection, and say so; called before every write to the storage.

        Raises:
            StudyError: another process has it by now.
            SQLAlchemyError: the database cannot be reached.
        """


@contextmanager
def study_lock(home: Home, name: str) -> Iterator[StudyLock]:
    """Hold a study for this process alone.

    Raises:
        InputError: another process holds it; the message says which.
        StudyError: the database cannot be reached.
    """
    lock = _lock(home, name)
    with _database_errors(home):
        holder = lock.acquire()
    if holder is not None:
        raise InputError(f"study {name!r} is being run by {holder}; wait for it, or stop it first")
    try:
        yield lock
    finally:
        lock.release()


def study_holder(home: Home, name: str) -> str | None:
    """Which process holds a study, if one does; read without taking the lock. Raises StudyError as `study_lock`."""
    with _database_errors(home):
        return _lock(home, name).holder()


def _lock(home: Home, name: str) -> "_FileLock | _AdvisoryLock":
    return _FileLock(home, name) if home.storage_url.startswith("sqlite:") else _AdvisoryLock(home, name)


@contextmanager
def _database_errors(home: Home) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        reason = shown(first_line(getattr(error, "orig", error)))
        raise StudyError(f"--storage {home.storage_shown}: the database cannot be used: {reason}") from None


class _FileLock:
    """A locked file beside the database, and a file that says who holds it."""

    def __init__(self, home: Home, name: str) -> None:
        folder = home.locks(home.storage_url, "studies")
        self._lock, self._holder = FileLock(folder / f"{name}.lock"), folder / f"{name}.json"

    def acquire(self) -> str | None:
        """Who holds the lock; None if it was free and is held now."""
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            with suppress(OSError, ValueError, KeyError, TypeError):
                return str(json.loads(self._holder.read_text())["holder"])
            return "another process"
        known = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
        self._holder.write_text(json.dumps({"holder": _this_process(), **known}))
        return None

    def holder(self) -> str | None:
        """Who holds the lock; of a process of this machine that was killed the file is left, and says nothing."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(self._holder.read_text())
            if known["host"] != socket.gethostname() or _started(known["pid"]) == known["started"]:
                return str(known["holder"])
        return None

    def ensure(self) -> bool:
        """A file lock ends with the process only."""
        return False

    def release(self) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()


class _AdvisoryLock:
    """A session's lock in PostgreSQL; the session's name says who holds it."""

    def __init__(self, home: Home, name: str) -> None:
        self._name = name
        self._key = int.from_bytes(hashlib.sha256(f"study {name}".encode()).digest()[:8], signed=True)
        self._session = f"{_this_process()} {uuid.uuid4().hex[:8]}"  # PostgreSQL keeps 63 characters
        self._engine = sqlalchemy.create_engine(
            home.storage_url,
            poolclass=sqlalchemy.NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=KEEPALIVE | {"application_name": self._session},
        )
        self._connection: sqlalchemy.Connection | None = None

    def acquire(self) -> str | None:
        """As of `_FileLock`."""
        connection = self._engine.connect()
        if self._ask(connection, "SELECT pg_try_advisory_lock(:key)"):
            self._connection = connection
            return None
        holder = self._holder(connection)
        if holder == self._session:  # the server has not noticed yet that an earlier connection of ours was cut
            self._ask(
                connection,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()",
            )
        connection.close()
        return str(holder or "another process").rsplit(" ", 1)[0]

    def holder(self) -> str | None:
        """As of `_FileLock`."""
        with self._engine.connect() as connection:
            found = self._holder(connection)
        return str(found).rsplit(" ", 1)[0] if found else None

    def _holder(self, connection: sqlalchemy.Connection) -> object:
        """The name of the session that has the lock."""
        return self._ask(
            connection,
            "SELECT application_name FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' "
            "AND granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND classid = (((:key)::bigint >> 32) & 4294967295)::oid AND objid = ((:key)::bigint & 4294967295)::oid",
        )

    def ensure(self) -> bool:
        if self._connection is not None:
            try:
                self._ask(self._connection, "SELECT 1")
                return False
            except SQLAlchemyError:
                self._connection.close()
                self._connection = None
        holder = self.acquire()
        if holder == _this_process():  # our own earlier session is ending
            raise OperationalError("SELECT", None, Exception("session is ending"), connection_invalidated=True)
        if holder is not None:
            raise StudyError(
                f"the connection to Optuna's database was lost, and study {self._name!r} is now being run by {holder}; "
                f"when that has ended, {RESUME}"
            )
        return True

    def release(self) -> None:
        if self._connection is not None:
            with suppress(SQLAlchemyError):
                self._connection.close()
        self._engine.dispose()

    def _ask(self, connection: sqlalchemy.Connection, statement: str) -> object:
        return connection.execute(
            sqlalchemy.text(statement), {"key": self._key} if ":key" in statement else {}
        ).scalar()


def _this_process() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"[:54]


def _started(pid: int) -> str:
    """When a process of this machine started, in ticks; empty if it has ended."""
    with suppress(OSError):
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""
