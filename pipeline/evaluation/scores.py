"""How good a restoration is: metrics, trivial baselines and the panel of pictures.

Comes in: clean and restored images, float ``[N, 1, H, W]`` in [0, 1]. Goes out: numbers and one uint8 picture; nothing
is recorded here. Knows torch only.

Every metric is a mean over images; the glossary in the README gives unit and direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Degrade
from pipeline.data import Dataset, Split
from pipeline.data.degrade import upscale
from pipeline.errors import ShapeError
from pipeline.evaluation.batches import Restore, fixed_batches, threads
from pipeline.evaluation.judge import Judge, labels_of
from pipeline.evaluation.metrics import bce, entropy, gradient_energy, l1, mse, psnr, ssim
from pipeline.evaluation.panel import panel


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


def validation(
    restore: Restore, data: Dataset, how: Degrade, judge: Judge | None = None, device: str = "cpu"
) -> tuple[dict[str, float], np.ndarray]:
    """The validation figures under their recorded names (``val/psnr`` …) and the panel."""
    scores = evaluate(restore, data.val, how, "val", judge, device)
    picture = panel(restore, data.val, how, "val", device)
    return {f"val/{name}": value for name, value in scores.summary().items()}, picture


def _mean(values: Tensor) -> float:
    return values.double().mean().item()
