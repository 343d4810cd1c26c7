"""Files: written completely or not at all, found below a folder, read by their header. Imports only `errors`."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import InputError, StudyError

if TYPE_CHECKING:
    import numpy as np


def walk(
    folder: Path, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk` sorted by name. Links to folders are followed; no folder is visited twice.

    ``unreadable`` is called with the error of a folder that cannot be read; without it such a folder is left out.
    """
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield here, folders, names


def png(image: np.ndarray, **how: int) -> bytes:
    """Grey or RGB pixels, uint8, as a PNG file; ``how`` is Pillow's: ``compress_level``, or ``optimize``."""
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG", **how)
    return content.getvalue()


def check_output(path: Path, formats: Collection[str]) -> None:
    """InputError if a file of ``-o`` is in another format or cannot be written; called before it is computed."""
    if path.suffix.lower() not in formats:
        raise InputError(f"-o {path}: unknown format {path.suffix or '(no suffix)'!r}; allowed: {', '.join(formats)}")
    if not path.parent.is_dir() or (path.exists() and not path.is_file()) or not os.access(path.parent, os.W_OK):
        raise InputError(f"-o {path}: cannot be written there; name a file in a folder that exists")


def write_output(path: Path, data: bytes) -> None:
    """Write a file of ``-o``; an older one is replaced whole. Raises InputError if it cannot be written."""
    try:
        write_atomically(path, data)
    except OSError as error:
        raise InputError(f"-o {path}: cannot be written: {error.strerror}") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write a temporary file, flush it to disk and rename it: after a crash the old file or the new one is there."""
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


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their paths below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def create_whole(path: Path, make: Callable[[Path], object]) -> None:
    """Create a file whole or not at all, and once; ``make`` writes it elsewhere. One that exists is left as it is."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as folder:
        made = Path(folder) / path.name
        make(made)
        try:
            os.link(made, path)
        except FileExistsError:
            return  # another process was quicker; a rename would replace its file
        except OSError:  # a file system without hard links
            made.rename(path)


def check_database(path: Path) -> None:
    """Refuse a sqlite file that is empty, cut off or something else: a library would fill an empty one with tables.

    A file that does not exist passes. Raises StudyError, which names the file.
    """
    if not path.is_file():
        return
    problem = "is empty" if path.stat().st_size == 0 else ""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            problem = f"is damaged ({error})"
    if problem:
        raise StudyError(
            f"{path}: {problem}; put the file back from a backup, or remove it, and `study doctor` says what is lost"
        )


def safetensors_metadata(content: bytes) -> dict[str, str]:
    """The metadata in a safetensors file's header: a 64-bit length, then JSON."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]
