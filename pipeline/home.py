"""The home: the folder (or the servers) where studies are kept, and the lock that admits one driver per study.

Comes in: options of the commands. Goes out: absolute paths and URIs. Imports only `errors`.
"""

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs
from filelock import FileLock, Timeout

from pipeline.errors import InputError

DEFAULT_HOME = Path("mlruns")
TRACKING, STORAGE = "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"  # environment variables
# A password in a URL: after the user's name, or as a parameter. Digits before a slash are a port.
PASSWORD = re.compile(
    r"(?<=://)([^:/?#@\s]*:)(?!\d+[/?#])(\S*)(?=@)|([?&]\w*(?:password|secret|token)=)([^&\s]+)", re.IGNORECASE
)


@dataclass(frozen=True)
class Home:
    """The places where studies are kept. Nothing is created before `prepare`."""

    path: Path
    data_dir: Path
    tracking_uri: str
    storage_url: str

    @property
    def local_tracking(self) -> bool:
        """Whether MLflow's store is a database file and not a server."""
        return self.tracking_uri.startswith("sqlite:")

    @property
    def tracking_shown(self) -> str:
        """MLflow's store as it may be printed."""
        return shown(self.tracking_uri)

    @property
    def storage_shown(self) -> str:
        """Optuna's database as it may be printed."""
        return shown(self.storage_url)

    @property
    def artifacts(self) -> Path:
        return self.path / "artifacts"

    @property
    def judges(self) -> Path:
        """The folder of the reference classifiers, one per data set."""
        return self.path / "judges"

    def checkpoints(self, study_uid: str, number: int) -> Path:
        """The folder of one trial's checkpoints."""
        return self.path / "checkpoints" / study_uid / f"{number:04d}"

    def exists(self) -> bool:
        """Whether Optuna's database may exist: a server, or a file that exists."""
        return _may_exist(self.storage_url)

    def has_tracking(self) -> bool:
        """As `exists`, of MLflow's store."""
        return _may_exist(self.tracking_uri)

    def prepare(self) -> None:
        """Create the folder, with a .gitignore for its contents; InputError if it is a file or cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            ignore = self.path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n!.gitignore\n")
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"--home {self.path}: not a folder; give another one") from None
        except OSError as error:
            raise InputError(f"--home {self.path}: cannot be used: {error.strerror}; give another one") from None

    @contextmanager
    def driver_lock(self, study_name: str) -> Iterator[None]:
        """Hold a study for this process alone; InputError if another one does. The lock ends with the process."""
        folder = self.path / "locks"  # the lock creates it
        lock = FileLock(folder / f"{study_name}.lock")
        holder = folder / f"{study_name}.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            by = "another process"
            with suppress(OSError, ValueError, KeyError):
                stored = json.loads(holder.read_text())
                by = f"process {stored['pid']} on {stored['host']}"
            raise InputError(f"study {study_name!r} is being run by {by}; wait for it, or stop it first") from None
        try:
            holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def open_home(
    path: Path | None = None, data_dir: Path | None = None, tracking_uri: str | None = None, storage: str | None = None
) -> Home:
    """The home that the options and the environment name; nothing is created.

    Args:
        path: default ``mlruns`` in the working directory.
        data_dir: default `default_data_dir`.
        tracking_uri: an MLflow server; default ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the home.
        storage: an SQLAlchemy URL for Optuna, of PostgreSQL or sqlite; default ``$OPTUNA_STORAGE``, else
            ``optuna.db`` in the home.

    Raises:
        InputError: the path cannot be part of a database's URI, or a store's address is not one of those allowed.
    """
    home = (path or DEFAULT_HOME).expanduser().absolute()
    if not str(home).isprintable():
        raise InputError(f"--home {home}: the path may have printable characters only, in UTF-8")
    if set("?#%{}") & set(str(home)):
        raise InputError(f"--home {home}: the path may not contain any of ? # % {{ }}, which have a meaning in URIs")
    tracking_uri = tracking_uri or os.environ.get(TRACKING) or f"sqlite:///{home / 'mlflow.db'}"
    storage = storage or os.environ.get(STORAGE) or f"sqlite:///{home / 'optuna.db'}"
    _check_url("--tracking-uri", tracking_uri, home, "http://", "https://")
    _check_url("--storage", storage, home, "postgresql+psycopg://")
    data = (data_dir or default_data_dir()).expanduser().absolute()
    return Home(home, data, tracking_uri, storage)


def _check_url(option: str, url: str, home: Path, *servers: str) -> None:
    """Refuse the address of a store that is neither on such a server nor a sqlite file in a folder that exists."""
    if url.startswith("sqlite:////"):
        folder = sqlite_path(url).parent
        if folder != home and not folder.is_dir():
            raise InputError(f"{option} {url}: there is no folder {folder}")
        return
    with suppress(ValueError):  # of urlsplit and of a port that is no number
        parts = urlsplit(url)
        if url.startswith(servers) and (parts.hostname or parts.query) and parts.port != 0:
            return
    allowed = " and ".join(f"{server}…" for server in (*servers, "sqlite:////absolute/path"))
    raise InputError(f"{option} {shown(url)}: allowed are {allowed}")


def sqlite_path(url: str) -> Path:
    """The file that a sqlite URL names."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0])


def default_data_dir() -> Path:
    """``$STUDY_DATA_DIR``, else the user's cache folder."""
    chosen = os.environ.get("STUDY_DATA_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("restoration-study") / "data"


def shown(text: str) -> str:
    """A URL, or a text with URLs, without its passwords."""
    return PASSWORD.sub(lambda found: f"{found[1] or found[3]}***", text)


def passwords(*urls: str) -> list[str]:
    """The passwords in URLs, as they are written there and decoded."""
    found = [match[2] or match[4] for url in urls for match in PASSWORD.finditer(url)]
    return [*found, *map(unquote, found)]


def _may_exist(url: str) -> bool:
    return not url.startswith("sqlite:") or sqlite_path(url).is_file()
