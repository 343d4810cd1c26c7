"""Pictures of a study's results. Comes in: strips of images. Goes out: uint8 RGB images."""

from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pipeline.results.drawing import style

DPI, LABELS = 100, 150  # pixels per inch, and the width in pixels that labels take
WIDEST = 750  # pixels: a wider picture is cut off in a note of MLflow
LOWEST = 40  # pixels of a row, which two lines of a label need


def contact_sheet(strips: Mapping[str, np.ndarray]) -> np.ndarray:
    """The same images as several restorations see them, a labelled row each.

    Args:
        strips: label to images beside each other, uint8 ``[h, w]``, all of one size.

    Returns:
        uint8 RGB ``[height, at most 750, 3]``; pixels are repeated as often as they fit, or made fewer.
    """
    height, width = next(iter(strips.values())).shape
    scale = max(1, (WIDEST - LABELS) // width)
    size = (width * scale, height * scale)
    if width > WIDEST - LABELS:
        size = (WIDEST - LABELS, max(1, round(height * (WIDEST - LABELS) / width)))
    row = max(size[1], LOWEST)
    total = size[0] + LABELS
    with style({"text.parse_math": False}):
        figure = Figure(figsize=(total / DPI, row * len(strips) / DPI), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        for place, label in enumerate(strips, 1):
            bottom = 1 - (place - 0.5) / len(strips)
            figure.text((LABELS - 12) / total, bottom, label, ha="right", va="center", size=8.5)
        canvas.draw()
    sheet = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    for place, strip in enumerate(strips.values()):
        picture = Image.fromarray(strip).resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
        top = place * row + (row - size[1]) // 2
        sheet[top : top + size[1], LABELS : LABELS + size[0]] = np.asarray(picture)[..., None]
    return sheet
