"""The files of published data sets: find them below the data folder, verify them, fetch what is absent.

Several publishers took over MNIST's file names, so a file of the right name need not be of the right data set. A file
is taken where its checksum is right, wherever it lies. One with another checksum is a fault if it lies in the data
set's own folder, where a download would put it; anywhere else it is somebody else's, passed over and never touched.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError

from filelock import FileLock

from pipeline.config.catalogue import CATALOGUE, Entry, File
from pipeline.data.formats import DAMAGED, open_unpacked
from pipeline.errors import DataError
from pipeline.files import walk

SMALL = 1 << 20  # bytes; a file of labels is below this, and hashed even where a quick look is asked for
TIMEOUT = 30.0  # seconds without a byte from a server


@dataclass(frozen=True)
class Fault:
    """Why a file is not the published one."""

    text: str
    foreign: bool = False  # known to be another data set's


@dataclass(frozen=True)
class Status:
    """What is there of a data set. ``present`` is said by names and labels alone, ``verified`` by every checksum."""

    name: str
    state: Literal["present", "verified", "damaged", "absent"]
    paths: tuple[Path, ...] = ()  # in the catalogue's order; empty unless all are there
    remark: str = ""
    missing: tuple[File, ...] = ()

    @property
    def places(self) -> list[str]:
        """The folders that its files lie in, or the folder of pictures that it is."""
        return sorted({str(path if path.is_dir() else path.parent) for path in self.paths})


def status(entry: Entry, data_dir: Path, quick: bool = False) -> Status:
    """Look for a published data set's files.

    Args:
        entry: of the catalogue.
        data_dir: searched to any depth.
        quick: believe the names of files above 1 MiB.
    """
    candidates = _candidates(entry, data_dir)
    sound: list[Path] = []
    missing: list[File] = []
    passed_over: list[str] = []
    for file in entry.files:
        found, faults = _first_sound(file, candidates[file], quick)
        if found is not None:
            sound.append(found)
            continue
        for path, fault in faults.items():
            if path.parent == data_dir / entry.folder:
                remedy = "move it elsewhere" if fault.foreign else "delete it to have it fetched again"
                remark = f"{path}: {fault.text}; {remedy}, or put the published one there"
                return Status(entry.name, "damaged", (), remark)
        missing.append(file)
        passed_over += [f"{path}: {fault.text}" for path, fault in faults.items()]
    if missing:
        names = ", ".join(f"{file.names[0]} (raw or .gz)" if file.sha256 else file.name for file in missing)
        more = f", and {len(passed_over) - 1} more" if len(passed_over) > 1 else ""
        remark = f"{names} not found under {data_dir}" + (
            f"\npassed over {passed_over[0]}{more}" if passed_over else ""
        )
        return Status(entry.name, "absent", (), remark, tuple(missing))
    return Status(entry.name, "present" if quick else "verified", tuple(sound))


def fetch(entry: Entry, data_dir: Path) -> None:
    """Download what is absent of a data set into its own folder, one process at a time, each file whole or not at all.

    Raises:
        DataError: a download failed; the message says what to do by hand.
    """
    folder = data_dir / entry.folder
    passed_over = status(entry, data_dir).remark.partition("\n")[2]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".download.lock"):
            for file in status(entry, data_dir).missing:
                _download(file, folder)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{entry.name}: not under {data_dir}{passed_over and f' ({passed_over})'}, and the download failed "
            f"({reason}).\n"
            f"Put {', '.join(file.name for file in entry.files)} into {folder}, or use dataset = 'mnist-5k', "
            "which needs no download"
        ) from None


def _download(file: File, folder: Path) -> None:
    """From the first server that has it; torchvision's download checks the md5 and draws the bar."""
    from torchvision.datasets.utils import download_url

    part = f".{file.name}.part"
    for place, url in enumerate(file.urls):
        print(f"fetching {url}", file=sys.stderr, flush=True)
        try:
            with _patience(), _bar_in_terminals_only():
                download_url(url, folder, part, file.md5)
        except (OSError, RuntimeError, HTTPException) as error:
            if isinstance(error, HTTPError):
                error.close()  # it holds the connection
            if place + 1 < len(file.urls):
                continue
            raise
        os.replace(folder / part, folder / file.name)
        return


@contextmanager
def _patience() -> Iterator[None]:
    """A server that says nothing is an error after a while; torchvision's download would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _bar_in_terminals_only() -> Iterator[None]:
    if sys.stderr.isatty():
        yield
    else:
        with redirect_stderr(io.StringIO()):
            yield


def _candidates(entry: Entry, data_dir: Path) -> dict[File, list[Path]]:
    """Files of the right names anywhere below the folder: the own folder's first, raw before packed, the shallowest."""
    wanted = {name: file for file in entry.files for name in file.names}
    found: dict[File, list[Path]] = {file: [] for file in entry.files}
    for folder, _, names in walk(data_dir):
        for name in wanted.keys() & set(names):
            found[wanted[name]].append(Path(folder, name))
    own = data_dir / entry.folder
    for file, paths in found.items():
        paths.sort(key=lambda path: (path.parent != own, file.names.index(path.name), len(path.parts), path))
    return found


def _first_sound(file: File, paths: list[Path], quick: bool) -> tuple[Path | None, dict[Path, Fault]]:
    """The first of these paths that is the published file, and what is wrong with those before it."""
    faults: dict[Path, Fault] = {}
    for path in paths:
        fault = None if quick and _size(path) > SMALL else _fault(file, path)
        if fault is None:
            return path, faults
        faults[path] = fault
    return None, faults


def _fault(file: File, path: Path) -> Fault | None:
    """Why a file is not the published one; None if it is."""
    try:
        if (_sha256(path) == file.sha256) if file.sha256 else (_md5(path) == file.md5):
            return None
        owner = _owner({_md5(path), _sha256(path)})
    except DAMAGED as error:
        return Fault(f"damaged or cut short ({error})")
    except OSError as error:
        return Fault(f"cannot be read ({error.strerror or error})")
    if owner:
        return Fault(f"is {owner}", foreign=True)
    return Fault("damaged, cut short or of another data set (its checksum is not the published one)")


def _sha256(path: Path) -> str:
    """Of the unpacked content."""
    with open_unpacked(path) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _md5(path: Path) -> str:
    """Of the file as it is."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _owner(digests: set[str]) -> str:
    """Whose file has one of these checksums, in words; empty if no known one has."""
    for entry in CATALOGUE.values():
        for file in entry.files:
            if digests & {file.sha256, file.md5}:
                return f"{entry.name}'s {file.name}"
    return ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
