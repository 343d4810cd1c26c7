"""The panel: ten images of a split, clean, degraded, restored, and their error, as one picture.

Comes in: a restoration and a split, or a panel. Goes out: panels, and the two pictures that are made of one: the
restored images as tiles, and the panel with labels and a title. May not import matplotlib.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.config import Degrade
from pipeline.config.choices import METRICS
from pipeline.data import Split
from pipeline.data.degrade import upscale
from pipeline.data.sets import to_float
from pipeline.evaluation.batches import BATCH, Restore, fixed_batches

PANEL_IMAGES = 10
PANEL_SCALE = 3  # screen pixels per image pixel
TITLE_METRICS = ("psnr", "ssim", "class_kept")
ROWS = ("clean", "degraded", "restored", "error")
TILES = 4  # per row
NEUTRAL = 128  # the grey of frames and of empty places


def panel(
    restore: Restore,
    split: Split,
    how: Degrade,
    purpose: str,
    device: str = "cpu",
    chosen: Sequence[int] | None = None,
) -> np.ndarray:
    """Ten fixed images, or those ``chosen``, in columns; clean, degraded, restored and absolute error in rows.

    uint8 ``[rows, columns]``; every image pixel is ``PANEL_SCALE`` screen pixels wide. Smaller inputs are enlarged to
    the same size, pixel by pixel.
    """
    chosen = panel_indices(split) if chosen is None else chosen
    found: dict[int, Tensor] = {}
    for start, (batch, _) in zip(range(0, len(split), BATCH), fixed_batches(split, how, purpose), strict=True):
        found |= {index: batch[index - start] for index in chosen if 0 <= index - start < len(batch)}
    clean, degraded = to_float(split.images[list(chosen)]), torch.stack([found[index] for index in chosen])
    restored = restore(degraded.to(device)).cpu().clamp(0, 1)
    size = (clean.shape[-2], clean.shape[-1])
    return grid([clean, upscale(degraded, size, "nearest"), restored, (restored - clean).abs()], PANEL_SCALE)


def grid(rows: Sequence[Tensor], scale: int) -> np.ndarray:
    """Rows of images ``[N, 1, h, w]`` in [0, 1], each in a grey frame, enlarged pixel by pixel. uint8."""
    framed = torch.cat([torch.cat([F.pad(image, (1, 1, 1, 1), value=0.5) for image in row[:, 0]], 1) for row in rows])
    return to_pixels(framed).repeat(scale, 0).repeat(scale, 1)


def to_pixels(image: Tensor) -> np.ndarray:
    """Intensities in [0, 1] as uint8."""
    return image.mul(255).round().to(torch.uint8).numpy()


def panel_indices(split: Split) -> tuple[int, ...]:
    """The first image of each of ten classes; of more than ten classes, ten are taken at even distances.

    Of fewer, every class gives its first image, then its second, and so on. Without labels, the first ten are taken.
    """
    if split.labels is None:
        return tuple(range(panel_images(split)))
    labels = split.labels.tolist()
    of_class: dict[int, list[int]] = {c: [] for c in sorted(set(labels))}
    for index, label in enumerate(labels):
        of_class[label].append(index)
    count = panel_images(split)
    if len(of_class) > count:
        return tuple(of_class[list(of_class)[i * len(of_class) // count]][0] for i in range(count))
    in_turn = [index for turn in zip_longest(*of_class.values()) for index in turn if index is not None]
    return tuple(sorted(in_turn[:count], key=lambda index: labels[index]))


def panel_images(split: Split) -> int:
    """How many images a split's panel shows."""
    return min(PANEL_IMAGES, len(split))


def tiles(panel: np.ndarray, images: int = PANEL_IMAGES) -> np.ndarray:
    """The restored images of a panel of so many images, as tiles in rows of four; empty places are grey. uint8."""
    row = np.split(panel, len(ROWS))[ROWS.index("restored")]
    width, places = row.shape[1] // images, -(-images // TILES) * TILES
    row = np.pad(row, ((0, 0), (0, (places - images) * width)), constant_values=NEUTRAL)
    return np.concatenate([row[:, left : left + TILES * width] for left in range(0, places * width, TILES * width)])


def panel_title(run: str, study: str, metrics: Mapping[str, float], epoch: int = 0) -> str:
    """The title of a run's panel, with the figures among ``val/…`` that a reader knows; a baseline has no epoch."""
    parts = [f"{run} of {study}", *([f"epoch {epoch}"] if epoch else [])]
    parts += [f"{key} {METRICS[key].shown(metrics[f'val/{key}'])}" for key in TITLE_METRICS if f"val/{key}" in metrics]
    return " · ".join(parts)


def labelled(panel: np.ndarray, title: str, rows: Sequence[str] = ROWS) -> np.ndarray:
    """A panel with its rows' names to the left and a title above, on white; the same arguments give the same bytes.

    The text is readable when the picture is shown 900 pixels wide. uint8 RGB ``[height, width, 3]``.
    """
    size = max(16, panel.shape[1] // 45)
    font, space = ImageFont.load_default(size), size // 2
    left, top = int(max(map(font.getlength, rows))) + 2 * space, size + 2 * space
    width = max(left + panel.shape[1], int(font.getlength(title)) + 2 * space)
    picture = Image.new("RGB", (width, top + len(panel)), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((space, top // 2), title, "black", font, anchor="lm")
    for place, name in enumerate(rows):
        middle = top + (2 * place + 1) * len(panel) // (2 * len(rows))
        draw.text((left - space, middle), name, "black", font, anchor="rm")
    picture.paste(Image.fromarray(panel), (left, top))
    return np.asarray(picture)
