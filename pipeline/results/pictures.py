"""The contact sheet: the same ten images as many restorations see them, one under another.

Comes in: panels as `evaluate.panel` makes them. Goes out: one picture, uint8 ``[rows, columns, 3]``. Matplotlib only.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipeline.errors import InputError
from pipeline.files import check_place, write_output

PANEL_ROWS = ("clean", "degraded", "restored", "error")


def contact_sheet(panels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Clean and degraded images on top, then what each restoration made of them.

    Args:
        panels: label to panel; all of the same images, so of the same shape, uint8 ``[4 h, w]``.

    Returns:
        uint8 RGB, at the panels' own resolution.
    """
    first = next(iter(panels.values()))
    rows = {"clean": _row(first, "clean"), "degraded": _row(first, "degraded")}
    rows |= {label: _row(panel, "restored") for label, panel in panels.items()}
    height, width = rows["clean"].shape
    dpi, margin = 100, 180
    figure = Figure(figsize=((width + margin) / dpi, height * len(rows) / dpi), dpi=dpi, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for place, (label, row) in enumerate(rows.items()):
        bottom = 1 - (place + 1) / len(rows)
        axes = figure.add_axes((margin / (width + margin), bottom, width / (width + margin), 1 / len(rows)))
        axes.imshow(row, cmap="gray", vmin=0, vmax=255, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        figure.text((margin - 12) / (width + margin), bottom + 0.5 / len(rows), label, ha="right", va="center", size=10)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def check_picture(path: Path) -> None:
    """Refuse a place where no PNG file can be written, before anything is computed for it.

    Raises:
        InputError: another suffix, or no such folder.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"-o {path}: pictures are written as .png")
    check_place(path)


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
