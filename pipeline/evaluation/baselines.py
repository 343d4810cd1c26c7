"""Baselines: restorations that need no search.

Comes in: a data set and a degradation. Goes out: restorations by name, and their validation metrics and panel.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pipeline.config import Degrade, Downscale
from pipeline.data import Dataset, load
from pipeline.data.degrade import degrade, upscale
from pipeline.data.sets import to_float
from pipeline.evaluation.batches import BATCH, Restore, threads
from pipeline.evaluation.judge import Judge
from pipeline.evaluation.scores import validation
from pipeline.seeds import derive_seed

LARGEST_LINEAR = 64 * 64  # pixels; this many took 13 s and 0.8 GiB on one core


def baseline_names(how: Degrade, image_size: tuple[int, int]) -> list[str]:
    """The names of the baselines: the unrestored input (or its bicubic enlargement), and the best linear map.

    The enlargement is torch's, by Keys' cubic convolution with a = -0.75 and without antialiasing.
    The linear map is left out above `LARGEST_LINEAR` pixels: its matrix grows with the square of their number.
    """
    simple = "bicubic" if isinstance(how, Downscale) else "degraded"
    return [simple, "linear"] if image_size[0] * image_size[1] <= LARGEST_LINEAR else [simple]


def baseline(name: str, data: Dataset, how: Degrade) -> Restore:
    """A baseline, by its name in `baseline_names`."""
    return _linear_map(data, how) if name == "linear" else lambda degraded: upscale(degraded, data.image_size)


def baseline_scores(
    name: str, dataset: str, how: Degrade, data_dir: Path, judge: Judge | None = None
) -> tuple[dict[str, float], np.ndarray]:
    """A baseline's validation metrics under their recorded names, and its panel; always computed on one thread."""
    with threads(1):
        data = load(dataset, data_dir)
        return validation(baseline(name, data, how), data, how, judge)


def _linear_map(data: Dataset, how: Degrade) -> Restore:
    """The affine map from degraded to clean pixels with the least squared error on the training images."""
    generator = Generator().manual_seed(derive_seed("baseline"))
    xx, xy = torch.zeros(1), torch.zeros(1)
    for images in data.train.images.split(BATCH):
        clean = to_float(images)
        x = _with_ones(degrade(clean, how, generator)).double()
        xx = xx + x.T @ x
        xy = xy + x.T @ clean.flatten(1).double()
    # Constant pixels make the matrix singular; so small a ridge changes no digit that is shown.
    ridge = 1e-6 * xx.diagonal().mean() * torch.eye(len(xx), dtype=xx.dtype)
    weights = torch.linalg.solve(xx + ridge, xy).float()
    return lambda degraded: (_with_ones(degraded) @ weights).unflatten(1, (1, *data.image_size)).clamp(0, 1)


def _with_ones(images: Tensor) -> Tensor:
    return F.pad(images.flatten(1), (0, 1), value=1.0)
