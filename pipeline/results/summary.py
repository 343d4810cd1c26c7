"""What the records of a study say: its trials ranked beside the baselines, counts, and the answer in three sentences.

Comes in: a `Search`, read once. Goes out: a `StudySummary`, from which every table, page, note and picture is made, so
that they agree. Imports no torch, no pandas and no MLflow.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import mean, median, stdev
from typing import TYPE_CHECKING

from pipeline.config import StudyConfig, Value
from pipeline.config.choices import METRICS, Metric
from pipeline.evaluation.intervals import Interval, t_interval
from pipeline.search.records import EndedTrial, StoredTrial, ended, ranked
from pipeline.study.reporter import shown_value

if TYPE_CHECKING:
    from pipeline.search.ask_tell import Search
    from pipeline.search.replicates import Replicate

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}  # as people read them

# Other programs enlarge with another kernel (a = -0.5), which gives other figures.
LABELS = {"bicubic": "bicubic (a = -0.75)"}


@dataclass(frozen=True)
class Baseline:
    """A baseline and its ``val/…`` metrics."""

    name: str
    metrics: Mapping[str, float]

    @property
    def label(self) -> str:
        """Its name in tables for people."""
        return LABELS.get(self.name, self.name)


@dataclass(frozen=True)
class Choice:
    """One value of a searched key: of how many complete trials, and their objectives."""

    value: Value
    trials: int
    median: float
    mean: float
    sd: float | None  # None of one trial
    best: float


@dataclass(frozen=True)
class Configuration:
    """A trial's configuration, trained with several other seeds."""

    trial: EndedTrial
    epochs: int
    seeds: Mapping[int, EndedTrial]  # the complete replicates by seed
    failed: int  # replicates that are not complete
    interval: Interval  # Student's t, of the mean objective over seeds
    sd: float  # between seeds
    median: int  # the seed whose objective is in the middle; of an even number the worse of the two there

    @property
    def counted(self) -> str:
        """How many seeds are complete, and of how many if some are not."""
        return f"{len(self.seeds)} of {len(self.seeds) + self.failed}" if self.failed else str(len(self.seeds))


