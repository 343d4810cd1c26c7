"""Restore the user's own pictures with a registered model.

Comes in: a registered version, and files or folders of any kind. Goes out: for each picture two PNG files, and for
every other file the reason why it was skipped. May not import mlflow.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from pipeline.config.trial import Degrade
from pipeline.data.degrade import degrade, input_size, upscale
from pipeline.data.folder import grey
from pipeline.data.sets import to_float
from pipeline.errors import DataError, InputError
from pipeline.evaluation.batches import Restore, threads, without_gradients
from pipeline.evaluation.panel import grid, labelled, to_pixels
from pipeline.files import png, walk, write_output
from pipeline.home import Home
from pipeline.seeds import derive_seed
from pipeline.study.reporter import one_line
from pipeline.tracking.registry import RegisteredVersion, load_version, named_version

RESTORED, COMPARED = "-restored.png", "-before-after.png"  # after a picture's name
SHOWN_WIDTH = 280  # pixels of the screen that a small picture is enlarged to beside its restoration


@dataclass(frozen=True)
class Restored:
    """A picture and the files that were made of it."""

    picture: Path
    restored: Path
    compared: Path


@dataclass(frozen=True)
class Skipped:
    """A file that could not be read as a picture."""

    picture: Path
    reason: str


@dataclass(frozen=True)
class PictureRestorer:
    """A registered model with all that decides how it restores a picture."""

    version: RegisteredVersion
    restore: Restore
    how: Degrade  # of its study
    image_size: tuple[int, int]  # of restored images
    degrade_first: bool  # whether a picture is a clean one, which the study's degradation is applied to first
    invert: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that a picture is fitted to: the clean images' where it is degraded first."""
        return self.image_size if self.degrade_first else input_size(self.image_size, self.how)

    def __call__(self, picture: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """The fitted picture, what the model sees of it, and what it restores, of a grey uint8 ``[h, w]``.

        Each is ``[1, 1, h, w]`` in [0, 1]. A picture's noise is seeded by its fitted pixels, so it is always the same.
        """
        pixels = fitted(255 - picture if self.invert else picture, self.size)
        given = seen = to_float(torch.from_numpy(pixels)[None, None])
        if self.degrade_first:
            seed = derive_seed("restore", hashlib.sha256(pixels.tobytes()).hexdigest())
            seen = degrade(given.clone(), self.how, Generator().manual_seed(seed))
        with threads(1):
            return given, seen, self.restore(seen)


def fitted(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A grey picture at a model's size, uint8 ``[h, w]``; one of this size is returned unchanged.

    It is scaled until it fits whole, its aspect kept (bicubic, averaged where it becomes smaller), and is centred; the
    rest has the median grey of its edge.
    """
    height, width = size
    scale = min(height / picture.shape[0], width / picture.shape[1])
    inner = [max(1, round(side * scale)) for side in picture.shape]
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    whole = Image.new("L", (width, height), int(np.median(edge)))
    scaled = Image.fromarray(picture).resize((inner[1], inner[0]), Image.Resampling.BICUBIC)
    whole.paste(scaled, ((width - inner[1]) // 2, (height - inner[0]) // 2))
    return np.array(whole)


def load_for_restoring(home: Home, named: str, degrade_first: bool = False, invert: bool = False) -> PictureRestorer:
    """The restorer of the version that NAME (its champion), NAME@ALIAS or NAME/VERSION names.

    Raises:
        NotFoundError: there is no such model, alias or version.
        TrackingError: its weights are missing, or not those that were promoted.
    """
    version = named_version(home, named)
    model, description = load_version(home, version)
    restore, how = without_gradients(model), description.config.degrade
    return PictureRestorer(version, restore, how, description.image_size, degrade_first, invert)


def restore_files(restorer: PictureRestorer, paths: Sequence[Path], output: Path) -> Iterator[Restored | Skipped]:
    """Restore files, and all files below folders but hidden ones; each is done when it is asked for.

    Side effects: creates the folder ``output``, and in it, for ``a.png``, ``a-restored.png`` and
    ``a-before-after.png``; a file below a folder keeps its place.

    Raises InputError, before anything is written: one of these files exists, two pictures would have the same, or the
    folder cannot be made.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"-o {output}: it is not a folder; name one, which may be new")
    planned: list[Restored | Skipped] = []
    for path in paths:
        for found in _below(path) if path.is_dir() else [(path, Path(path.name))]:
            planned.append(found if isinstance(found, Skipped) else _planned(*found, output))
    new = [file for each in planned if isinstance(each, Restored) for file in (each.restored, each.compared)]
    if exist := [file for file in new if file.exists()]:
        raise InputError(
            f"-o {output}: {exist[0].relative_to(output)} exists already; remove it or name another folder"
        )
    if twice := [file for file, count in Counter(new).items() if count > 1]:
        raise InputError(
            f"-o {output}: two of the pictures would become {twice[0].relative_to(output)}; use two folders"
        )
    return map(partial(_restored, restorer), planned)


def _planned(picture: Path, place: Path, output: Path) -> Restored:
    """A picture with the files that are made of it; ``place`` is its path within the folder that was given."""
    return Restored(picture, *(output / place.with_name(place.stem + end) for end in (RESTORED, COMPARED)))


def _below(folder: Path) -> list[tuple[Path, Path] | Skipped]:
    """The files below a folder with their paths within it; hidden ones are left out."""
    found: list[tuple[Path, Path] | Skipped] = []

    def refuse(error: OSError) -> None:
        found.append(Skipped(Path(error.filename), f"cannot be read: {error.strerror}"))

    for here, folders, names in walk(folder, refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(here, name) for name in sorted(names) if not name.startswith(".")]
        found += [(path, path.relative_to(folder)) for path in paths]
    return found or [Skipped(folder, "there is no file in it")]


def _restored(restorer: PictureRestorer, planned: Restored | Skipped) -> Restored | Skipped:
    if isinstance(planned, Skipped):
        return planned
    try:
        given, seen, restored = restorer(grey(planned.picture))
    except DataError as error:
        return Skipped(planned.picture, str(error).removeprefix(f"{planned.picture}: "))
    before = upscale(seen, restorer.image_size, "nearest")
    rows = {"picture": given, "before": before, "after": restored}
    if not restorer.degrade_first:
        del rows["picture"]
    version = restorer.version
    title = f"{one_line(planned.picture.name)}, restored by {version.model} version {version.version}"
    compared = grid(list(rows.values()), max(1, SHOWN_WIDTH // restorer.image_size[1]))
    for path, pixels in (
        (planned.restored, to_pixels(restored[0, 0])),
        (planned.compared, labelled(compared, title, list(rows))),
    ):
        write_output(path, png(pixels))
    return planned
