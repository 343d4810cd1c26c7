"""Data sets in memory: load one by its name, and split it.

Shapes: images are uint8 ``[N, 1, H, W]``, labels int64 ``[N]``, or None where there are none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.data import embedded, folder, published
from pipeline.data.formats import read
from pipeline.data.published import Status
from pipeline.errors import DataError, NotFoundError

SPLIT_SEED = 20170  # fixed with the data set: studies of any seed see the same splits
HELD_OUT = 5_000  # images of val and of select at most; a tenth of the training images at most
OWN = PICTURE_FOLDER


@dataclass(frozen=True)
class Split:
    images: UInt8[Tensor, "n 1 height width"]
    labels: Int64[Tensor, " n"] | None

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: np.ndarray) -> Split:
        chosen = torch.from_numpy(indices)
        return Split(self.images[chosen], None if self.labels is None else self.labels[chosen])


@dataclass(frozen=True)
class Dataset:
    """The splits that a study may see.

    ``digest`` covers every split, the test split's bytes included. Labels are 0 … ``classes`` - 1; no classes, no
    labels.
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

    A process reads a data set once; later calls return the same tensors, which must not be changed.

    Args:
        name: one of `LOADERS`, or ``folder:`` and the absolute path of a folder of pictures.
        data_dir: where the published files are looked for, at any depth.
        download: fetch what is absent, into ``data_dir``.

    Raises:
        DataError: files are absent, damaged or not the published ones, the download failed, or the pictures in a
            folder are too few or do not go together.
    """
    return _splits(_Request(name, data_dir, download))[0]


def load_test(name: str, data_dir: Path) -> Split:
    """The sealed test split. Only promotion may call this; a test holds every other module to it.

    Raises:
        DataError: as for `load`.
    """
    return _splits(_Request(name, data_dir))[1]


def copies(data: Dataset) -> int:
    """How many validation images also stand, pixel for pixel, among the training images."""
    known = {image.numpy().tobytes() for image in data.train.images}
    return sum(image.numpy().tobytes() in known for image in data.val.images)


def forget() -> None:
    """Read data sets anew when they are loaded again: the pictures in a folder may have changed since."""
    _splits.cache_clear()


@dataclass(frozen=True)
class _Request:
    name: str
    data_dir: Path
    download: bool = field(default=False, compare=False)  # what was downloaded is in memory; it is not read again


@lru_cache(maxsize=2)
def _splits(request: _Request) -> tuple[Dataset, Split]:
    loader = _own(request.name) if request.name.startswith(OWN) else LOADERS[request.name]
    whole, test, digests = loader(request.data_dir, request.download)
    # Without labels all images are of one class, so that the splits are random ones.
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


Loaded = tuple[Split, Split | None, list[str]]  # to be split; the test split, if it is apart; digests of the content
Loader = Callable[[Path, bool], Loaded]  # of the data folder, and whether to download


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


def _own(name: str) -> Loader:
    def load_folder(_data_dir: Path, _download: bool) -> Loaded:
        pixels, digest = folder.read(Path(name.removeprefix(OWN)))
        return _split(pixels, None), None, [digest]

    return load_folder


def _split(images: np.ndarray, labels: np.ndarray | None) -> Split:
    tensor = torch.from_numpy(np.ascontiguousarray(images)).unsqueeze(1)
    return Split(tensor, None if labels is None else torch.from_numpy(labels))


LOADERS: dict[str, Loader] = {
    name: partial(_published, name) if entry.files else _embedded for name, entry in CATALOGUE.items()
}


def survey(data_dir: Path) -> list[Status]:
    """Every data set of the catalogue: what seems to be there, at a glance."""
    return [verify(name, data_dir, quick=True) for name in CATALOGUE]


def verify(name: str, data_dir: Path, quick: bool = False) -> Status:
    """Whether a data set is there and sound; ``quick`` leaves large files unread and says ``present`` at best.

    Raises:
        NotFoundError: no data set of that name.
        DataError: the pictures of a folder do not go together.
    """
    if name.startswith(OWN):
        path = Path(name.removeprefix(OWN)).expanduser().absolute()
        if not quick:
            folder.read(path)
        return Status(name, "present", (path,))  # there is nothing published to compare it with
    if name not in CATALOGUE:
        raise NotFoundError(f"no data set {name!r}; known: {', '.join(CATALOGUE)}, or {OWN}PATH")
    if CATALOGUE[name].files:
        return published.status(CATALOGUE[name], data_dir, quick)
    return embedded.status()


def to_float(images: UInt8[Tensor, "batch 1 height width"]) -> Float[Tensor, "batch 1 height width"]:
    """uint8 0 … 255 to float32 0 … 1."""
    return images.float().div_(255)
