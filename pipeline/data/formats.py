"""The publishers' file formats: IDX, EMNIST's zip of IDX files, and libsvm's text for USPS.

Comes in: verified files. Goes out: uint8 images ``[N, H, W]``, integer labels ``[N]`` from 0, and the sha256 of each
unpacked part. Imports no torch.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.catalogue import Entry
from pipeline.errors import DataError

# What gzip, bzip2 and zip raise for bytes that they cannot unpack; a missing file is an OSError.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, KeyError)


@dataclass(frozen=True)
class Arrays:
    """A data set as published: training and test, images and labels."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    digests: list[str]


def read(entry: Entry, paths: Sequence[Path]) -> Arrays:
    """Read a data set from its files, given in the catalogue's order.

    Raises:
        DataError: a file is not of the format that its publisher describes.
    """
    return FORMATS[entry.format](entry, paths)


def _idx(entry: Entry, paths: Sequence[Path]) -> Arrays:
    return _from_idx(paths, [_unpack(path) for path in paths])


def _emnist(entry: Entry, paths: Sequence[Path]) -> Arrays:
    """One part of EMNIST: images are stored by columns, and the letters' labels start at 1."""
    [archive] = paths
    names = [f"{part}-{kind}" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]
    members = [f"gzip/emnist-{entry.part}-{name}-ubyte.gz" for name in names]
    try:
        with zipfile.ZipFile(archive) as opened:
            contents = [gzip.decompress(opened.read(member)) for member in members]
    except DAMAGED as error:
        raise DataError(f"{archive}: not EMNIST's archive ({error})") from None
    found = _from_idx([archive / member for member in members], contents)
    first = found.labels.min()
    upright = [np.ascontiguousarray(images.transpose(0, 2, 1)) for images in (found.images, found.test_images)]
    return Arrays(upright[0], found.labels - first, upright[1], found.test_labels - first, found.digests)


def _from_idx(paths: Sequence[Path], contents: Sequence[bytes]) -> Arrays:
    arrays = [parse_idx(path, content) for path, content in zip(paths, contents, strict=True)]
    # QMNIST's labels are rows of eight numbers; the first is the class.
    labels = [(array[:, 0] if array.ndim == 2 else array).astype(np.int64) for array in arrays[1::2]]
    return Arrays(arrays[0], labels[0], arrays[2], labels[1], [hashlib.sha256(c).hexdigest() for c in contents])


def _usps(entry: Entry, paths: Sequence[Path]) -> Arrays:
    contents = [_unpack(path) for path in paths]
    (images, labels), (test_images, test_labels) = map(parse_libsvm, paths, contents)
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    return Arrays(images, labels, test_images, test_labels, digests)


FORMATS: dict[str, Callable[[Entry, Sequence[Path]], Arrays]] = {"idx": _idx, "emnist": _emnist, "usps": _usps}

IDX_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}


def parse_idx(path: Path, data: bytes) -> np.ndarray:
    """An IDX file as an array.

    Args:
        path: used in errors only.
        data: a header (two zero bytes, the type, the number of dimensions, one big-endian uint32 per dimension), then
            the values. Types: 0x08, unsigned bytes; 0x0C, signed big-endian integers of 32 bits.

    Raises:
        DataError: the header or the length is wrong.

    Source:
        The format's description beside the MNIST files, http://yann.lecun.com/exdb/mnist/.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: not an IDX file of bytes or 32-bit integers")
    kind = IDX_TYPES[data[2]]
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = data[4 + 4 * len(shape) :]
    try:
        return np.frombuffer(body, kind).reshape(shape).astype(kind.newbyteorder("="))
    except ValueError:
        said = " x ".join(map(str, shape))
        raise DataError(f"{path}: {len(body)} bytes of data where its header says {said}") from None


def parse_libsvm(path: Path, data: bytes, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """USPS in libsvm's text: one line per image, ``label index:value …``, labels from 1, values in [-1, 1].

    An index that is left out has the value 0, as always in this format.

    Returns:
        uint8 images ``[N, side, side]``, -1 black and 1 white, rounded down as torchvision does; labels from 0.

    Raises:
        DataError: an index or value that is out of range or not a number, or no line at all.
    """
    lines = data.decode("ascii", "replace").splitlines()
    values = np.zeros((len(lines), side * side), np.float32)
    labels = np.zeros(len(lines), np.int64)
    for row, line in enumerate(lines):
        try:
            label, *pairs = line.split()
            labels[row] = int(label) - 1
            for pair in pairs:
                index, value = pair.split(":")
                if not 1 <= int(index) <= side * side:
                    raise ValueError
                values[row, int(index) - 1] = float(value)
        except ValueError:
            raise DataError(f"{path}: line {row + 1} is not 'label index:value …'") from None
    if not lines or not np.all(np.abs(values) <= 1) or labels.min() < 0:
        raise DataError(f"{path}: labels from 1 and values in [-1, 1] are expected")
    return ((values + 1) / 2 * 255).astype(np.uint8).reshape(-1, side, side), labels


def _unpack(path: Path) -> bytes:
    with open_unpacked(path) as file:
        return file.read()


def open_unpacked(path: Path) -> io.BufferedIOBase:
    """Open a file for reading its unpacked content; the suffix says how it is packed."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if path.suffix == ".bz2" else path.open("rb")
