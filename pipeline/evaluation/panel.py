"""The panel of pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.config import Degrade
from pipeline.data import Split
from pipeline.data.degrade import upscale
from pipeline.data.sets import to_float
from pipeline.evaluation.batches import BATCH, Restore, fixed_batches

PANEL_IMAGES = 10
PANEL_SCALE = 3  # screen pixels a pixel


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


def _padded(places: list[int], length: int) -> list[int | None]:
    return [*places, *[None] * (length - len(places))]
