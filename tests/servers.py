"""Real servers: PostgreSQL, and `mlflow server` as its manual starts it. Both listen on 127.0.0.1 only.

`study_fixtures` makes fixtures of them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from studies_for_tests import Place, wait_for

from pipeline.home import Home, open_home

USER = "study"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's programs, of its newest version; None where there are none."""
    found = Path("/usr/lib/postgresql").glob("*/bin")
    return max(found, key=lambda folder: int(folder.parent.name), default=None)


class Postgres:
    """A PostgreSQL server with a data folder of its own. Root runs it as another user, as PostgreSQL demands."""

    def __init__(self, programs: Path) -> None:
        self._programs, self.port, self.password = programs, free_port(), secrets.token_hex(8)
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # below /tmp: that user must be able to enter it
        self._user = plain_user() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0
        password = self._folder / "password"
        password.write_text(self.password)
        if self._user is not None:
            for path in (self._folder, password):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        init = ["initdb", f"--pgdata={self._folder / 'data'}", f"--username={USER}", f"--pwfile={password}"]
        self._run(*init, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")

    def start(self) -> None:
        command = [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port), "-h", "127.0.0.1"]
        settings = {"unix_socket_directories": "", "fsync": "off", "full_page_writes": "off", "max_connections": "50"}
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, **self._identity())
        wait_for(self.answers, "answer from PostgreSQL")

    def answers(self) -> bool:
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def stop(self) -> None:
        """End every connection and stop, as `systemctl stop` does."""
        self._end(signal.SIGINT)

    def crash(self) -> None:
        """Stop as in a crash: what was committed is recovered at the next start."""
        self._end(signal.SIGQUIT)

    def database(self) -> str:
        """Make an empty database; its SQLAlchemy URL."""
        self._count += 1
        name = f"test_{self._count}"
        environment = os.environ | {"PGPASSWORD": self.password}
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", USER, name, env=environment)
        return f"postgresql+psycopg://{USER}:{self.password}@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        if self._process is not None:
            self.crash()
        shutil.rmtree(self._folder)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(60)
        self._process = None

    def _run(self, program: str, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [self._programs / program, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=env, **self._identity()
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    def _identity(self) -> dict[str, Any]:
        """The arguments of `subprocess.Popen` for the user and the folder that the server runs as and in."""
        if self._user is None:
            return {"cwd": self._folder}
        return {"cwd": self._folder, "user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def plain_user() -> pwd.struct_passwd:
    """The user that a server runs as where the tests run as root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


@contextlib.contextmanager
def running_postgres(programs: Path) -> Iterator[Postgres]:
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.remove()


# --- MLflow -------------------------------------------------------------------------------------------------------


class MlflowServer:
    """`mlflow server` that serves artifacts: their locations read `mlflow-artifacts:/1/…`.

    Args:
        folder: of the artifacts and, without ``backend``, of its database.
        backend: the SQLAlchemy URL of its database.
    """

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.backend = backend or f"sqlite:///{folder / 'mlflow.db'}"
        self.artifacts = folder / "artifacts"
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.backend]
        command += ["--artifacts-destination", str(self.artifacts)]
        settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | settings
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, env=environment, cwd=self.folder, stdout=quiet, stderr=quiet, start_new_session=True
        )
        wait_for(self.answers, "answer from the MLflow server")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """Kill all processes of the server."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@dataclass
class Served(Place):
    """A place whose MLflow store, or Optuna's storage, is named by options: a server, or a file that others use too."""

    uri: str | None = None
    files: Path | None = None  # the server's folder of artifacts
    storage: str | None = None

    @property
    def home(self) -> Home:
        _artifact_repos_cache.clear()
        return open_home(self.path, tracking_uri=self.uri, storage=self.storage)

    @property
    def artifacts(self) -> Path:
        return self.files or super().artifacts

    @property
    def options(self) -> list[str]:
        named = {"--tracking-uri": self.uri, "--storage": self.storage}
        return [*super().options, *[word for key, value in named.items() if value for word in (key, value)]]
