"""The live table of a running study, for a terminal.

What comes in: the driver's reports. What goes out: a table redrawn in place, and one line per ended trial above it.
"""

from __future__ import annotations

import math

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.cli.tables import make_table
from pipeline.config import StudyConfig
from pipeline.data import Dataset
from pipeline.search.records import EndState
from pipeline.study.reporter import best_so_far, figure, task

COLOURS: dict[EndState, str] = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


class LiveTable:
    """A table of the running trials, the baselines, the best trial so far and a progress bar."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: dict[int, tuple[float, tuple[str, ...]]] = {}  # trial number to best value and cells
        self._baselines: dict[str, float] = {}
        self._best: tuple[int, float] | None = None
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None:
        self._metric = config.objective.metric
        self._sign = 1 if config.objective.direction == "maximize" else -1
        self._console.print(f"[bold]{config.name}[/]: {escape(task(config, data))}, {slots} at a time")
        self._trials = self._bar.add_task("trials", total=config.budget.trials, completed=ended)
        self._draw()

    def best(self, number: int, value: float) -> None:
        self._best = (number, value)
        self._draw()

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._baselines[name] = metrics[f"val/{self._metric}"]
        self._draw()

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        value = metrics[f"val/{self._metric}"]
        before = self._running[number][0] if number in self._running else math.nan
        best = value if self._better(value, before) else before
        figures = [figure(x) for x in (metrics["train/loss"], value, best)]
        cells = (str(number), f"{epoch}/{epochs}", *figures, f"{metrics['time/epoch_s']:.1f}")
        self._running[number] = (best, cells)
        self._draw()

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        self._running.pop(number, None)
        if state == "COMPLETE" and value is not None and self._better(value, self._best[1] if self._best else math.nan):
            self._best = (number, value)
        shown = f"{self._metric} {figure(value)}" if value is not None else ""
        line = f"trial {number:4d}  [{COLOURS[state]}]{state:8s}[/] {shown}  [dim]{escape(reason)}[/]"
        self._console.print(line, highlight=False)
        self._bar.update(self._trials, completed=ended)
        self._draw()

    def note(self, text: str) -> None:
        self._console.print(f"[dim]note: {escape(text)}[/]", highlight=False)

    def _better(self, value: float, best: float) -> bool:
        return math.isnan(best) or self._sign * value > self._sign * best

    def _draw(self) -> None:
        headings = ("trial", "epoch", "train loss", self._metric, "best", "s/epoch")
        rows = [cells for _, (_, cells) in sorted(self._running.items())]
        parts: list[RenderableType] = [make_table(headings, rows, right=headings)]
        if self._baselines:
            shown = ", ".join(f"{name} {figure(value)}" for name, value in self._baselines.items())
            parts.append(f"baselines ({self._metric}): {shown}")
        if self._best is not None:
            number, value = self._best
            parts.append(best_so_far(number, self._metric, value))
        self._live.update(Group(*parts, self._bar))
