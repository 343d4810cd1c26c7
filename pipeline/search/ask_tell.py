"""One study in Optuna: ask a trial, report its epochs, tell its end.

Optuna's database is the authority on a study. Each trial is sampled on an in-memory *view* that is made by number and
never by time: trial n sees trials 0 … n-L as they ended and n-L+1 … n-1 as running, where L is the study's
``concurrency``. So what a trial is depends on the file and the seed, not on the number of workers or on kills.

The database is the record. A process that holds the study's lock is the only one that writes, so it reads the trials
and attributes once and then remembers what it wrote (`Search.hold`); all others read each time.
"""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar, cast

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from pipeline.config import ByKey, Choices, Fixed, Range, StudyConfig, Value
from pipeline.config.space import key_of
from pipeline.errors import RESUME, StudyError
from pipeline.patience import Patience
from pipeline.search import _optuna
from pipeline.search.database import database_errors
from pipeline.search.records import EndedTrial, EndState, RunningTrial, StoredTrial, Summary
from pipeline.search.samplers import build_pruner, build_sampler

T = TypeVar("T")
IMPORTANCES_FROM = 50  # ended trials: with fewer, PED-ANOVA compares a handful with all
MARK = "holder"  # the attribute that says who wrote to the study last
OptunaStudy = optuna.Study


class OpenTrial:
    """A trial that was asked and has not ended, with the view that decides about pruning it."""

    def __init__(self, number: int, values: dict[str, Value], trial: Trial) -> None:
        self.number = number
        self.values = values
        self.reported: dict[int, float] = {}
        self._trial = trial
        self._attrs_when_asked = _optuna.system_attrs(trial).keys()

    def report(self, epoch: int, value: float) -> bool:
        """Report an epoch's objective; whether the pruner ends the trial. Epochs come in order, each once."""
        self.reported[epoch] = value
        self._trial.report(value, epoch)
        return bool(self._trial.should_prune())

    def pruner_attrs(self) -> dict[str, Any]:
        """What the pruner wrote on the trial (rung values), which it needs to prune later trials."""
        attrs = _optuna.system_attrs(self._trial).items()
        return {key: value for key, value in attrs if key not in self._attrs_when_asked}


class _Attribute(Generic[T]):
    """A JSON value stored as a user attribute of the study; ``default`` until it is written."""

    def __init__(self, key: str, default: T) -> None:
        self._key, self._default = key, default

    def __get__(self, search: Search, _: type[Search]) -> T:
        return cast(T, search.attributes().get(self._key, self._default))

    def __set__(self, search: Search, value: T) -> None:
        search.set_attribute(self._key, value)


@dataclass
class _Trials:
    """A study's trials by number. The lists are shared by all views; they grow, and what is in them never changes."""

    ended: list[FrozenTrial]  # they end in number order
    asked: list[FrozenTrial]  # all, with their parameters only


