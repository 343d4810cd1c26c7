"""How good a restoration is: metrics, trivial baselines and the panel of pictures.

Comes in: clean and restored images, float ``[N, 1, H, W]`` in [0, 1]. Goes out: numbers and one uint8 picture; nothing
is recorded here. Knows torch only.

Every metric is a mean over images; the glossary in the README gives unit and direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from pipeline.config import Degrade, Downscale
from pipeline.data import Dataset, Split, load
from pipeline.degrade import degrade, upscale
from pipeline.errors import ShapeError
from pipeline.judge import Judge, labels_of
from pipeline.numerics import derive_seed, threads, to_float

Images = Float[Tensor, "batch 1 height width"]
PerImage = Float[Tensor, " batch"]
Restore = Callable[[Tensor], Tensor]  # degraded [N, 1, h, w] -> restored [N, 1, H, W]

MSE_FLOOR = 1e-10  # a perfect image counts 100 dB
BCE_EPS = 1e-7  # restored intensities are kept this far from 0 and 1 inside the logarithms
BATCH = 250  # small enough that the metrics of a batch stay in the cache: a quarter quicker than 1,000
LARGEST_LINEAR = 64 * 64  # pixels; this many took 13 s and 0.8 GiB on one core
PANEL_IMAGES = 10
PANEL_SCALE = 3  # screen pixels a pixel


def psnr(restored: Images, clean: Images) -> PerImage:
    """Peak signal-to-noise ratio of each image.

    ``10 log10(1 / mse)`` with mse over one image's pixels, floored at 1e-10. Average it over images; averaging mse
    first gives another number.

    Args:
        restored: intensities in [0, 1]; values outside are clamped.
        clean: the same shape and scale.

    Returns:
        Decibels, one an image, higher is better; 100 where the two are equal.

    Raises:
        ShapeError: the shapes differ, or the batch is empty.

    Source:
        The usual definition; tests compare it with scikit-image's ``peak_signal_noise_ratio``.
    """
    return -10 * torch.log10(mse(restored, clean).clamp_min(MSE_FLOOR))


def mse(restored: Images, clean: Images) -> PerImage:
    """Mean squared error of each image, restored clamped to [0, 1]. Raises ShapeError as `psnr` does."""
    _check(restored, clean)
    return (restored.clamp(0, 1) - clean).square().mean((1, 2, 3))


def l1(restored: Images, clean: Images) -> PerImage:
    """Mean absolute error of each image, restored clamped to [0, 1]. Raises ShapeError as `psnr` does."""
    _check(restored, clean)
    return (restored.clamp(0, 1) - clean).abs().mean((1, 2, 3))


def bce(restored: Images, clean: Images) -> PerImage:
    """Binary cross-entropy of each image against its grey targets.

    ``-mean(t ln x + (1 - t) ln(1 - x))`` with restored x kept in [1e-7, 1 - 1e-7]. Its least possible value is not 0
    but the targets' own entropy, `entropy`.

    Returns:
        Nats a pixel, one an image, lower is better.

    Raises:
        ShapeError: the shapes differ, or the batch is empty.
    """
    _check(restored, clean)
    x = restored.clamp(BCE_EPS, 1 - BCE_EPS)
    return F.binary_cross_entropy(x, clean, reduction="none").mean((1, 2, 3))


def entropy(clean: Images) -> PerImage:
    """The floor of `bce`: mean binary entropy of each image's own intensities, nats a pixel."""
    return torch.special.entr(clean).add(torch.special.entr(1 - clean)).mean((1, 2, 3))


