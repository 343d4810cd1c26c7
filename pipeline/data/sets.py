"""Data sets in memory: load one by its name, and split it.

Comes in: a data set's name and the data folder. Goes out: a `Dataset` with three splits, and the test split for
promotion alone. Images are uint8 ``[N, 1, H, W]``, labels int64 ``[N]``, or None for a set without classes. Imports
neither optuna nor mlflow nor distributed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.data import embedded, folder, published
from pipeline.data.formats import read
from pipeline.data.published import Status
from pipeline.data.shapes import Images, Labels, Pixels
from pipeline.errors import DataError, NotFoundError

SPLIT_SEED = 20170  # fixed with the data set: studies of any seed see the same splits
HELD_OUT = 5_000  # the most images that val and select have each; they have at most a tenth of the training images


@dataclass(frozen=True)
class Split:
    images: Pixels
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Split:
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """The splits that a study may see.

    ``digest`` covers the bytes of every split, the test split included. Labels are 0 … ``classes`` - 1; a set with 0
    classes has no labels.
    """

    name: str
    digest: str
    train: Split
    val: Split
    select: Split
    test_size: int
    classes: int = 0

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

    A process reads a data set once. Later calls return the same tensors, which must not be changed.

    Args:
        name: one of `LOADERS`, or ``folder:`` and the absolute path of a folder of pictures.
        data_dir: searched for the published files, at any depth.
        download: fetch missing files into ``data_dir``.

    Raises:
        DataError: files are missing, damaged or not the published ones, the download failed, or the pictures in a
            folder are too few or cannot be used together.
    """
    return _splits(_Request(name, data_dir, download))[0]


def load_test(name: str, data_dir: Path) -> Split:
    """The sealed test split. Only promotion may call this; a test checks that no other module does.

    Raises:
        DataError: as for `load`.
    """
    return _splits(_Request(name, data_dir))[1]


def copies(data: Dataset) -> int:
    """The number of validation images that are also training images, pixel for pixel."""
    known = {image.numpy().tobytes() for image in data.train.images}
    return sum(image.numpy().tobytes() in known for image in data.val.images)


def forget() -> None:
    """Read data sets from disk at the next `load`: the pictures in a folder may have changed."""
    _splits.cache_clear()


@dataclass(frozen=True)
class _Request:
    name: str
    data_dir: Path
    download: bool = field(default=False, compare=False)  # decides how the data arrives, not what they are


@lru_cache(maxsize=2)
def _splits(request: _Request) -> tuple[Dataset, Split]:
    if request.name.startswith(PICTURE_FOLDER):
        whole, test, digests = _own_pictures(request.name)
    else:
        whole, test, digests = LOADERS[request.name](request.data_dir, request.download)
    # Without labels all images count as one class, which makes the splits random.
    classes = 0 if whole.labels is None else int(whole.labels.max()) + 1
    labels = np.zeros(len(whole), np.int64) if whole.labels is None else whole.labels.numpy()
    share = min(HELD_OUT, len(whole) // 10)
    if test is None:
        train, val, select, held = stratified(labels, (share, share, share))
        test = whole.take(held)
    else:
        train, val, select = stratified(labels, (share, share))
        held = np.arange(len(test))
    digest = hashlib.sha256("\n".join(digests).encode())
    for indices in (train, val, select, held):
        digest.update(indices.astype("<i8").tobytes())
    dataset = Dataset(
        name=request.name,
        digest=digest.hexdigest(),
        train=whole.take(train),
        val=whole.take(val),
        select=whole.take(select),
        test_size=len(test),
        classes=classes,
    )
    return dataset, test


def stratified(labels: np.ndarray, sizes: tuple[int, ...]) -> list[np.ndarray]:
    """Disjoint index sets that keep the shares of the classes; the same for the same labels and sizes.

    Args:
        labels: the class of each example.
        sizes: the number of examples in each set but the first.

    Returns:
        The remaining examples (the training set) first, then one set per size, each with its classes mixed.
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
Loader = Callable[[Path, bool], Loaded]  # from the data folder and whether to download


def _embedded(_data_dir: Path, _download: bool) -> Loaded:
    return _split(*embedded.read()), None, [embedded.SHA256]


def _published(name: str, data_dir: Path, download: bool) -> Loaded:
    entry = CATALOGUE[name]
    found = published.status(entry, data_dir)
    if found.state == "absent" and download:
        published.fetch(entry, data_dir)
        found = published.status(entry, data_dir)
    if found.state != "verified":
        raise DataError(f"{name}: {found.remark}")
    arrays = read(entry, found.paths)
    return _split(arrays.images, arrays.labels), _split(arrays.test_images, arrays.test_labels), arrays.digests


def _own_pictures(name: str) -> Loaded:
    pixels, digest = folder.read(Path(name.removeprefix(PICTURE_FOLDER)))
    return _split(pixels, None), None, [digest]


def _split(images: np.ndarray, labels: np.ndarray | None) -> Split:
    tensor = torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1)
    return Split(tensor, None if labels is None else torch.from_numpy(labels))


LOADERS: dict[str, Loader] = {
    name: partial(_published, name) if entry.files else _embedded for name, entry in CATALOGUE.items()
}


def survey(data_dir: Path) -> list[Status]:
    """The status of every data set of the catalogue, from a quick look."""
    return [verify(name, data_dir, quick=True) for name in CATALOGUE]


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
    if CATALOGUE[name].files:
        return published.status(CATALOGUE[name], data_dir, quick)
    return embedded.status()


def to_float(images: Pixels) -> Images:
    """uint8 0 … 255 to float32 0 … 1."""
    return images.float().div_(255)