class Search:
    """One study in Optuna's database. Its attributes are all that is stored of a study besides its trials.

    While the database is unreachable, every method and attribute waits for a bounded time. They raise StudyError where
    the database cannot be read or written. A request whose reply was lost is not done twice.
    """

    uid = _Attribute("uid", "")
    home = _Attribute[dict[str, str]]("home", {})  # id and path of the home that alone may change it
    created = _Attribute("created", "")  # ISO 8601, UTC
    experiment = _Attribute[str | None]("experiment", None)  # MLflow's id of its experiment
    facts = _Attribute[dict[str, str]]("facts", {})  # digest of the data, device, precision
    environment = _Attribute[dict[str, str]]("environment", {})  # versions, code and hardware when it was last run
    warm_start = _Attribute[dict[str, list[dict[str, Any]]]]("warm_start", {"taken": [], "left": []})  # never changes
    judge = _Attribute[str | None]("judge", None)  # sha256 of the judge that has a run
    baselines = _Attribute[dict[str, dict[str, float]]]("baselines", {})  # metrics of those that have a run
    elapsed = _Attribute("elapsed", 0.0)  # seconds that sessions had lasted when the last trial ended
    published = _Attribute[int | None]("summarised", None)  # how many trials had ended when the results were published
    refusals = _Attribute[list[dict[str, str]]]("refusals", [])  # candidates that were not promoted
    test_readings = _Attribute[list[dict[str, str]]]("test_readings", [])  # of the test split, by `promote`
    _adopted_runs = _Attribute[dict[str, str]]("adopted_runs", {})
    _replaced_weights = _Attribute[dict[str, str]]("replaced_weights", {})

    def __init__(self, config: StudyConfig, study: optuna.Study, patience: Patience) -> None:
        self.config = config
        self.study = study
        self.patience = patience
        self._ensure_lock: Callable[[], bool] | None = None
        self._lock_lost = False  # and taken again; whether another process had it is not known yet
        self._mutex = threading.Lock()  # of `before_write`, which the threads that write to MLflow call too
        self._mark = uuid.uuid4().hex  # stored before the first write under the lock, so that others see that it was
        self._trials: _Trials | None = None  # this and the next only while the lock is held
        self._attributes: dict[str, Any] | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the study's lock, and so remembers what it read and wrote."""
        return self._ensure_lock is not None

    def hold(self, ensure_lock: Callable[[], bool]) -> None:
        """From now on only this process writes to the study. What others write meanwhile is not noticed.

        Args:
            ensure_lock: called before every attempt to write; it takes the lock again if it was lost, and says so. If
                another process held the study in between, writing raises StudyError.
        """
        self._ensure_lock = ensure_lock

    @database_errors()
    def request(self, request: Callable[[], T]) -> T:
        """Send a request until the database answers."""
        return self.patience.call(request)

    def write(self, write: Callable[[], T]) -> T:
        """Send a write, which may be repeated."""

        def attempt() -> T:
            self.before_write()
            return write()

        return self.request(attempt)

    def before_write(self) -> None:
        """Take the lock again if it was lost; StudyError if another process has it, or wrote in between."""
        if self._ensure_lock is None:
            return
        with self._mutex:
            self._lock_lost |= self._ensure_lock()
            known = self.attributes()
            if self._lock_lost and self.study.user_attrs.get(MARK) not in (known.get(MARK), self._mark):
                raise StudyError(
                    f"the connection to Optuna's database was lost, and another process changed study "
                    f"{self.config.name!r} meanwhile; {RESUME}"
                )
            self._lock_lost = False
            if known.get(MARK) != self._mark:
                self.study.set_user_attr(MARK, self._mark)
                known[MARK] = self._mark

    def attributes(self) -> dict[str, Any]:
        """All user attributes of the study."""
        if self._attributes is not None:
            return self._attributes
        attributes = self.request(lambda: self.study.user_attrs)
        if self.held:
            self._attributes = attributes
        return attributes

    def set_attribute(self, key: str, value: Any) -> None:
        """Store a JSON value as a user attribute of the study."""
        if self.held and self.attributes().get(key) == value:
            return
        self.write(lambda: self.study.set_user_attr(key, value))
        if self.held:
            self.attributes()[key] = value

    def trials(self) -> list[FrozenTrial]:
        """All trials as Optuna has them; while the lock is held, running ones with their parameters only."""
        if self._trials is not None:
            return [*self._trials.ended, *self._trials.asked[len(self._trials.ended) :]]
        return self.request(lambda: self.study.get_trials(deepcopy=False))

    def _known(self) -> _Trials:
        """The trials, read from the database unless they are remembered."""
        if self._trials is not None:
            return self._trials
        trials = self.trials()
        ended = [trial for trial in trials if trial.state.is_finished()]
        if ended != trials[: len(ended)]:
            raise StudyError(f"a trial of study {self.config.name} was ended by another program, before earlier ones")
        known = _Trials(ended, [_optuna.as_asked(trial) for trial in trials])
        if self.held:
            self._trials = known
        return known

    def records(self) -> list[StoredTrial]:
        """All trials in number order."""
        changes = self._changes()
        return [self._record(trial, changes.get(str(trial.number), {})) for trial in self.trials()]

    def ended(self, number: int) -> EndedTrial:
        """A trial that has ended. Raises StudyError if it is running."""
        record = self._record(self.trials()[number], self._changes().get(str(number), {}))
        if isinstance(record, RunningTrial):
            raise StudyError(f"trial {number} has not ended")
        return record

    def told(self) -> int:
        """How many trials have ended; they end in number order, so the next one to end has this number."""
        return len(self._known().ended)

    def ask(self) -> OpenTrial:
        """Sample the next trial and store it, running and with all its parameters, in one write."""
        known = self._known()
        number = len(known.asked)
        view = self._view(number, known)
        study = self._study(view, build_sampler(self.config, number))
        first = [*self.config.enqueue, *(each["params"] for each in self.warm_start["taken"])]
        # Enqueued in the view only, which nobody else sees; the database gets the trial with all its parameters.
        if self.config.design is not None:
            study.enqueue_trial(self.config.design.parameters(number))
        elif number < len(first):
            study.enqueue_trial(self._parameters(first[number]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = study.ask()
            values = self.config.space.resolve(lambda name, dimension: _suggest(trial, name, dimension))
        asked = _optuna.in_storage(study, trial)
        added = _optuna.as_asked(asked)
        known.asked.append(self.write(lambda: _optuna.add_trial(self.study, added, number)))
        return OpenTrial(number, values, _optuna.writable(self._study(view), asked))

    def reopen(self, number: int) -> OpenTrial:
        """Open a trial that an earlier process asked; its epochs have to be reported again."""
        known = self._known()
        view = self._view(number, known)
        study = self._study(view)
        study.add_trial(known.asked[number])
        in_view = study.get_trials(deepcopy=False)[number]
        return OpenTrial(number, self._values(known.asked[number]), _optuna.writable(study, in_view))

    def tell(self, trial: OpenTrial, state: EndState, value: float | None, summary: Summary) -> EndedTrial:
        """End a trial. Its state is written last, after epochs, attributes and summary, so a kill loses nothing."""
        known = self._known()
        stored = known.asked[trial.number]
        for epoch, reported in trial.reported.items():
            self.write(partial(_optuna.report, self.study, stored, epoch, reported))
        for key, attr in trial.pruner_attrs().items():
            self.write(partial(_optuna.set_system_attr, self.study, stored, key, attr))
        self.write(lambda: _optuna.set_user_attr(self.study, stored, "summary", asdict(summary)))
        # The trial may have ended already, where only the reply was lost.
        end = partial(self.study.tell, trial.number, value, state=TrialState[state], skip_if_finished=True)
        known.ended.append(self.write(end))
        return self.ended(trial.number)

    def adopt(self, number: int, run_id: str) -> None:
        """Link an ended trial to a new run; its summary, which names the lost one, cannot be changed any more."""
        self._adopted_runs = self._adopted_runs | {str(number): run_id}

    def replace_weights(self, number: int, sha256: str) -> None:
        """Record the weights of an ended trial that was trained again and has others than its summary says."""
        self._replaced_weights = self._replaced_weights | {str(number): sha256}

    def _changes(self) -> dict[str, dict[str, str]]:
        """What holds in place of a summary's own fields, by trial: an ended trial cannot be changed any more."""
        fields = {"run_id": self._adopted_runs, "weights_sha256": self._replaced_weights}
        numbers = {number for values in fields.values() for number in values}
        return {n: {field: values[n] for field, values in fields.items() if n in values} for n in numbers}

    def importances(self) -> dict[str, float]:
        """The share (PED-ANOVA over complete trials) of each parameter in reaching the best tenth, most first.

        A parameter is a searched key, or a part of a split one, such as ``lr@sgd``. Empty where the trials were drawn
        at random and not pruned, so that their effects can be told, where fewer than ``IMPORTANCES_FROM`` have ended,
        and where the complete ones do not differ.
        """
        if not self.config.exploratory:
            return {}
        trials = self.trials()
        if sum(trial.state.is_finished() for trial in trials) < IMPORTANCES_FROM:
            return {}
        # Sorted, since Optuna would take the names from a set, in another order in each process.
        names = sorted({name for trial in trials if trial.state == TrialState.COMPLETE for name in trial.params})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `normalize` is experimental; too few trials of a part are warned about
            found = self.request(
                lambda: optuna.importance.get_param_importances(self.study, params=names, normalize=False)
            )
        total = sum(found.values())
        return {name: share / total for name, share in found.items()} if total else {}

    def _view(self, number: int, known: _Trials) -> _optuna.View:
        """What trial ``number`` may see."""
        seen = max(0, number - self.config.budget.concurrency + 1)
        return _optuna.View(known.ended, known.asked, seen, number)

    def _study(self, view: _optuna.View, sampler: Any = None) -> optuna.Study:
        """A view as a study of this one's name, which Hyperband hashes; without a sampler, for pruning only."""
        return optuna.create_study(
            storage=view,
            direction=self.config.objective.direction,
            study_name=self.study.study_name,
            sampler=sampler,
            pruner=build_pruner(self.config),
            load_if_exists=True,
        )

    def _parameters(self, entry: Mapping[str, Value]) -> dict[str, Value]:
        """An enqueued configuration under the names of its parameters; a split key has one per part."""
        named: dict[str, Value] = {}
        for key, value in entry.items():
            dimension = self.config.space.dimension(key)
            if isinstance(dimension, ByKey):
                for part, inner in dimension.parts.items():
                    if not isinstance(inner, Fixed) and inner.contains(value):
                        named[f"{key}@{part}"] = value
            else:
                named[key] = value
        return named

    def _values(self, trial: FrozenTrial) -> dict[str, Value]:
        return self.config.space.resolve(lambda name, _: trial.params[name])

    def _record(self, trial: FrozenTrial, changes: Mapping[str, str]) -> StoredTrial:
        params = {key_of(name): value for name, value in trial.params.items()}
        values, started = self._values(trial), trial.datetime_start or datetime.fromtimestamp(0)
        # The summary is written before the state, so a trial that has not ended may have one.
        if not trial.state.is_finished():
            return RunningTrial(trial.number, params, values, started)
        if "summary" not in trial.user_attrs:
            raise StudyError(f"trial {trial.number} of study {self.config.name} was ended by another program")
        summary = Summary(**trial.user_attrs["summary"] | changes)
        value = trial.value if trial.state == TrialState.COMPLETE else None
        state = cast(EndState, trial.state.name)
        reported = dict(trial.intermediate_values)
        return EndedTrial(
            trial.number, params, values, started, trial.datetime_complete or started, state, value, summary, reported
        )


def _suggest(trial: Trial, name: str, dimension: Choices | Range) -> Value:
    if isinstance(dimension, Choices):
        return cast(Value, trial.suggest_categorical(name, dimension.values))
    if dimension.integer:
        step = int(dimension.step or 1)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)
