"""The metrics of a restoration: one entry each.

Nothing comes in. Out goes `METRICS`, which decides what is scored, what a study may rank its trials by, and the order
of the ``val/…`` columns in an export. Functions are named here and looked up in `pipeline.evaluation.metrics` by
`pipeline.evaluation.scores`: this module may not import torch, so that a study file is checked in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SSIM_WINDOW = 11  # pixels; images with a smaller side cannot be scored


@dataclass(frozen=True)
class Metric:
    """One metric of a split of the data.

    ``columns`` are functions of (restored, clean) that return one value per image; with ``needs_judge`` they take the
    judge as well. ``summary`` is the function that makes one number of the columns.
    """

    unit: str
    better: Literal["higher", "lower", "1"]
    columns: tuple[str, ...]
    summary: Literal["mean", "difference_of_means", "ratio_of_sums"] = "mean"
    needs_judge: bool = False
    pixel_loss: bool = False  # also a training loss: ranking by it favours the trials trained on it or on one like it

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return "maximize" if self.better == "higher" else "minimize"


METRICS = {
    "psnr": Metric("dB", "higher", ("psnr",)),
    "ssim": Metric("at most 1", "higher", ("ssim",)),
    "mse": Metric("intensity²", "lower", ("mse",), pixel_loss=True),
    "l1": Metric("intensity", "lower", ("l1",), pixel_loss=True),
    "bce": Metric("nats per pixel", "lower", ("bce",), pixel_loss=True),
    "bce_excess": Metric("nats per pixel", "lower", ("bce", "bce_floor"), "difference_of_means"),
    "sharpness": Metric("ratio", "1", ("restored_gradient", "clean_gradient"), "ratio_of_sums"),
    "class_kept": Metric("share", "higher", ("class_kept",), needs_judge=True),
}
