"""Optuna: the space, the sampler, the pruner; ask, prune, tell. The only module that imports optuna.

Optuna's database is the authority on a study. Trials are asked and told in number order, each on an in-memory *view*
made by number and never by time: trial n sees trials 0 … n-L as they ended and n-L+1 … n-1 as running, L being
the study's ``concurrency``. So what a trial is depends on the file and the seed, not on how many workers ran or on
what was killed and resumed.
"""

from __future__ import annotations

import json
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, cast

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from pipeline.config import Choices, Fixed, Range, Split, StudyConfig, Value
from pipeline.errors import RESUME, ConfigError, NotFoundError, StudyError
from pipeline.home import Home
from pipeline.search.records import Record, State, Summary
from pipeline.search.samplers import build_pruner, build_sampler

OptunaStudy = optuna.Study


class OpenTrial:
    """A trial that was asked and not yet told, with the view that decides about pruning it."""

    def __init__(self, number: int, values: dict[str, Value], trial: Trial) -> None:
        self.number = number
        self.values = values
        self.reported: dict[int, float] = {}
        self._trial = trial
        self._asked_with = set(trial.storage.get_trial(trial._trial_id).system_attrs)

    def report(self, epoch: int, value: float) -> bool:
        """Note an epoch's objective; whether the pruner ends the trial here. Epochs come in order, each once."""
        self.reported[epoch] = value
        self._trial.report(value, epoch)
        return bool(self._trial.should_prune())

    def notes(self) -> dict[str, Any]:
        """What the pruner noted on the trial (rung values): later trials' decisions need it."""
        attrs = self._trial.storage.get_trial(self._trial._trial_id).system_attrs
        return {key: value for key, value in attrs.items() if key not in self._asked_with}


@contextmanager
def _database() -> Iterator[None]:
    """What fails in the database as an error that a user can act on; also a decorator."""
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", cause)).splitlines()[0]
        raise StudyError(f"Optuna's database: {reason}; when that is repaired, {RESUME}") from error


