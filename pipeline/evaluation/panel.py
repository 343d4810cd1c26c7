"""The panel: ten images of a split, clean, degraded, restored, and their error, as one picture."""

from itertools import zip_longest

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
PANEL_SCALE = 3  # screen pixels per image pixel


def panel(restore: Restore, split: Split, how: Degrade, purpose: str, device: str = "cpu") -> np.ndarray:
    """Ten fixed images in columns; clean, degraded, restored and absolute error in rows.

    uint8 ``[rows, columns]``; every image pixel is ``PANEL_SCALE`` screen pixels wide. Smaller inputs are enlarged to
    the same size, pixel by pixel.
    """
    chosen = panel_indices(split)
    found: dict[int, Tensor] = {}
    for start, (batch, _) in zip(range(0, len(split), BATCH), fixed_batches(split, how, purpose), strict=True):
        found |= {index: batch[index - start] for index in chosen if 0 <= index - start < len(batch)}
    clean, degraded = to_float(split.images[list(chosen)]), torch.stack([found[index] for index in chosen])
    restored = restore(degraded.to(device)).cpu().clamp(0, 1)
    size = (clean.shape[-2], clean.shape[-1])
    rows = [clean, upscale(degraded, size, "nearest"), restored, (restored - clean).abs()]
    grid = torch.cat([torch.cat([F.pad(image, (1, 1, 1, 1), value=0.5) for image in row[:, 0]], 1) for row in rows])
    pixels = grid.mul(255).round().to(torch.uint8).numpy()
    return pixels.repeat(PANEL_SCALE, 0).repeat(PANEL_SCALE, 1)


def panel_indices(split: Split) -> tuple[int, ...]:
    """The first image of each of ten classes; of more than ten classes, ten are taken at even distances.

    Of fewer, every class gives its first image, then its second, and so on. Without labels, the first ten are taken.
    """
    if split.labels is None:
        return tuple(range(min(PANEL_IMAGES, len(split))))
    labels = split.labels.tolist()
    of_class: dict[int, list[int]] = {c: [] for c in sorted(set(labels))}
    for index, label in enumerate(labels):
        of_class[label].append(index)
    count = min(PANEL_IMAGES, len(labels))
    if len(of_class) > count:
        return tuple(of_class[list(of_class)[i * len(of_class) // count]][0] for i in range(count))
    in_turn = [index for turn in zip_longest(*of_class.values()) for index in turn if index is not None]
    return tuple(sorted(in_turn[:count], key=lambda index: labels[index]))