@dataclass(frozen=True)
class StudySummary:
    """A study as its records have it. What is derived from them is computed once."""

    config: StudyConfig
    records: list[StoredTrial]
    baselines: Mapping[str, Mapping[str, float]]  # ``val/…`` metrics by name
    facts: Mapping[str, str]  # digest of the data, device
    replicates: Mapping[Replicate, EndedTrial] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def metric(self) -> str:
        """The name of the metric that ranks the trials, such as ``psnr``."""
        return self.config.objective.metric

    @property
    def objective(self) -> str:
        """The same under its recorded name, such as ``val/psnr``."""
        return f"val/{self.metric}"

    @property
    def image_metric(self) -> str:
        """The metric that orders single images: the objective, unless that only says yes or no of an image."""
        return "psnr" if self.form.needs_judge else self.metric

    @property
    def form(self) -> Metric:
        """Unit, decimals and direction of the objective."""
        return METRICS[self.metric]

    @property
    def sign(self) -> int:
        """1 where a higher objective is better, else -1."""
        return 1 if self.config.objective.direction == "maximize" else -1

    @cached_property
    def ended(self) -> list[EndedTrial]:
        return ended(self.records)

    @cached_property
    def configurations(self) -> dict[int, Configuration]:
        """The replicated configurations by their trial's number, the best mean first.

        They have at least two complete replicates; of replicates of several lengths the longest count.
        """
        groups: dict[int, dict[int, dict[int, EndedTrial]]] = {}
        for key, ended_one in self.replicates.items():
            groups.setdefault(key.trial, {}).setdefault(key.epochs, {})[key.seed] = ended_one
        trials, found = {trial.number: trial for trial in self.ended}, []
        for number, lengths in groups.items():
            epochs = max(lengths)
            complete = {seed: each for seed, each in sorted(lengths[epochs].items()) if each.value is not None}
            if len(complete) > 1:
                values = {seed: self.value(each) for seed, each in complete.items()}
                order = sorted(values, key=lambda seed: self.sign * values[seed])
                found.append(
                    Configuration(
                        trial=trials[number],
                        epochs=epochs,
                        seeds=complete,
                        failed=len(lengths[epochs]) - len(complete),
                        interval=t_interval(list(values.values())),
                        sd=stdev(values.values()),
                        median=order[(len(order) - 1) // 2],
                    )
                )
        found.sort(key=lambda each: (-self.sign * each.interval.mean, each.trial.number))
        return {each.trial.number: each for each in found}

    @cached_property
    def ranked(self) -> list[EndedTrial]:
        """Complete trials, the best first: replicated ones by their mean, then the others; ties by number.

        A single value, chosen as the best of many, is no match for a mean.
        """
        replicated = [each.trial for each in self.configurations.values()]
        return replicated + [
            trial
            for trial in ranked(self.records, self.config.objective.direction)
            if trial.number not in self.configurations
        ]

    @property
    def best(self) -> EndedTrial | None:
        return next(iter(self.ranked), None)

    @cached_property
    def standing(self) -> list[EndedTrial | Baseline]:
        """Complete trials as they are ranked, and each baseline after the last trial that is better than it."""
        entries: list[EndedTrial | Baseline] = [*self.ranked]
        baselines = [Baseline(name, metrics) for name, metrics in self.baselines.items()]
        for baseline in sorted(baselines, key=lambda each: self.sign * self.merit(each)):
            better = [self.sign * self.merit(entry) > self.sign * self.merit(baseline) for entry in entries]
            entries.insert(max((place + 1 for place, is_better in enumerate(better) if is_better), default=0), baseline)
        return entries

    @cached_property
    def best_baseline(self) -> Baseline | None:
        return next((entry for entry in self.standing if isinstance(entry, Baseline)), None)

    def value(self, entry: EndedTrial | Baseline) -> float:
        """The objective of a trial, at its best epoch, or of a baseline."""
        metrics = entry.metrics if isinstance(entry, Baseline) else entry.summary.metrics
        return metrics[self.objective]

    def merit(self, entry: EndedTrial | Baseline) -> float:
        """What an entry is ranked by: the mean of its replicates, else its objective."""
        replicated = self.configurations.get(entry.number) if isinstance(entry, EndedTrial) else None
        return self.value(entry) if replicated is None else replicated.interval.mean

    def gap(self, value: float) -> float | None:
        """How much better an objective is than the best baseline's, in the objective's unit; None without baselines."""
        best = self.best_baseline
        return None if best is None else self.sign * (value - self.value(best))

    def lead(self, value: float) -> str:
        """The gap as text: ``1.22 dB better``. Empty without baselines."""
        gap = self.gap(value)
        return "" if gap is None else f"{self.form.shown(abs(gap))} {'better' if gap > 0 else 'worse'}"

    @property
    def beating(self) -> dict[str, int]:
        """How many complete trials are better than each baseline."""
        values = [self.sign * self.merit(trial) for trial in self.ranked]
        return {
            name: sum(value > self.sign * metrics[self.objective] for value in values)
            for name, metrics in self.baselines.items()
        }

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are ``complete``, ``pruned``, ``failed`` and ``unfinished``."""
        states = Counter[str](record.state for record in self.records)
        return {name: states[state] for state, name in STATES.items()}

    def reasons(self, state: str) -> dict[str, int]:
        """Why trials ended as PRUNED or FAIL: the number of trials by reason, the most frequent first."""
        return dict(Counter(trial.summary.reason for trial in self.ended if trial.state == state).most_common())

    def choices(self, key: str) -> list[Choice]:
        """The values that complete trials have of a searched key, the best median first."""
        found: dict[Value, list[float]] = {}
        for trial in self.ranked:
            if key in trial.params:
                found.setdefault(trial.params[key], []).append(self.value(trial))
        best = max if self.sign > 0 else min
        choices = [
            Choice(value, len(some), median(some), mean(some), stdev(some) if len(some) > 1 else None, best(some))
            for value, some in found.items()
        ]
        return sorted(choices, key=lambda choice: -self.sign * choice.median)

    def commands(self, file: str, overrides: Sequence[str]) -> list[str]:
        """The commands that make the study again from its file, and train its best trial again."""
        changes = "".join(f" --set {shlex.quote(override)}" for override in overrides)
        lines = [f"study run {file} --name {self.name} --trials {self.config.budget.trials}{changes}"]
        return lines + ([f"study reproduce {self.name}/{self.best.number}"] if self.best else [])

    def answer(self) -> list[str]:
        """The result in three sentences, or one where there is none. Plain text, also valid as Markdown."""
        return list(self._sentences())

    def _sentences(self) -> Iterator[str]:
        best, rival = self.best, self.best_baseline
        if best is None:
            yield f"No trial is complete yet; {len(self.ended)} of {self.config.budget.trials} have ended."
            return
        value, form, replicated = self.merit(best), self.form, self.configurations.get(best.number)
        text = f"Trial {best.number} is best: {self.metric} {form.shown(value)} "
        if replicated is None:
            text += f"on validation, at epoch {best.summary.best_epoch} of {best.summary.epochs}"
        else:
            text += f"{replicated.interval.shown(form.decimals)} on validation, the mean of {replicated.counted} "
            text += f"seeds with its 95 % interval, of {replicated.epochs} epochs"
        if rival is not None:
            text += f"; that is {self.lead(value)} than the best baseline, {rival.name}"
        yield text + "."
        settings = ", ".join(f"{key} {shown_value(value)}" for key, value in best.params.items())
        size = f"{best.summary.cost['parameters']:,} parameters" if "parameters" in best.summary.cost else ""
        yield f"It has {', '.join(part for part in (settings, size) if part) or 'no searched key'}."
        text = f"{self.counts['complete']} of {len(self.ended)} trials are complete"
        if rival is not None:
            text += f", and {self.beating[rival.name]} of these beat {rival.name}"
        if replicated is None:
            text += "; the figures are of one seed, on the images that chose the best trial, so they flatter it"
        yield f"{text}."


def summarise(search: Search) -> StudySummary:
    """Read a study once."""
    from pipeline.search.replicates import stored_replicates

    records = search.records()
    replicates = stored_replicates(search, records)
    return StudySummary(search.config, records, search.baselines, search.facts, replicates)
