"""The live table of a running study: redrawn in place, with one line per ended trial above it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.cli.printing import console, make_table
from pipeline.config import StudyConfig
from pipeline.data import Dataset
from pipeline.search.records import EndState
from pipeline.study.reporter import PlainLines, Reporter, best_so_far, figure, printable, task

COLOURS: dict[EndState, str] = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """What shows the progress of a run: a table redrawn in place in a terminal, else plain lines."""
    terminal = console()
    if terminal.is_terminal:
        with Live(console=terminal, refresh_per_second=4, transient=True) as live:
            yield LiveTable(live)
    else:
        yield PlainLines()


class LiveTable:
    """A table of the running trials, the baselines, the best trial so far and a progress bar."""

    def __init__(self, live: Live) -> None:
        self._live, self._print = live, live.console.print
        self._running: dict[int, tuple[float, tuple[str, ...]]] = {}  # trial number to best value and cells
        self._baselines: dict[str, float] = {}
        self._complete: dict[int, float] = {}  # trial number to value
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=live.console)

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None:
        self._metric = config.objective.metric
        self._best_of = max if config.objective.direction == "maximize" else min
        self._print(f"[bold]{config.name}[/]: {escape(printable(task(config, data)))}, {slots} at a time")
        self._trials = self._bar.add_task("trials", total=config.budget.trials, completed=ended)
        self._draw()

    def best(self, number: int, value: float) -> None:
        self._complete[number] = value
        self._draw()

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._baselines[name] = metrics[f"val/{self._metric}"]
        self._draw()

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        value = metrics[f"val/{self._metric}"]
        before, _ = self._running.get(number, (math.nan, ()))
        best = self._best_of((x for x in (before, value) if not math.isnan(x)), default=math.nan)
        figures = [figure(x) for x in (metrics["train/loss"], value, best)]
        cells = (str(number), f"{epoch}/{epochs}", *figures, f"{metrics['time/epoch_s']:.1f}")
        self._running[number] = (best, cells)
        self._draw()

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        self._running.pop(number, None)
        if state == "COMPLETE" and value is not None:
            self._complete[number] = value
        shown = f"{self._metric} {figure(value)}" if value is not None else ""
        line = f"trial {number:4d}  [{COLOURS[state]}]{state:8s}[/] {shown}  [dim]{escape(printable(reason))}[/]"
        self._print(line, highlight=False)
        self._bar.update(self._trials, completed=ended)
        self._draw()

    def note(self, text: str) -> None:
        self._print(f"[dim]note: {escape(printable(text))}[/]", highlight=False)

    def _draw(self) -> None:
        headings = ("trial", "epoch", "train loss", self._metric, "best", "s/epoch")
        rows = [cells for _, (_, cells) in sorted(self._running.items())]
        parts: list[RenderableType] = [make_table(headings, rows, right=headings)]
        if self._baselines:
            shown = ", ".join(f"{name} {figure(value)}" for name, value in self._baselines.items())
            parts.append(escape(f"baselines ({self._metric}): {shown}"))
        if self._complete:
            number = self._best_of(self._complete, key=self._complete.__getitem__)
            parts.append(best_so_far(number, self._metric, self._complete[number]))
        self._live.update(Group(*parts, self._bar))
