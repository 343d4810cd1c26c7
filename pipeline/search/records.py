"""Trials as the database has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pipeline.config import Value

State = Literal["COMPLETE", "PRUNED", "FAIL", "RUNNING"]


@dataclass(frozen=True)
class Summary:
    """What is kept of an ended trial beside its state and value."""

    run_id: str
    epochs: int = 0
    best_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the best epoch, under their MLflow names
    cost: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0  # in legs
    checkpoint: str = ""  # file name of the best epoch's
    sha256: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Record:
    """A trial as the database has it."""

    number: int
    state: State
    value: float | None
    params: dict[str, Value]  # the searched ones, under their own names ("lr" also where it is split)
    values: dict[str, Value]  # every key of [model] and [train]
    started: datetime
    summary: Summary | None
    reported: dict[int, float] = field(default_factory=dict)  # objective by epoch; of ended trials


def ranked(records: Sequence[Record], direction: str) -> list[Record]:
    """Complete trials, the best first; equals in number order."""
    complete = [record for record in records if record.state == "COMPLETE" and record.value is not None]
    sign = -1 if direction == "maximize" else 1
    return sorted(complete, key=lambda record: (sign * (record.value or 0.0), record.number))