class Search:
    """One study in Optuna's database.

    Raises:
        StudyError: from every method, where the database cannot be read or written.
    """

    def __init__(self, config: StudyConfig, study: optuna.Study) -> None:
        self.config = config
        self._study = study

    @property
    def uid(self) -> str:
        return str(self.recall("uid"))

    @_database()
    def remember(self, key: str, value: Any) -> None:
        """Keep a JSON value with the study."""
        self._study.set_user_attr(key, value)

    @_database()
    def recall(self, key: str, default: Any = None) -> Any:
        """A value that `remember` kept."""
        return self._study.user_attrs.get(key, default)

    @property
    def study(self) -> OptunaStudy:
        """The study itself, to read."""
        return self._study

    @_database()
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def records(self) -> list[Record]:
        """All trials in number order."""
        adopted = self.recall("adopted_runs", {})
        return [_record(self.config, trial, adopted.get(str(trial.number))) for trial in self.trials()]

    def told(self) -> int:
        """How many trials have ended; they are told in number order, so the next to tell has this number."""
        return sum(trial.state.is_finished() for trial in self.trials())

    @_database()
    def ask(self) -> OpenTrial:
        """Sample the next trial and store it, whole and running, in one write."""
        trials = self.trials()
        number = len(trials)
        view = self._view(number, trials, build_sampler(self.config, number))
        if number < len(self.config.enqueue):
            # Only the view, which nobody else sees, has it waiting; the database gets it with all its parameters.
            view.enqueue_trial(_named(self.config, self.config.enqueue[number]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = view.ask()
            values = self.config.space.resolve(lambda name, dimension: _suggest(trial, name, dimension))
        asked = view.get_trials(deepcopy=False)[number]
        self._study.add_trial(_running(asked))
        return OpenTrial(number, values, trial)

    @_database()
    def reopen(self, number: int) -> OpenTrial:
        """Take up a trial that was asked by an earlier process; its epochs are to be reported again."""
        trials = self.trials()
        view = self._view(number, trials, None)
        view.add_trial(_running(trials[number]))
        in_view = view.get_trials(deepcopy=False)[number]
        return OpenTrial(number, _values(self.config, trials[number]), Trial(view, in_view._trial_id))

    @_database()
    def tell(self, trial: OpenTrial, state: State, value: float | None, summary: Summary) -> None:
        """End a trial. Its state is written last, after epochs, notes and summary, so a kill loses nothing."""
        stored = self.trials()[trial.number]
        real = Trial(self._study, stored._trial_id)
        for epoch, reported in trial.reported.items():
            if epoch not in stored.intermediate_values:
                real.report(reported, epoch)
        for key, note in trial.notes().items():
            self._study._storage.set_trial_system_attr(stored._trial_id, key, note)
        real.set_user_attr("summary", summary.__dict__)
        self._study.tell(real, value, state=TrialState[state])

    def adopt(self, number: int, run_id: str) -> None:
        """Give an ended trial another run than the one its summary names, which cannot be changed any more."""
        self.remember("adopted_runs", self.recall("adopted_runs", {}) | {str(number): run_id})

    def importances(self) -> dict[str, float]:
        """How much each searched key explains of the objective's spread, most first; empty below ten complete trials.

        Source:
            optuna.importance (PED-ANOVA), over the keys that every complete trial has.
        """
        complete = [t for t in self.trials() if t.state == TrialState.COMPLETE]
        common = [name for name in complete[0].params if all(name in t.params for t in complete)] if complete else []
        if len(complete) < 10 or not common:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = optuna.importance.get_param_importances(self._study, params=common)
            except (RuntimeError, ValueError):  # all values equal
                return {}
        return {name.partition("@")[0]: share for name, share in found.items()}

    def _view(self, number: int, trials: list[FrozenTrial], sampler: Any) -> optuna.Study:
        """The study as trial ``number`` may see it. Hyperband hashes its name and the trial's number."""
        view = optuna.create_study(
            direction=self.config.objective.direction,
            study_name=self._study.study_name,
            sampler=sampler,
            pruner=build_pruner(self.config),
        )
        ended = number - self.config.budget.concurrency
        view.add_trials([t if t.number <= ended else _running(t) for t in trials[:number]])
        return view


@_database()
def open_search(home: Home, config: StudyConfig, facts: Mapping[str, Any]) -> Search:
    """Open a study, or create it with these facts (kept with it for good).

    Raises:
        ConfigError: the stored study differs in anything but the total and the model's name, or in a fact; each
            difference on a line of its own, up to six.
        StudyError: the database cannot be used.
    """
    storage = _storage(home)
    if config.name not in optuna.get_all_study_names(storage):
        study = optuna.create_study(
            storage=storage, study_name=config.name, direction=config.objective.direction, load_if_exists=True
        )
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        for key, value in {"facts": dict(facts), "created": stamp, "uid": uuid.uuid4().hex}.items():
            study.set_user_attr(key, value)
        study.set_user_attr("config", config.canonical())
    else:
        study = optuna.load_study(storage=storage, study_name=config.name)
        if "config" not in study.user_attrs:
            # The process that created it was killed before it had written what it was; it has no trial yet.
            optuna.delete_study(storage=storage, study_name=config.name)
            return open_search(home, config, facts)
        differences = config.differences(study.user_attrs["config"])
        stored = study.user_attrs["facts"]
        differences += [f"{k}: {stored.get(k)} is stored, {v} is asked" for k, v in facts.items() if stored.get(k) != v]
        if differences:
            shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
            raise ConfigError(
                f"study {config.name!r} exists and differs: {shown}.\n"
                "Use --name OTHER to start another study from this file"
            )
        study.set_user_attr("config", config.canonical())  # the total and the model's name may have changed
    return Search(config, study)


def detached(config: StudyConfig, uid: str) -> Search:
    """A study that is kept in memory only: for one training that belongs to no search."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=config.name, direction=config.objective.direction)
    study.set_user_attr("uid", uid)
    return Search(config, study)


@_database()
def load_search(home: Home, name: str) -> Search:
    """Open an existing study to read it.

    Raises:
        NotFoundError: there is no study of that name; the message lists those there are.
    """
    names = study_names(home)
    if name not in names:
        known = ", ".join(names) or "none"
        raise NotFoundError(f"there is no study {name!r} in {home.path}; studies: {known}")
    study = optuna.load_study(storage=_storage(home), study_name=name)
    return Search(StudyConfig.model_validate_json(json.dumps(study.user_attrs["config"])), study)


@_database()
def study_names(home: Home) -> list[str]:
    """The studies of a home, by name; none where there is no home. Nothing is created."""
    if not home.exists():
        return []
    summaries = optuna.get_all_study_summaries(_storage(home), include_best_trial=False)
    # Without its config a study was killed while it was made; the next `run` makes it again.
    return sorted(summary.study_name for summary in summaries if "config" in summary.user_attrs)


@_database()
def delete_search(home: Home, name: str) -> None:
    """Delete a study from the database, if it is there."""
    if name in study_names(home):
        optuna.delete_study(storage=_storage(home), study_name=name)


def _storage(home: Home) -> optuna.storages.RDBStorage:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sqlite = home.storage_url.startswith("sqlite:")
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(home.storage_url, engine_kwargs=options)
    except (ImportError, RuntimeError, ValueError) as error:
        raise StudyError(f"--storage {home.storage_url}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # SQLAlchemy's own tree, which this project does not import
        reason = str(error).splitlines()[0]
        raise StudyError(f"--storage {home.storage_url}: the database cannot be used: {reason}") from None


def _suggest(trial: Trial, name: str, dimension: Choices | Range) -> Value:
    if isinstance(dimension, Choices):
        return cast(Value, trial.suggest_categorical(name, dimension.values))
    if dimension.integer:
        step = 1 if dimension.step is None else int(dimension.step)
        return trial.suggest_int(name, int(dimension.low), int(dimension.high), step=step, log=dimension.log)
    return trial.suggest_float(name, dimension.low, dimension.high, step=dimension.step, log=dimension.log)


def _named(config: StudyConfig, entry: Mapping[str, Value]) -> dict[str, Value]:
    """An enqueued configuration under the names of its parameters; a split key has one a part."""
    named: dict[str, Value] = {}
    for key, value in entry.items():
        dimension = config.space.dimension(key)
        if isinstance(dimension, Split):
            for part, inner in dimension.parts.items():
                if not isinstance(inner, Fixed) and inner.contains(value):
                    named[f"{key}@{part}"] = value
        else:
            named[key] = value
    return named


def _running(trial: FrozenTrial) -> FrozenTrial:
    """The trial with its parameters and nothing else, as it stood when it had just been asked."""
    return create_trial(state=TrialState.RUNNING, params=trial.params, distributions=trial.distributions)


def _values(config: StudyConfig, trial: FrozenTrial) -> dict[str, Value]:
    return config.space.resolve(lambda name, _: trial.params[name])


def _record(config: StudyConfig, trial: FrozenTrial, adopted: str | None) -> Record:
    # It is written before the state: a trial whose process was killed in between has one and has not ended.
    stored = trial.user_attrs.get("summary") if trial.state.is_finished() else None
    summary = Summary(**stored) if stored else None
    if summary and adopted:
        summary = replace(summary, run_id=adopted)
    return Record(
        number=trial.number,
        state=trial.state.name,  # type: ignore[arg-type]
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params={name.partition("@")[0]: value for name, value in trial.params.items()},
        values=_values(config, trial),
        started=trial.datetime_start or datetime.fromtimestamp(0),
        summary=summary,
        reported=dict(trial.intermediate_values),
    )
