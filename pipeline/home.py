"""The home: the folder (or the servers) where studies are kept, its identity, and what lies inside it.

Comes in: options of the commands. Goes out: absolute paths and URIs. A home has an id, in its file ``home.json`` beside
its path: so a copy is told from a move. Imports only `errors` and `files`.
"""

import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import platformdirs
from filelock import FileLock

from pipeline.errors import InputError, StudyError
from pipeline.files import write_atomically

DEFAULT_HOME = Path("mlruns")
IDENTITY = "home.json"
FORMAT = 1  # of the folder; a home of another format is refused
UID = re.compile(r"[0-9a-f]{32}|train-[0-9a-f]{16}")  # of a study, and of a single training
TRACKING, STORAGE = "MLFLOW_TRACKING_URI", "OPTUNA_STORAGE"  # environment variables
DATA_DIR = "STUDY_DATA_DIR"  # environment variable
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
    data_dir_given: bool = False  # by an option or the environment

    def with_data(self, dataset: str) -> "Home":
        """This home with the data folder in which a data set was found before, unless one is given or it is gone."""
        found = _identity(self.path).get("data", {}).get(dataset)
        known = found is not None and not self.data_dir_given and Path(found).is_dir()
        return replace(self, data_dir=Path(found)) if known else self

    def remember_data(self, dataset: str) -> None:
        """Record that a data set was found in the data folder that was given, for `with_data`."""
        if self.data_dir_given and self.id and self.original is None:
            with FileLock(self.path / "locks" / "home.lock"):
                known = _identity(self.path)
                data = known.get("data", {})
                if data.get(dataset) != str(self.data_dir):
                    known["data"] = data | {dataset: str(self.data_dir)}
                    write_atomically(self.path / IDENTITY, json.dumps(known).encode())

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

    def checkpoints(self, study_uid: str) -> Path:
        """The folder of a study's checkpoints. Raises StudyError for a uid of another form."""
        if not UID.fullmatch(study_uid):
            raise StudyError(f"{study_uid[:80]!r} is not the uid of a study or a training of this program")
        return self.path / "checkpoints" / study_uid

    def locks(self, url: str, kind: str) -> Path:
        """The folder of the locks on a store: beside a sqlite file, since other homes may use it, else in this home."""
        file = sqlite_file(url)
        return (file.parent if file else self.path) / "locks" / kind

    @property
    def id(self) -> str:
        """The home's id; empty before `prepare`, and where the folder is of another format."""
        return str(_identity(self.path).get("id", ""))

    def owner(self) -> dict[str, str]:
        """What a study stores of the home that it belongs to."""
        return {"id": self.id, "path": str(self.path)}

    @property
    def original(self) -> Path | None:
        """Where the home is that this one is a copy of; None if it is no copy."""
        before = self._recorded_path
        return before if before is not None and _identity(before).get("id") == self.id else None

    @property
    def moved_from(self) -> Path | None:
        """Where the home was before it was moved; None if it was not."""
        before = self._recorded_path
        return before if before is not None and self.original is None else None

    @property
    def _recorded_path(self) -> Path | None:
        """The path in ``home.json``, if it is not this folder."""
        recorded = _identity(self.path).get("path")
        return None if recorded is None or Path(recorded).resolve() == self.path else Path(recorded)

    def contains(self, path: Path) -> bool:
        """Whether an absolute path lies inside this home; a link in the home is the user's own choice."""
        return self.path in Path(os.path.normpath(path)).parents

    def remove(self, path: Path) -> None:
        """Remove a file or a folder of this home, if it exists. Raises StudyError for a path outside it."""
        if not self.contains(path):
            raise StudyError(f"{path}: lies outside the home {self.path}; it is left unchanged")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def exists(self) -> bool:
        """Whether Optuna's database may exist: a server, or a file that exists."""
        return _may_exist(self.storage_url)

    def has_tracking(self) -> bool:
        """As `exists`, of MLflow's store."""
        return _may_exist(self.tracking_uri)

    def prepare(self) -> None:
        """Create the folder with its identity and a .gitignore for its contents, if it is not there.

        Raises InputError if it is a file, cannot be written, or `check_writable` refuses it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            ignore = self.path / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n!.gitignore\n")
            if not os.access(self.path, os.W_OK):
                raise PermissionError(13, "not writable")
            with FileLock(self.path / "locks" / "home.lock"):  # several first runs at a time make one identity
                if not any((self.path / file).exists() for file in (IDENTITY, "optuna.db", "mlflow.db")):
                    self.identify()
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"--home {self.path}: not a folder; give another one") from None
        except OSError as error:
            raise InputError(f"--home {self.path}: cannot be used: {error.strerror}; give another one") from None
        self.check_writable()

    def check_writable(self) -> None:
        """InputError if this home may only be read: it is a copy, or of another format."""
        adopt = f"`study doctor --adopt --home {self.path}`"
        if self.original is not None:
            raise InputError(
                f"--home {self.path}: is a copy of {self.original}, and can only be read; {adopt} makes it a home of "
                "its own"
            )
        if self.replaces:
            raise InputError(f"--home {self.path}: its adoption was interrupted; run {adopt} again")
        if self.path.is_dir() and not self.id:
            raise InputError(f"--home {self.path}: {IDENTITY} is missing or of another format; give another home")

    @property
    def replaces(self) -> str | None:
        """The id that the home had as a copy, until its adoption is complete."""
        return _identity(self.path).get("replaces")

    def identify(self, new: bool = False, adopted: bool = False) -> None:
        """Record where the home is; ``new`` gives a copy another id, ``adopted`` completes that."""
        known = _identity(self.path)
        identity = {"id": uuid.uuid4().hex} | known | {"path": str(self.path), "format": FORMAT}
        if new and known:
            identity |= {"id": uuid.uuid4().hex, "replaces": known["id"]}
        if adopted:
            identity.pop("replaces", None)
        write_atomically(self.path / IDENTITY, json.dumps(identity).encode())


def _identity(folder: Path) -> dict[str, Any]:
    """What a home's ``home.json`` says; empty if there is none of this format."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found: dict[str, Any] = json.loads((folder / IDENTITY).read_text())
        if found["format"] == FORMAT and re.fullmatch("[0-9a-f]{32}", found["id"]) and Path(found["path"]):
            return found
    return {}


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
    try:
        home = (path or DEFAULT_HOME).expanduser().resolve()
        data = (data_dir or default_data_dir()).expanduser().absolute()
    except RuntimeError as error:  # ~name of an unknown user
        raise InputError(
            f"--home {path or DEFAULT_HOME}, --data-dir {data_dir or default_data_dir()}: {error}"
        ) from None
    if not str(home).isprintable():
        raise InputError(f"--home {home}: the path may have printable characters only, in UTF-8")
    if set("?#%{}") & set(str(home)):
        raise InputError(f"--home {home}: the path may not contain any of ? # % {{ }}, which have a meaning in URIs")
    tracking_uri = tracking_uri or os.environ.get(TRACKING) or f"sqlite:///{home / 'mlflow.db'}"
    storage = storage or os.environ.get(STORAGE) or f"sqlite:///{home / 'optuna.db'}"
    _check_url("--tracking-uri", tracking_uri, home, "http://", "https://")
    _check_url("--storage", storage, home, "postgresql+psycopg://")
    return Home(home, data, tracking_uri, storage, bool(data_dir or os.environ.get(DATA_DIR)))


