"""The live table of a running study: redrawn in place, with one line per ended trial above it."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline.cli.printing import console, make_table
from pipeline.config import StudyConfig, TrialConfig
from pipeline.config.choices import METRICS
from pipeline.data import Dataset
from pipeline.search.records import EndedTrial, EndState, ranked
from pipeline.study.lines import PlainLines, best_so_far, budget, figures, measured, settings, trial_name
from pipeline.study.pace import Pace
from pipeline.study.reporter import Reporter, figure, printable, task

COLOURS: dict[EndState, str] = {"COMPLETE": "green", "PRUNED": "yellow", "FAIL": "red"}


@contextmanager
def open_reporter(quiet: bool = False, verbose: bool = False) -> Iterator[Reporter]:
    """What shows the progress of a run: a table redrawn in place in a terminal, else plain lines; quiet, nothing."""
    terminal = console()
    if quiet:
        yield PlainLines(write=lambda _: None)
    elif terminal.is_terminal:
        with Live(console=terminal, refresh_per_second=4, transient=True) as live:
            yield LiveTable(live, verbose)
    else:
        yield PlainLines(verbose)


class LiveTable:
    """A table of the open trials, the baselines, the best trial so far, a progress bar and the time left.

    Opened and ended trials stay on the screen as lines; with ``verbose`` every epoch as well.
    """

    def __init__(self, live: Live, verbose: bool = False) -> None:
        self._live, self._verbose = live, verbose
        self._open: dict[int, tuple[float, tuple[str, ...]]] = {}  # trial number to best value and cells
        self._baselines: dict[str, float] = {}
        self._names: dict[int, str] = {}  # of the trials by number
        self._best: tuple[float, str] | None = None  # value and the trial's name
        self._bar = Progress(TextColumn("trials"), BarColumn(), MofNCompleteColumn(), console=live.console)

    def begun(
        self, config: StudyConfig, data: Dataset, ended: Sequence[EndedTrial], slots: int, earlier: float
    ) -> None:
        self._config, self._metric = config, config.objective.metric
        self._best_of = max if config.objective.direction == "maximize" else min
        self._pace = Pace(config, len(data.train), ended, slots, earlier)
        for best in ranked(ended, config.objective.direction)[:1]:
            self._best = (best.summary.metrics[f"val/{self._metric}"], str(best.number))
        self._line(f"[bold]{config.name}[/]: {escape(printable(task(config, data)))}")
        self._line(budget(config, slots))
        self._trials = self._bar.add_task("trials", total=config.budget.trials, completed=len(ended))
        self._draw()

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._baselines[name] = metrics[f"val/{self._metric}"]
        self._draw()

    def opened(self, number: int, trial: TrialConfig, epoch: int) -> None:
        self._pace.opened(number, epoch)
        name = self._names[number] = trial_name(trial)
        self._open[number] = (math.nan, (name, f"{epoch}/{trial.epochs}", "", "", "", "", ""))
        self._line(f"trial {name:>4s}  {escape(printable(settings(self._config, trial, self._verbose)))}")
        self._draw()

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self._pace.epoch(number, epoch, metrics["time/epoch_s"])
        value, (before, _) = metrics[f"val/{self._metric}"], self._open[number]
        best = self._best_of((x for x in (before, value) if not math.isnan(x)), default=math.nan)
        shown = ["" if math.isnan(x) else METRICS[self._metric].shown(x, unit=False) for x in (value, best)]
        speed = (f"{metrics['time/epoch_s']:.1f}", f"{metrics['time/images_per_s']:,.0f}")
        cells = (self._names[number], f"{epoch}/{epochs}", figure(metrics["train/loss"]), *shown, *speed)
        self._open[number] = (best, cells)
        if self._verbose:
            self._line(
                f"trial {self._names[number]:>4s}  epoch {epoch}/{epochs}  {figures(self._config, metrics, True)}"
            )
        self._draw()

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        self._pace.trial(number, ended)
        self._open.pop(number, None)
        name = self._names.get(number, str(number))
        if state == "COMPLETE" and value is not None:
            self._best = self._best_of(self._best or (value, name), (value, name), key=lambda pair: pair[0])
        shown, why = measured(self._metric, value), escape(printable(reason))
        self._line(f"trial {name:>4s}  [{COLOURS[state]}]{state:8s}[/] {shown}  [dim]{why}[/]")
        self._bar.update(self._trials, completed=ended)
        self._draw()

    def note(self, text: str) -> None:
        self._line(f"[dim]note: {escape(printable(text))}[/]")

    def _line(self, markup: str) -> None:
        self._live.console.print(markup, highlight=False)

    def _draw(self) -> None:
        """Draw what has changed. Only the line of the time changes by itself, which keeps the number of lines."""
        headings = ("trial", "epoch", "train loss", self._metric, "best", "s/epoch", "images/s")
        rows = [cells for _, (_, cells) in sorted(self._open.items())]
        parts: list[RenderableType] = [make_table(headings, rows, right=headings)]
        if self._baselines:
            parts.append(escape("baselines: " + ", ".join(map(self._baseline, self._baselines))))
        if self._best is not None:
            parts.append(best_so_far(self._config, *self._best))
        self._live.update(Group(*parts, self._bar, self))

    def __rich__(self) -> RenderableType:
        """The line of the time, drawn several times per second by a thread of its own."""
        return str(self._pace)

    def _baseline(self, name: str) -> str:
        return f"{name} {measured(self._metric, self._baselines[name])}"
