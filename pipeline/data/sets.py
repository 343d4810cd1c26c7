"""Data sets in memory: load one by its name, split it, and check that a study can be run on it.

Comes in: a data set's name and the data folder. Goes out: a `Dataset` with three splits; the test split for promotion.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.data import folder, published
from pipeline.data.formats import read
from pipeline.data.published import Status
from pipeline.data.shapes import Images, Labels, Pixels
from pipeline.errors import DataError, NotFoundError

SPLIT_SEED = 20170  # fixed with the data set: studies of any seed see the same splits
HELD_OUT = 5_000  # the most images that val and select have each; they have at most a tenth of the training images


@dataclass(frozen=True)
class Split:
    """Images and their classes; None for a data set without classes."""

    images: Pixels
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> "Split":
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """The splits that a study may see."""

    name: str
    digest: str  # of the bytes of every split, the test split included
    train: Split
    val: Split
    select: Split
    test_size: int
    classes: int = 0  # 0: without labels

    @property
    def image_size(self) -> tuple[int, int]:
        height, width = self.train.images.shape[-2:]
        return height, width

    @property
    def sizes(self) -> dict[str, int]:
        return {"train": len(self.train), "val": len(self.val), "select": len(self.select), "test": self.test_size}


def load(name: str, data_dir: Path, download: bool = False) -> Dataset:
    """The train, val and select splits of a data set, verified.

    A process reads a data set once. Later calls return the same tensors, which must not be changed.

    Args:
        name: one of `LOADERS`, or ``folder:`` and the absolute path of a folder of pictures.
        data_dir: searched for published files at any depth; with ``download``, missing ones are fetched into it.

    Raises:
        DataError: files are missing, damaged or not the published ones, the download failed, or the pictures in a
            folder are too few or cannot be used together.
    """
    return _splits(_Request(name, data_dir, download))[0]


def load_test(name: str, data_dir: Path) -> Split:
    """The sealed test split. Only promotion may call this; a test checks that. Raises DataError as `load` does."""
    return _splits(_Request(name, data_dir))[1]


def copies(data: Dataset) -> int:
    """The number of validation images that are also training images, pixel for pixel."""
    known = {image.numpy().tobytes() for image in data.train.images}
    return sum(image.numpy().tobytes() in known for image in data.val.images)


def forget() -> None:
    """Read data sets again when they are next loaded: the pictures in a folder may have changed."""
    _splits.cache_clear()


@dataclass(frozen=True)
class _Request:
    name: str
    data_dir: Path
    download: bool = field(default=False, compare=False)  # decides how the data arrives, not what they are


@lru_cache(maxsize=2)
def _splits(request: _Request) -> tuple[Dataset, Split]:
    if request.name.startswith(PICTURE_FOLDER):
        pixels, content = folder.read(Path(request.name.removeprefix(PICTURE_FOLDER)))
        whole, test, digests = _split(pixels, None), None, [content]
    else:
        whole, test, digests = LOADERS[request.name](request.data_dir, request.download)
    # Without labels all images count as one class, which makes the splits random.
    classes = 0 if whole.labels is None else int(whole.labels.max()) + 1
    labels = np.zeros(len(whole), np.int64) if whole.labels is None else whole.labels.numpy()
    share = min(HELD_OUT, len(whole) // 10)
    if test is None:
        *seen, held = stratified(labels, (share, share, share))
        test = whole.take(held)
    else:
        seen, held = stratified(labels, (share, share)), np.arange(len(test))
    digest = hashlib.sha256("\n".join(digests).encode())
    for indices in (*seen, held):
        digest.update(indices.astype("<i8").tobytes())
    train, val, select = (whole.take(indices) for indices in seen)
    return Dataset(request.name, digest.hexdigest(), train, val, select, len(test), classes), test


def stratified(labels: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Disjoint index sets that keep the shares of the classes; the same for the same labels and sizes.

    The remaining examples (the training set) come first, then one set per size, each with its classes mixed.
    """
    generator = np.random.Generator(np.random.PCG64(SPLIT_SEED))
    classes, counts = np.unique(labels, return_counts=True)
    pools = {c: generator.permutation(np.flatnonzero(labels == c)) for c in classes}
    parts: list[np.ndarray] = []
    for size in sizes:
        exact = size * counts / counts.sum()
        left = np.array([len(pool) for pool in pools.values()])
        share = np.minimum(np.floor(exact).astype(int), left)
        # Rounding up goes to the largest remainders among the classes with examples left: the sizes come out exactly.
        for _ in range(size - share.sum()):
            share[np.argmax(np.where(share < left, exact - share, -np.inf))] += 1
        chosen = [pools[c][:n] for c, n in zip(classes, share, strict=True)]
        pools = {c: pools[c][n:] for c, n in zip(classes, share, strict=True)}
        parts.append(generator.permutation(np.concatenate(chosen)))
    return [generator.permutation(np.concatenate(list(pools.values()))), *parts]


Loaded = tuple[Split, Split | None, list[str]]  # what is split; the test split, if it is separate; content digests


def _published(name: str, data_dir: Path, download: bool) -> Loaded:
    entry = CATALOGUE[name]
    found = published.status(entry, data_dir)
    if found.state == "absent" and download:
        found = published.fetch(entry, data_dir)
    if found.state != "verified":
        raise DataError(f"{name}: {found.remark}")
    parts, digests = read(entry, found.paths)
    whole, *test = (_split(*part) for part in parts)
    return whole, test[0] if test else None, digests


def _split(images: np.ndarray, labels: np.ndarray | None) -> Split:
    tensor = torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1)
    return Split(tensor, None if labels is None else torch.from_numpy(labels))


# Called with the data folder and whether to download.
LOADERS: dict[str, Callable[[Path, bool], Loaded]] = {name: partial(_published, name) for name in CATALOGUE}


def verify(name: str, data_dir: Path, quick: bool = False) -> Status:
    """Whether a data set is there and undamaged; ``quick`` reads no large file and reports ``present`` at best.

    Raises:
        NotFoundError: no data set of that name.
        DataError: the pictures of a folder cannot be used together.
    """
    if name.startswith(PICTURE_FOLDER):
        path = Path(name.removeprefix(PICTURE_FOLDER)).expanduser().absolute()
        if not quick:
            folder.read(path)
        return Status(name, "present", (path,))  # there is nothing published to compare it with
    if name not in CATALOGUE:
        raise NotFoundError(f"no data set {name!r}; known: {', '.join(CATALOGUE)}, or {PICTURE_FOLDER}PATH")
    return published.status(CATALOGUE[name], data_dir, quick)


def to_float(images: Pixels) -> Images:
    """uint8 0 … 255 to float32 0 … 1."""
    return images.float().div_(255)
