"""Who is told what happens while a study runs."""

from __future__ import annotations

import math
from typing import Protocol

from pipeline.config import StudyConfig
from pipeline.data import Dataset
from pipeline.search.records import EndState


def figure(value: float | None, digits: int = 4) -> str:
    """A number for people: four significant digits, no exponent where none is needed."""
    return "" if value is None or math.isnan(value) else f"{value:.{digits}g}"


class PlainLines:
    """One line an event; for logs, pipes and notebooks."""

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None:
        self._metric, self._total = config.objective.metric, config.budget.trials
        sizes = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
        print(f"study {config.name}: {config.degrade.kind} on {data.name} ({sizes})")
        state = f"{ended} of {self._total} trials ended" if ended else f"trials: {self._total}"
        print(f"{state}, epochs each: {config.budget.epochs}, at a time: {slots}", flush=True)

    def best(self, number: int, value: float) -> None:
        print(f"best so far: trial {number}, {self._metric} {figure(value)}", flush=True)

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        print(f"baseline {name}: {self._metric} {figure(metrics[f'val/{self._metric}'])}", flush=True)

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        value = figure(metrics[f"val/{self._metric}"])
        loss, seconds = figure(metrics["train/loss"]), metrics["time/epoch_s"]
        line = f"trial {number:4d}  epoch {epoch}/{epochs}  loss {loss:8s} {self._metric} {value:8s} {seconds:.1f} s"
        print(line, flush=True)

    def trial(self, number: int, state: str, value: float | None, reason: str, ended: int) -> None:
        best = f", best {self._metric} {figure(value)}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        print(f"trial {number:4d}  {state}{best}{why}  [{ended}/{self._total}]", flush=True)

    def note(self, text: str) -> None:
        print(f"note: {text}", flush=True)


class Reporter(Protocol):
    """Told what happens, as it happens; what the user sees is not the driver's affair."""

    def begun(self, config: StudyConfig, data: Dataset, ended: int, slots: int) -> None: ...
    def best(self, number: int, value: float) -> None: ...
    def baseline(self, name: str, metrics: dict[str, float]) -> None: ...
    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None: ...
    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None: ...
    def note(self, text: str) -> None: ...
