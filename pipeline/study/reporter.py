"""What a running study reports, and a reporter that prints lines. Imports no torch."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import StudyError
from pipeline.home import shown

if TYPE_CHECKING:
    from pipeline.config import StudyConfig
    from pipeline.data import Dataset
    from pipeline.search.records import EndState


class Reporter(Protocol):
    """Receives the events of a running study as they happen."""

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None: ...
    def best(self, number: int, value: float) -> None: ...
    def baseline(self, name: str, metrics: dict[str, float]) -> None: ...
    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None: ...
    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None: ...
    def note(self, text: str) -> None: ...


class PlainLines:
    """One line per event, for logs, pipes and notebooks."""

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None:
        self._metric, self._total = config.objective.metric, config.budget.trials
        say(f"study {config.name}: {task(config, data)}")
        state = f"{ended} of {self._total} trials ended" if ended else f"trials: {self._total}"
        say(f"{state}, epochs each: {config.budget.epochs}, at a time: {slots}")

    def best(self, number: int, value: float) -> None:
        say(best_so_far(number, self._metric, value))

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        say(f"baseline {name}: {self._metric} {figure(metrics[f'val/{self._metric}'])}")

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        loss, value = figure(metrics["train/loss"]), figure(metrics[f"val/{self._metric}"])
        figures = f"loss {loss:8s} {self._metric} {value:8s} {metrics['time/epoch_s']:.1f} s"
        say(f"trial {number:4d}  epoch {epoch}/{epochs}  {figures}")

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        best = f", best {self._metric} {figure(value)}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        say(f"trial {number:4d}  {state}{best}{why}  [{ended}/{self._total}]")

    def note(self, text: str) -> None:
        say(f"note: {text}")


def say(text: str) -> None:
    """Print a line on standard output, as `printable` text. Raises as `standard_output`."""
    with standard_output():
        print(printable(text), flush=True)


@contextmanager
def standard_output() -> Iterator[None]:
    """Standard output that cannot be written is a StudyError; that a pipe's reader has closed it a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer would fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StudyError(f"standard output: {error.strerror}") from None


def printable(text: str) -> str:
    """A text as a terminal may get it: without passwords, and with control characters escaped."""
    text = shown(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def figure(value: float | None) -> str:
    """A number with four significant digits; empty for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def task(config: StudyConfig, data: Dataset) -> str:
    """What a study restores: degradation, data set and sizes of its splits."""
    return f"{config.degrade.kind} on {data.name} ({split_sizes(data)})"


def split_sizes(data: Dataset) -> str:
    return ", ".join(f"{size:,} {split}" for split, size in data.sizes.items())


def best_so_far(number: int, metric: str, value: float) -> str:
    return f"best so far: trial {number}, {metric} {figure(value)}"
