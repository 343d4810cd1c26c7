"""Trials as Optuna's database has them: running or ended. Plain frozen objects; may not import optuna."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pipeline.config import Value
from pipeline.errors import NotFoundError

EndState = Literal["COMPLETE", "PRUNED", "FAIL"]


@dataclass(frozen=True)
class Summary:
    """What is stored of an ended trial besides its state and value."""

    run_id: str
    epochs: int = 0
    best_epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the best epoch, under their MLflow names
    cost: dict[str, int] = field(default_factory=dict)
    duration_s: float = 0.0  # of training alone
    checkpoint: str = ""  # file name of the best epoch's
    sha256: str = ""
    weights_sha256: str = ""  # of the best epoch's weights file, which every stored copy must match
    reason: str = ""


@dataclass(frozen=True)
class RunningTrial:
    """A trial that was asked and has not ended."""

    number: int
    params: dict[str, Value]  # the searched ones, under their own names ("lr" also where it is split)
    values: dict[str, Value]  # every key of [model] and [train]
    started: datetime
    state: Literal["RUNNING"] = "RUNNING"


@dataclass(frozen=True)
class EndedTrial:
    """A trial that has ended."""

    number: int
    params: dict[str, Value]  # as in `RunningTrial`
    values: dict[str, Value]
    started: datetime
    ended: datetime
    state: EndState
    value: float | None  # the objective of its best epoch, of complete trials only
    summary: Summary
    reported: dict[int, float]  # objective by epoch


StoredTrial = RunningTrial | EndedTrial


def ended(trials: Iterable[StoredTrial]) -> list[EndedTrial]:
    """The trials that have ended, in the order given."""
    return [trial for trial in trials if isinstance(trial, EndedTrial)]


def numbered(trials: Sequence[StoredTrial], number: int, study: str) -> StoredTrial:
    """The trial with this number. Raises NotFoundError if the study has none."""
    if not 0 <= number < len(trials):
        raise NotFoundError(f"study {study} has no trial {number}; it has {len(trials)} trials, from 0")
    return trials[number]


def ranked(trials: Iterable[StoredTrial], direction: str) -> list[EndedTrial]:
    """Complete trials, the best first; ties by number."""
    complete = [(trial.value, trial) for trial in ended(trials) if trial.value is not None]
    sign = -1 if direction == "maximize" else 1
    return [trial for _, trial in sorted(complete, key=lambda pair: (sign * pair[0], pair[1].number))]
