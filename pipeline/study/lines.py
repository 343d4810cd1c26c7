"""A reporter that prints lines, and the words that every reporter shows of a trial. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pipeline.config import StudyConfig, TrialConfig
from pipeline.config.choices import METRICS
from pipeline.search.records import EndedTrial, EndState, ranked
from pipeline.study.pace import Pace, clock
from pipeline.study.reporter import figure, say, shown_value, task

if TYPE_CHECKING:
    from pipeline.data import Dataset


class PlainLines:
    """One line per event, for logs, pipes and notebooks; with ``verbose`` all settings and figures on it."""

    def __init__(self, verbose: bool = False, write: Callable[[str], None] | None = None) -> None:
        self._verbose, self._write = verbose, write or say
        self._names: dict[int, str] = {}

    def begun(
        self, config: StudyConfig, data: Dataset, ended: Sequence[EndedTrial], slots: int, earlier: float
    ) -> None:
        self._config, self._metric, self._total = config, config.objective.metric, config.budget.trials
        self._pace = Pace(config, len(data.train), ended, slots, earlier)
        self._write(f"study {config.name}: {task(config, data)}")
        self._write(budget(config, slots))
        before = f", {clock(earlier)} in earlier sessions" if earlier else ""
        if ended:
            self._write(f"{len(ended)} of {self._total} trials ended{before}")
        for best in ranked(ended, config.objective.direction)[:1]:
            self._write(best_so_far(config, best.summary.metrics[f"val/{self._metric}"], str(best.number)))

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._write(f"baseline {name}: {measured(self._metric, metrics[f'val/{self._metric}'])}")

    def opened(self, number: int, trial: TrialConfig, epoch: int) -> None:
        self._pace.opened(number, epoch)
        self._names[number] = trial_name(trial)
        resumed = f"resumed after epoch {epoch}: " if epoch else ""
        self._write(f"trial {self._names[number]:>4s}  {resumed}{settings(self._config, trial, self._verbose)}")

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self._pace.epoch(number, epoch, metrics["time/epoch_s"])
        self._write(
            f"trial {self._names[number]:>4s}  epoch {epoch}/{epochs}  {figures(self._config, metrics, self._verbose)}"
        )

    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None:
        self._pace.trial(number, ended)
        best = f", best {measured(self._metric, value)}" if value is not None else ""
        why = f" ({reason})" if reason else ""
        name = self._names.get(number, str(number))
        self._write(f"trial {name:>4s}  {state}{best}{why}  [{ended}/{self._total}]  {self._pace}")

    def note(self, text: str) -> None:
        self._write(f"note: {text}")


def trial_name(trial: TrialConfig) -> str:
    """A trial's number; of a replicate with its seed: ``7 seed 3``."""
    return f"{trial.number} seed {trial.replicate}" if trial.replicate else str(trial.number)


def best_so_far(config: StudyConfig, value: float, name: str) -> str:
    return f"best so far: trial {name}, {measured(config.objective.metric, value)}"


def measured(metric: str, value: float | None) -> str:
    """A metric's name and value, with its unit if that is dB: ``psnr 18.12 dB``. Empty for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{metric} {METRICS[metric].shown(value)}"


def budget(config: StudyConfig, slots: int) -> str:
    """How much is trained, and by how many workers."""
    trials, epochs, most = config.budget.trials, config.budget.epochs, config.budget.concurrency
    workers = "1 worker" if slots == 1 else f"{slots} workers"
    return f"{trials} trials of at most {epochs} epochs; {workers}, at most {most} open trials"


def settings(config: StudyConfig, trial: TrialConfig, every: bool = False) -> str:
    """What a trial has of the searched keys; where none is searched, or ``every`` key is asked for: of all keys."""
    searched, params = config.space.searched(), trial.params()
    shown = {key: value for key, value in params.items() if every or not searched or key in searched}
    return ", ".join(f"{key} {shown_value(value)}" for key, value in shown.items())


def figures(config: StudyConfig, metrics: dict[str, float], every: bool = False) -> str:
    """An epoch's loss, objective and time; with ``every`` all metrics."""
    names = [f"val/{name}" for name in METRICS if every or name == config.objective.metric]
    shown = [measured(name.removeprefix("val/"), metrics[name]) for name in names if name in metrics]
    return f"loss {figure(metrics['train/loss']):8s} {', '.join(shown)}  {metrics['time/epoch_s']:.1f} s"
