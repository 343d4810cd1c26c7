"""Files that are there whole or not at all; folders walked through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` in the order of names, into linked folders too, but into none twice."""
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield here, folders, names


def check_place(path: Path) -> None:
    """Refuse a place where the user's file cannot be written, before anything is computed for it.

    Raises:
        InputError: it is a folder, or lies in none that can be written to.
    """
    if not path.parent.is_dir() or path.is_dir() or not os.access(path.parent, os.W_OK):
        raise InputError(f"-o {path}: cannot be written there; name a file in a folder that exists")


def write_output(path: Path, data: bytes) -> None:
    """Write the user's file whole; an older one is replaced.

    Raises:
        InputError: as `check_place`, or the disk refuses it.
    """
    check_place(path)
    try:
        write_atomically(path, data)
    except OSError as error:
        raise InputError(f"-o {path}: cannot be written: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside, flush to the disk, rename: after a crash the file is the old one or the new one.

    Raises:
        OSError: as from the writing; the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
