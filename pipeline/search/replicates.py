"""The replicates of a study's trials: their configurations trained again with other seeds.

Each is an attribute of the study in Optuna's database, written when it ends, with the digest of its weights. Comes in:
a study's `Search`. Goes out: replicates as `EndedTrial`, and `Replicates`, which is to the driver what a `Search` is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import optuna

from pipeline.search.ask_tell import OpenTrial, Search
from pipeline.search.records import EndedTrial, EndState, StoredTrial, Summary, ended

T = TypeVar("T")
PREFIX = "replicate."  # of the attributes


@dataclass(frozen=True, order=True)
class Replicate:
    """One training of a trial's configuration; ``seed`` counts from 1, since the trial itself is 0."""

    trial: int
    epochs: int
    seed: int

    @property
    def attribute(self) -> str:
        return f"{PREFIX}{self.trial}.{self.epochs}.{self.seed}"


def stored_replicates(search: Search, records: Sequence[StoredTrial] | None = None) -> dict[Replicate, EndedTrial]:
    """Every replicate that has ended, by trial, epochs and seed; as an `EndedTrial` it has its trial's number.

    ``records`` are those of ``search`` where they were read already.
    """
    entries = {_key(name): entry for name, entry in search.attributes().items() if name.startswith(PREFIX)}
    if not entries:  # as of most studies, whose trials need not be read then
        return {}
    trials = {trial.number: trial for trial in ended(search.records() if records is None else records)}
    return {key: _ended(key.trial, trials[key.trial], entries[key]) for key in sorted(entries) if key.trial in trials}


class Replicates(Search):
    """Replicates as a search of their own: number n is the n-th of ``keys``. The study's lock and memory are its own.

    They have neither sampler nor pruner: what a replicate is depends on its key alone, so they may end in any order.
    """

    elapsed = 0.0  # the study's own counts its trials only

    def __init__(self, study: Search, keys: Sequence[Replicate]) -> None:
        super().__init__(study.config, study.study, study.patience)
        self.keys = tuple(keys)
        self._base, self._asked = study, 0
        self._trials_of = {trial.number: trial for trial in ended(study.records())}

    @property
    def held(self) -> bool:
        return self._base.held

    def attributes(self) -> dict[str, Any]:
        return self._base.attributes()

    def write(self, write: Callable[[], T]) -> T:
        return self._base.write(write)

    def before_write(self) -> None:
        self._base.before_write()

    def records(self) -> list[StoredTrial]:
        """Those that have ended."""
        return [self.ended(number) for number, key in enumerate(self.keys) if key.attribute in self.attributes()]

    def ended(self, number: int) -> EndedTrial:
        key = self.keys[number]
        return _ended(number, self._trials_of[key.trial], self.attributes()[key.attribute])

    def told(self) -> int:
        return sum(key.attribute in self.attributes() for key in self.keys)

    def ask(self) -> OpenTrial:
        """Open the next one."""
        return self.reopen(self._asked)

    def reopen(self, number: int) -> OpenTrial:
        self._asked = number + 1
        alone = optuna.create_study(direction=self.config.objective.direction, pruner=optuna.pruners.NopPruner())
        return OpenTrial(number, self._trials_of[self.keys[number].trial].values, alone.ask())

    def tell(self, trial: OpenTrial, state: EndState, value: float | None, summary: Summary) -> EndedTrial:
        entry = {"state": state, "value": value, "summary": asdict(summary), "ended": datetime.now(UTC).isoformat()}
        entry["reported"] = {str(epoch): reported for epoch, reported in trial.reported.items()}
        self.set_attribute(self.keys[trial.number].attribute, entry)
        return self.ended(trial.number)

    def adopt(self, number: int, run_id: str) -> None:
        self._change(number, run_id=run_id)

    def replace_weights(self, number: int, sha256: str) -> None:
        self._change(number, weights_sha256=sha256)

    def _change(self, number: int, **changes: str) -> None:
        name = self.keys[number].attribute
        entry = self.attributes()[name]
        self.set_attribute(name, entry | {"summary": entry["summary"] | changes})


def _key(attribute: str) -> Replicate:
    return Replicate(*map(int, attribute.removeprefix(PREFIX).split(".")))


def _ended(number: int, of: EndedTrial, entry: Mapping[str, Any]) -> EndedTrial:
    reported = {int(epoch): value for epoch, value in entry["reported"].items()}
    summary, when = Summary(**entry["summary"]), datetime.fromisoformat(entry["ended"])
    return EndedTrial(number, of.params, of.values, when, when, entry["state"], entry["value"], summary, reported)
