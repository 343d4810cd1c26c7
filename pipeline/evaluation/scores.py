"""Scores of a restoration on a whole split.

Comes in: a restoration and a split, or batches of restored and clean images. Goes out: the metrics of
`pipeline.config.choices.METRICS` and a panel of pictures; nothing is recorded here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.config import Degrade
from pipeline.config.choices import METRICS
from pipeline.data import Dataset, Split
from pipeline.data.degrade import upscale
from pipeline.errors import ShapeError
from pipeline.evaluation import metrics
from pipeline.evaluation.batches import Restore, fixed_batches, threads
from pipeline.evaluation.intervals import Figures, Interval, percentiles, resamples
from pipeline.evaluation.judge import Judge, labels_of
from pipeline.evaluation.panel import panel


@dataclass(frozen=True)
class Scores:
    """One value per image of a split, by the name of the column."""

    columns: dict[str, Tensor]

    def summary(self) -> dict[str, float]:
        """One number per metric, in the table's order; a metric whose columns are missing is left out."""
        return {
            name: getattr(metrics, metric.summary)(*(self.columns[column] for column in metric.columns))
            for name, metric in METRICS.items()
            if self.columns.keys() >= set(metric.columns)
        }

    def intervals(self) -> dict[str, Interval]:
        """The summary with bootstrap intervals over images: for these weights and other images."""
        found = self.summary()
        images = len(next(iter(self.columns.values())))
        drawn = [
            Scores({name: column[chosen] for name, column in self.columns.items()}).summary()
            for chosen in map(torch.from_numpy, resamples(images))
        ]
        return {name: percentiles(value, [each[name] for each in drawn]) for name, value in found.items()}

    def figures(self, metric: str) -> Figures:
        """The figure of each image, of a metric that is a mean over images."""
        [column] = METRICS[metric].columns
        return self.columns[column].double().numpy()


def score(pairs: Iterator[tuple[Tensor, Tensor]], judge: Judge | None = None) -> Scores:
    """Score (restored, clean) batches; without a judge the metrics that need one are left out.

    Raises:
        ShapeError: a batch whose shapes differ, or no batch at all.
    """
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    for metric in METRICS.values():
        if judge is not None or not metric.needs_judge:
            extra = {"judge": judge} if metric.needs_judge else {}
            functions |= {column: partial(getattr(metrics, column), **extra) for column in metric.columns}
    columns: dict[str, list[Tensor]] = {column: [] for column in functions}
    for restored, clean in pairs:
        restored = restored.clamp(0, 1)
        for column, function in functions.items():
            columns[column].append(function(restored, clean).cpu())
    if not any(columns.values()):
        raise ShapeError("there is no image to score")
    return Scores({column: torch.cat(values) for column, values in columns.items()})


def evaluate(
    restore: Restore, split: Split, how: Degrade, purpose: str, judge: Judge | None = None, device: str = "cpu"
) -> Scores:
    """Score a restoration on a whole split, whose batches are restored and scored on ``device``.

    ``purpose`` names the split; it decides the noise, which is the same for every trial and study.
    """
    batches = fixed_batches(split, how, purpose)
    return score(((restore(degraded.to(device)), clean.to(device)) for degraded, clean in batches), judge)


def validation(
    restore: Restore, data: Dataset, how: Degrade, judge: Judge | None = None, device: str = "cpu"
) -> tuple[dict[str, float], np.ndarray]:
    """The validation metrics under their recorded names (``val/psnr`` …) and the panel."""
    scores = evaluate(restore, data.val, how, "val", judge, device)
    recorded = {f"val/{name}": value for name, value in scores.summary().items()}
    return recorded, panel(restore, data.val, how, "val", device)


def judge_figures(judge: Judge, data: Dataset, how: Degrade) -> dict[str, float]:
    """How far the judge can be trusted: the shares of clean and of degraded validation images that it gets right."""
    batches = fixed_batches(data.val, how, "val")
    with threads(1):
        found = [judge.classify(upscale(degraded, data.image_size)) for degraded, _ in batches]
    right = torch.cat(found) == labels_of(data.val)
    return {"judge/accuracy_clean": judge.accuracy, "judge/accuracy_degraded": metrics.mean(right)}
