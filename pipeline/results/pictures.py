"""Pictures of a study's results. Comes in: panels. Goes out: uint8 RGB images."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

DPI, LABELS = 100, 180  # pixels per inch, and the width in pixels that labels take


def contact_sheet(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """The same images as several restorations see them: the clean and the degraded ones, then a row per restoration.

    Args:
        panels: label to panel as `evaluation.panel` makes it; all of the same images, uint8 ``[4 h, w]``.

    Returns:
        uint8 RGB at the resolution of the panels, ``[(2 + restorations) h, w + labels, 3]``.
    """
    clean, degraded, _, _ = np.split(next(iter(panels.values())), 4)
    rows = {"clean": clean, "degraded": degraded}
    rows |= {label: np.split(panel, 4)[2] for label, panel in panels.items()}
    height, width = clean.shape
    total = width + LABELS
    figure = Figure(figsize=(total / DPI, height * len(rows) / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for place, (label, row) in enumerate(rows.items(), 1):
        bottom = 1 - place / len(rows)
        axes = figure.add_axes((LABELS / total, bottom, width / total, 1 / len(rows)))
        axes.imshow(row, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text((LABELS - 12) / total, bottom + 0.5 / len(rows), label, ha="right", va="center", size=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