def _check_url(option: str, url: str, home: Path, *servers: str) -> None:
    """Refuse the address of a store that is neither on such a server nor a sqlite file in a folder that exists."""
    if (file := sqlite_file(url)) is not None and file.is_absolute():
        if file.parent != home and not file.parent.is_dir():
            raise InputError(f"{option} {url}: there is no folder {file.parent}")
        return
    with suppress(ValueError):  # of urlsplit and of a port that is no number
        parts = urlsplit(url)
        if url.startswith(servers) and (parts.hostname or parts.query) and parts.port != 0:
            return
    allowed = " and ".join(f"{server}…" for server in (*servers, "sqlite:////absolute/path"))
    raise InputError(f"{option} {shown(url)}: allowed are {allowed}")


def default_data_dir() -> Path:
    """``$STUDY_DATA_DIR``, else the user's cache folder."""
    chosen = os.environ.get(DATA_DIR)
    return Path(chosen) if chosen else platformdirs.user_cache_path("restoration-study") / "data"


def shown(text: str) -> str:
    """A URL, or a text with URLs, without its passwords."""
    return PASSWORD.sub(lambda found: f"{found[1] or found[3]}***", text)


def passwords(*urls: str) -> list[str]:
    """The passwords in URLs, as they are written there and decoded."""
    found = [match[2] or match[4] for url in urls for match in PASSWORD.finditer(url)]
    return [*found, *map(unquote, found)]


def _may_exist(url: str) -> bool:
    file = sqlite_file(url)
    return file is None or file.is_file()


def sqlite_file(url: str) -> Path | None:
    """The file that a database's URL names; None if it names a server."""
    return Path(url.removeprefix("sqlite:///").partition("?")[0]) if url.startswith("sqlite:///") else None
