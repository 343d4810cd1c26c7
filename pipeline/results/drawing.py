"""How figures are drawn and written: colours, style, axes with room for their text, SVG and PNG.

Comes in: numbers and texts. Goes out: matplotlib figures made without pyplot, which keeps state; equal figures give
equal bytes. May not import torch.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import Any, ParamSpec

import matplotlib as mpl
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# Ten colours that people with any colour vision tell apart, on white and on black. Source: Petroff, "Accessible color
# sequences for data visualization", 2021, arXiv:2107.02270.
COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
INK, GREY = "#24292f", "#8b8f94"  # text and axes, which become the page's own colour; trials without a value
MANY = 400  # points from which on they are drawn as one picture in SVG
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "text.parse_math": False,  # a dollar is a dollar
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.ymargin": 0.08,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "study",
    "figure.facecolor": "white",
    "savefig.dpi": 160,
}
WIDTH, HEIGHT = 4.6, 3.1  # inches: as wide as a phone shows without shrinking the text
LEFT, RIGHT, ABOVE, BELOW = 0.7, 0.62, 0.3, 0.78  # inches around axes, for their text and the legend
P = ParamSpec("P")


def style(settings: Mapping[str, Any] = STYLE) -> AbstractContextManager[None]:
    """The style of these figures, whatever style the process uses for its own."""
    return mpl.style.context(dict(settings), after_reset=True)


def styled(draw: Callable[P, Figure | None]) -> Callable[P, Figure | None]:
    def styled(*args: P.args, **kwargs: P.kwargs) -> Figure | None:
        with style():
            return draw(*args, **kwargs)

    styled.__doc__ = draw.__doc__
    return styled


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; without matplotlib's version, so that equal figures have equal bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """A figure as an SVG element for a page: transparent, its text and axes in the colour of the text around it."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>", "", text[text.index("<svg") :], flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)  # ids of a page differ
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text).replace(INK, "currentColor")
    box, label = re.findall(r'viewBox="([^"]*)"', text)[0], escape(str(figure.get_label()))
    head = f'<svg role="img" viewBox="{box}" aria-label="{label}">'
    return re.sub(r"\n\s*", "\n", head + text[text.index(">") + 1 :])


def axes_of(
    title: str, x: str, y: str, height: float = HEIGHT, left: float = LEFT, below: float = BELOW
) -> tuple[Figure, Axes]:
    figure = Figure((WIDTH, height))
    axes = placed(figure, 0, left, below)
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def placed(figure: Figure, place: int, left: float = LEFT, below: float = BELOW) -> Axes:
    """Axes at their place in a row, with this room around them; a layout engine would take twice the time."""
    width, height = figure.get_size_inches()
    box = (place * WIDTH + left, below, WIDTH - left - RIGHT, height - below - ABOVE)
    return figure.add_axes((box[0] / width, box[1] / height, box[2] / width, box[3] / height))


def points(
    axes: Axes, x: Sequence[float], y: Sequence[float], label: str = "", colour: str = COLOURS[0], **kind: Any
) -> None:
    size = {"s": 22 if len(x) < 100 else 9, "alpha": 0.85, "linewidths": 0} | kind
    axes.scatter(x, y, color=colour, label=label or None, rasterized=len(x) > MANY, **size)


def rug(axes: Axes, x: Sequence[float]) -> None:
    """Where pruned trials lie, in grey on the lower edge: what they reached in fewer epochs compares with no other."""
    if x:
        side = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 3}
        points(axes, x, [0.02] * len(x), "pruned", GREY, marker="x", linewidths=1.1, s=18, **side)


def note(axes: Axes, text: str, x: float, y: float) -> None:
    axes.annotate(text, (x, y), (4, 4), textcoords="offset points", fontsize=7.5)


def log_axis(axes: Axes, values: Sequence[float], form: Any = None) -> None:
    """A logarithmic axis that names 1, 2 and 5 of each decade, or the decades where there are many; 0 is beside it."""
    positive = [value for value in values if value > 0]
    if len(positive) < len(values):
        axes.set_xscale("symlog", linthresh=min(positive, default=1.0))
        return
    wide = math.log10(max(values) / min(values)) > 2
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(form or FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def room_for(names: Sequence[str]) -> float:
    """The room to the left of axes whose rows have these names."""
    return 0.25 + 0.072 * max(map(len, names), default=0)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Name the rows of axes, the first at the top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def interval(axes: Axes, row: float, low: float, estimate: float, high: float, label: str = "") -> None:
    """An estimate and its interval in a row."""
    axes.plot([low, high], [row, row], color=COLOURS[6], linewidth=2.5, solid_capstyle="butt")
    axes.plot(estimate, row, "D", color=COLOURS[6], markersize=5, label=label)


def legend(axes: Axes, **settings: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(handles, labels, loc="lower center", **{"ncol": 3} | settings)
