"""What a user sees while a study runs: a live table in a terminal, plain lines elsewhere.

Comes in: the driver's reports. Goes out: text on standard output.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline.config import StudyConfig
from pipeline.data import Dataset
from pipeline.study.reporter import figure


@dataclass
class _Row:
    epoch: int = 0
    epochs: int = 0
    loss: float = math.nan
    value: float = math.nan
    best: float = math.nan
    seconds: float = math.nan
    since: float = field(default_factory=time.monotonic)


class LiveTable:
    """A table of the trials under way, the best so far and a bar, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[int, _Row] = {}
        self._baselines: dict[str, float] = {}
        self._best: tuple[int, float] | None = None
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task: TaskID | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._metric, self._higher = "psnr", True

    def __enter__(self) -> LiveTable:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None:
        self._metric, self._higher = config.objective.metric, config.objective.direction == "maximize"
        sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
        self._console.print(
            f"[bold]{config.name}[/]: {config.degrade.kind} on {escape(data.name)} ({sizes}), {slots} at a time"
        )
        self._task = self._bar.add_task("trials", total=config.budget.trials, completed=ended)
        self._draw()

    def best(self, number: int, value: float) -> None:
        self._best = (number, value)
        self._draw()

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._baselines[name] = metrics[f"val/{self._metric}"]
        self._draw()

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        row = self._rows.setdefault(number, _Row())
        row.epoch, row.epochs = epoch, epochs
        row.loss, row.value, row.seconds = (
            metrics["train/loss"],
            metrics[f"val/{self._metric}"],
            metrics["time/epoch_s"],
        )
        if math.isnan(row.best) or self._better(row.value, row.best):
            row.best = row.value
        self._draw()

    def trial(self, number: int, state: str, value: float | None, reason: str, ended: int) -> None:
        self._rows.pop(number, None)
        if state == "COMPLETE" and value is not None and (self._best is None or self._better(value, self._best[1])):
            self._best = (number, value)
        colour = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}[state]
        shown = f"{self._metric} {figure(value)}" if value is not None else ""
        self._console.print(
            f"trial {number:4d}  [{colour}]{state:8s}[/] {shown}  [dim]{escape(reason)}[/]", highlight=False
        )
        if self._task is not None:
            self._bar.update(self._task, completed=ended)
        self._draw()

    def note(self, text: str) -> None:
        self._console.print(f"[dim]note: {escape(text)}[/]", highlight=False)

    def _better(self, a: float, b: float) -> bool:
        return a > b if self._higher else a < b

    def _draw(self) -> None:
        table = Table(box=None, pad_edge=False)
        for heading in ("trial", "epoch", "train loss", self._metric, "best", "s/epoch"):
            table.add_column(heading, justify="right")
        for number, row in sorted(self._rows.items()):
            cells = [figure(x) for x in (row.loss, row.value, row.best)]
            table.add_row(str(number), f"{row.epoch}/{row.epochs}", *cells, f"{row.seconds:.1f}")
        parts: list[Any] = [table]
        if self._baselines:
            shown = ", ".join(f"{name} {figure(value)}" for name, value in self._baselines.items())
            parts.append(f"baselines ({self._metric}): {shown}")
        if self._best is not None:
            parts.append(f"best so far: trial {self._best[0]}, {self._metric} {figure(self._best[1])}")
        self._live.update(Group(*parts, self._bar))