def ssim(restored: Images, clean: Images) -> PerImage:
    """Structural similarity of each image.

    Gaussian window of 11 x 11, sigma 1.5, population covariance, K1 = 0.01, K2 = 0.03, data range 1; averaged over the
    places where the whole window lies inside the image (no padding).

    Args:
        restored: intensities in [0, 1], clamped; sides of at least 11 pixels.
        clean: the same shape and scale.

    Returns:
        One an image, at most 1, higher is better.

    Raises:
        ShapeError: the shapes differ, the batch is empty, or a side is below 11 pixels.

    Source:
        Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE TIP 13(4), 2004; tests compare it with scikit-image's ``structural_similarity``.
    """
    _check(restored, clean)
    if min(clean.shape[-2:]) < 11:
        raise ShapeError(f"SSIM needs images of at least 11 x 11 pixels, not {clean.shape[-2]} x {clean.shape[-1]}")
    x, y = restored.clamp(0, 1), clean
    stacked = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    mean_x, mean_y, xx, yy, xy = _blur(stacked).unbind(1)
    c1, c2 = 0.01**2, 0.03**2
    covariance = xy - mean_x * mean_y
    spread = (xx - mean_x.square()) + (yy - mean_y.square())
    structure = (2 * covariance + c2) / (spread + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    return (structure * luminance).mean((1, 2))


def gradient_energy(images: Images) -> PerImage:
    """Sum of squared differences between neighbouring pixels, across and down."""
    across = images.diff(dim=-1).square().sum((1, 2, 3))
    return across + images.diff(dim=-2).square().sum((1, 2, 3))


def judge_figures(judge: Judge, data: Dataset, how: Degrade) -> dict[str, float]:
    """How far the judge can be trusted: shares of validation images, clean and degraded, that it classifies rightly.

    On one thread, whatever the process has.
    """
    batches = fixed_batches(data.val, how, "val")
    with threads(1):
        found = [judge.classify(upscale(degraded, data.image_size)) for degraded, _ in batches]
    right = torch.cat(found) == labels_of(data.val)
    return {"judge/accuracy_clean": judge.accuracy, "judge/accuracy_degraded": _mean(right)}


@dataclass(frozen=True)
class Scores:
    """Per-image scores of one split, and their summary."""

    psnr: Tensor
    ssim: Tensor
    mse: Tensor
    l1: Tensor
    bce: Tensor
    entropy: Tensor
    gradient: Tensor
    clean_gradient: Tensor
    class_kept: Tensor | None = None

    def summary(self) -> dict[str, float]:
        """The figures that are recorded: ``psnr``, ``ssim``, ``mse``, ``l1``, ``bce``, ``bce_excess``, ``sharpness``.

        ``sharpness`` is the gradient energy of all restored images over that of all clean ones: 1 is right, blur
        lowers it, noise raises it; nan where the clean images are all flat. With a judge also ``class_kept``, the
        share of images that it puts in the same class as their clean originals.
        """
        means = {name: _mean(getattr(self, name)) for name in ("psnr", "ssim", "mse", "l1", "bce")}
        clean = self.clean_gradient.double().sum().item()
        sharpness = self.gradient.double().sum().item() / clean if clean else math.nan
        kept = {} if self.class_kept is None else {"class_kept": _mean(self.class_kept)}
        return means | {"bce_excess": means["bce"] - _mean(self.entropy), "sharpness": sharpness} | kept


def score(pairs: Iterator[tuple[Tensor, Tensor]], judge: Judge | None = None) -> Scores:
    """Score (restored, clean) batches, with a judge also whether each image kept its class.

    Raises:
        ShapeError: a batch whose shapes differ, or no batch at all.
    """
    columns: list[list[Tensor]] = [[] for _ in range(8 if judge is None else 9)]
    for restored, clean in pairs:
        restored = restored.clamp(0, 1)
        figures = (psnr, ssim, mse, l1, bce)
        values = [figure(restored, clean) for figure in figures]
        values += [entropy(clean), gradient_energy(restored), gradient_energy(clean)]
        if judge is not None:
            values.append(judge.classify(restored) == judge.classify(clean))
        for column, value in zip(columns, values, strict=True):
            column.append(value.cpu())
    if not columns[0]:
        raise ShapeError("there is no image to score")
    return Scores(*(torch.cat(column) for column in columns))


def without_gradients(model: nn.Module) -> Restore:
    """A restoring module as a function from degraded to restored batches."""

    def restore(degraded: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(degraded)

    return restore


def evaluate(
    restore: Restore, split: Split, how: Degrade, purpose: str, judge: Judge | None = None, device: str = "cpu"
) -> Scores:
    """Score a restoration on a whole split under the split's own fixed degradation.

    Args:
        restore: degraded batch to restored batch, both on ``device``.
        split: uint8 images.
        how: the ``[degrade]`` section.
        purpose: names the split; it decides the noise, which is the same for every trial and study.
        judge: the data set's, where it has one.
        device: where the batches are restored and scored.
    """
    batches = fixed_batches(split, how, purpose)
    return score(((restore(degraded.to(device)), clean.to(device)) for degraded, clean in batches), judge)


def fixed_batches(split: Split, how: Degrade, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    """(degraded, clean) float batches of a split, always the same; made on the CPU, so on every device the same."""
    generator = Generator().manual_seed(derive_seed(purpose))
    for images in split.images.split(BATCH):
        clean = to_float(images)
        yield degrade(clean, how, generator), clean


def baseline_names(how: Degrade, image_size: tuple[int, int]) -> list[str]:
    """The restorations that need no search: nothing done (or bicubic enlargement), and the best linear map.

    The linear map is left out above `LARGEST_LINEAR` pixels: its matrix grows with the square of their number.
    """
    simple = "bicubic" if isinstance(how, Downscale) else "degraded"
    return [simple, "linear"] if image_size[0] * image_size[1] <= LARGEST_LINEAR else [simple]


def baseline(name: str, data: Dataset, how: Degrade) -> Restore:
    """A trivial restoration, by its name in `baseline_names`."""
    return _linear_map(data, how) if name == "linear" else lambda degraded: upscale(degraded, data.image_size)


def baseline_scores(
    name: str, dataset: str, how: Degrade, data_dir: Path, judge: Judge | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """A baseline's validation figures under their recorded names, and its panel; on one thread, whatever runs it.

    Raises:
        DataError: the data set is absent or damaged.
    """
    with threads(1):
        data = load(dataset, data_dir)
        return validation(baseline(name, data, how), data, how, judge)


def _linear_map(data: Dataset, how: Degrade) -> Restore:
    """The affine map from degraded to clean pixels that has the least squared error on the training images."""
    height, width = data.image_size
    generator = Generator().manual_seed(derive_seed("baseline"))
    xx, xy = torch.zeros(1), torch.zeros(1)
    for images in data.train.images.split(BATCH):
        clean = to_float(images)
        x = _with_ones(degrade(clean, how, generator)).double()
        xx = xx + x.T @ x
        xy = xy + x.T @ clean.flatten(1).double()
    # Pixels that never vary make the matrix singular; this much ridge changes no digit that is shown.
    ridge = 1e-6 * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype)
    weights = torch.linalg.solve(xx + ridge, xy).float()
    return lambda degraded: (_with_ones(degraded) @ weights).unflatten(1, (1, height, width)).clamp(0, 1)


def _with_ones(images: Tensor) -> Tensor:
    return F.pad(images.flatten(1), (0, 1), value=1.0)


def panel(restore: Restore, split: Split, how: Degrade, purpose: str, device: str = "cpu") -> np.ndarray:
    """Ten fixed images in columns; clean, degraded, restored and absolute error in rows.

    Returns:
        uint8 ``[rows, columns]``, each pixel ``PANEL_SCALE`` screen pixels wide. Smaller inputs are shown enlarged,
        pixel by pixel.
    """
    chosen = panel_indices(split)
    wanted = {index: place for place, index in enumerate(chosen)}
    degraded_images: list[Tensor] = [torch.empty(0)] * len(chosen)
    for start, (degraded, _) in zip(range(0, len(split), BATCH), fixed_batches(split, how, purpose), strict=True):
        for index in wanted.keys() & set(range(start, start + len(degraded))):
            degraded_images[wanted[index]] = degraded[index - start]
    clean, degraded = to_float(split.images[list(chosen)]), torch.stack(degraded_images)
    restored = restore(degraded.to(device)).cpu().clamp(0, 1)
    size = (clean.shape[-2], clean.shape[-1])
    rows = [clean, upscale(degraded, size, "nearest"), restored, (restored - clean).abs()]
    grid = torch.cat([torch.cat([F.pad(image, (1, 1, 1, 1), value=0.5) for image in row[:, 0]], 1) for row in rows])
    pixels = grid.mul(255).round().to(torch.uint8).numpy()
    return pixels.repeat(PANEL_SCALE, 0).repeat(PANEL_SCALE, 1)


def panel_indices(split: Split) -> tuple[int, ...]:
    """The first image of each of ten classes, spread evenly where there are more, cycled where there are fewer.

    Without labels, the first ten images.
    """
    if split.labels is None:
        return tuple(range(min(PANEL_IMAGES, len(split))))
    labels = split.labels.tolist()
    places: dict[int, list[int]] = {c: [] for c in sorted(set(labels))}
    for index, label in enumerate(labels):
        places[label].append(index)
    count = min(PANEL_IMAGES, len(labels))
    if len(places) > count:
        return tuple(places[list(places)[i * len(places) // count]][0] for i in range(count))
    rounds = zip(*[_padded(p, max(map(len, places.values()))) for p in places.values()], strict=True)
    in_turn = [index for turn in rounds for index in turn if index is not None]
    return tuple(sorted(in_turn[:count], key=lambda index: labels[index]))


def validation(
    restore: Restore, data: Dataset, how: Degrade, judge: Judge | None = None, device: str = "cpu"
) -> tuple[dict[str, float], np.ndarray]:
    """The validation figures under their recorded names (``val/psnr`` …) and the panel."""
    scores = evaluate(restore, data.val, how, "val", judge, device)
    picture = panel(restore, data.val, how, "val", device)
    return {f"val/{name}": value for name, value in scores.summary().items()}, picture


def _padded(places: list[int], length: int) -> list[int | None]:
    return [*places, *[None] * (length - len(places))]


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _check(restored: Tensor, clean: Tensor) -> None:
    if restored.shape != clean.shape:
        raise ShapeError(f"restored images {tuple(restored.shape)} and clean ones {tuple(clean.shape)} differ in shape")
    if len(clean) == 0:
        raise ShapeError("there is no image to score")


@lru_cache(maxsize=4)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    offsets = torch.arange(-5, 6, device=device, dtype=dtype)
    weights = torch.exp(-offsets.square() / (2 * 1.5**2))
    return weights / weights.sum()


def _blur(images: Float[Tensor, "batch maps height width"]) -> Float[Tensor, "batch maps h w"]:
    """Gaussian means over full windows, one axis after the other, as 11 shifted sums: quicker than a convolution."""
    weights = _window(images.device, images.dtype).tolist()
    for axis in (-1, -2):
        length = images.shape[axis] - 10
        total = images.narrow(axis, 0, length) * weights[0]
        for offset in range(1, 11):
            total.add_(images.narrow(axis, offset, length), alpha=weights[offset])
        images = total
    return images
