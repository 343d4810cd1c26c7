"""The contact sheet: the same images as each of several restorations sees them, one row per restoration.

What comes in: panels as `evaluation.panel` makes them. What goes out: one picture, uint8 ``[rows, columns, 3]``, or a
PNG file. The only module that imports matplotlib.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipeline.files import write_output

PANEL_ROWS = ("clean", "degraded", "restored", "error")
PICTURES = (".png",)  # the formats that a picture is written in
DPI, LABELS = 100, 180  # of the contact sheet: pixels per inch, and the width in pixels that labels take


def contact_sheet(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """The clean and the degraded images on top, and below them each restoration's row.

    Args:
        panels: label to panel; all of the same images and so of the same shape, uint8 ``[4 h, w]``.

    Returns:
        uint8 RGB at the resolution of the panels.
    """
    first = next(iter(panels.values()))
    rows = {"clean": _row(first, "clean"), "degraded": _row(first, "degraded")}
    rows |= {label: _row(panel, "restored") for label, panel in panels.items()}
    height, width = rows["clean"].shape
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


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write a uint8 picture, ``[rows, columns]`` or ``[rows, columns, 3]``, as PNG; an older file is replaced whole.

    Raises:
        InputError: it cannot be written there.
    """
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    write_output(path, content.getvalue())


def _row(panel: np.ndarray, name: str) -> np.ndarray:
    height = panel.shape[0] // len(PANEL_ROWS)
    start = PANEL_ROWS.index(name) * height
    return panel[start : start + height]
