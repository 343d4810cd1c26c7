"""Small data sets in their publishers' formats, and catalogue entries that describe them."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np

from pipeline.config.catalogue import CATALOGUE, Entry

PUBLISHED = [name for name, entry in CATALOGUE.items() if entry.files]
TRAIN, TEST = 130, 30


@dataclass(frozen=True)
class Archives:
    """A publisher's files by name, the entry that describes them, and their images and labels."""

    entry: Entry
    files: dict[str, bytes]
    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def idx(array: np.ndarray) -> bytes:
    """An array of bytes or of 32-bit integers as an IDX file."""
    kind, stored = (8, array) if array.dtype == np.uint8 else (12, array.astype(">i4"))
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + stored.tobytes()


def archives(name: str, seed: int = 0) -> Archives:
    """A small data set of that name: 130 training and 30 test images of all its classes."""
    entry = CATALOGUE[name]
    random = np.random.default_rng([seed, *name.encode()])
    images, test_images = (random.integers(0, 256, (n, *entry.size), dtype=np.uint8) for n in (TRAIN, TEST))
    labels, test_labels = (random.permutation(np.arange(n) % entry.classes) for n in (TRAIN, TEST))
    if entry.format == "usps":
        train, test = _libsvm(images, labels), _libsvm(test_images, test_labels)
        files = {"usps.bz2": bz2.compress(train), "usps.t.bz2": bz2.compress(test)}
    elif entry.format == "emnist":
        first = 1 if entry.part == "letters" else 0
        parts = {"train": (images, labels), "test": (test_images, test_labels)}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for part, (pictures, classes) in parts.items():
                stem = f"gzip/emnist-{entry.part}-{part}"
                stored = gzip.compress(idx(np.ascontiguousarray(pictures.transpose(0, 2, 1))))
                archive.writestr(f"{stem}-images-idx3-ubyte.gz", stored)
                counted = gzip.compress(idx((classes + first).astype(np.uint8)))
                archive.writestr(f"{stem}-labels-idx1-ubyte.gz", counted)
        files = {"gzip.zip": buffer.getvalue()}
    else:
        columns = [labels, test_labels]
        if name == "qmnist":
            columns = [np.stack([c, *random.integers(0, 4000, (7, len(c)))], axis=1).astype(np.int32) for c in columns]
        else:
            columns = [c.astype(np.uint8) for c in columns]
        contents = [idx(images), idx(columns[0]), idx(test_images), idx(columns[1])]
        files = {
            file.name: gzip.compress(content, mtime=0) for file, content in zip(entry.files, contents, strict=True)
        }
    return Archives(described(entry, files), files, images, labels, test_images, test_labels)


def described(entry: Entry, files: dict[str, bytes], server: str = "") -> Entry:
    """The entry with the checksums of these files and a server that offers them."""
    known = tuple(
        replace(
            file,
            md5=hashlib.md5(files[file.name]).hexdigest(),
            sha256=hashlib.sha256(gzip.decompress(files[file.name])).hexdigest() if file.sha256 else None,
            urls=(f"{server}/absent/{file.name}", f"{server}/{file.name}"),
        )
        for file in entry.files
    )
    return replace(entry, files=known)


def put(folder: Path, files: dict[str, bytes], unpacked: bool = False) -> Path:
    """Write files unchanged, or those with the suffix .gz unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if unpacked and name.endswith(".gz"):
            (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def _libsvm(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Each intensity v stands for the value (v + 0.5) / 127.5 - 1, which rounding down brings back to v."""
    lines = []
    for image, label in zip(images, labels, strict=True):
        values = (image.ravel().astype(float) + 0.5).clip(0, 255) / 127.5 - 1
        lines.append(f"{label + 1} " + " ".join(f"{i}:{value:.6f}" for i, value in enumerate(values, 1)))
    return ("\n".join(lines) + "\n").encode()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore broken connections: torchvision requests a file twice and closes the first connection early."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve the files of a folder on this machine; yields the address."""
    with _QuietServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
