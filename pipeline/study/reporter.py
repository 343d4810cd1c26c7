"""What a running study reports, and a reporter that prints lines. Imports no torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

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
        print(f"study {config.name}: {task(config, data)}")
        state = f"{ended} of {self._total} trials ended" if ended else f"trials: {self._total}"
        print(f"{state}, epochs each: {config.budget.epochs}, at a time: {slots}", flush=True)

    def best(self, number: int, value: float) -> None:
        print(best_so_far(number, self._metric, value), flush=True)

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        print(f"baseline {name}: {self._metric} {figure(metrics[f'val/{self._metric}'])}", flush=True)

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        loss, value = figure(metrics["train/loss"]), figure(metrics[f"val/{self._metric}"])
        figures = f"loss {loss:8s} {self._metric} {value:8s} {metrics['time/epoch_s']:.1f} s"
        print(f"trial {number:4d}  epoch {epoch}/{epochs}  {figures}", flush=True)

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        best = f", best {self._metric} {figure(value)}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        print(f"trial {number:4d}  {state}{best}{why}  [{ended}/{self._total}]", flush=True)

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)


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
