"""All that this project uses of Optuna without a public API. A test for each says what an upgrade changed."""

import copy
import weakref
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState


class StoredAlreadyError(Exception):
    """The trial to be added is in the database."""


class Storage(optuna.storages.RDBStorage):
    """Optuna's storage, but a trial is added once, and the connections end with this object.

    Optuna repeats the transaction that adds a trial, also where it was committed and only the reply was lost.
    """

    def __init__(self, url: str, **options: Any) -> None:
        try:
            super().__init__(url, **options)
        finally:
            if hasattr(self, "engine"):  # it is also there if the tables could not be made
                weakref.finalize(self, self.engine.dispose)

    def _get_prepared_new_trial(self, study_id: int, template_trial: FrozenTrial | None, session: Any) -> Any:
        """Called in the transaction, which holds the study's row; the template's number says which is to be added."""
        trial = super()._get_prepared_new_trial(study_id, template_trial, session)
        if template_trial is not None and template_trial.number not in (-1, trial.number):
            raise StoredAlreadyError
        return trial


class View(optuna.storages.InMemoryStorage):
    """A study in memory as one trial sees it: the trials before it, and itself.

    ``ended`` and ``asked`` are shared by all views, and may grow; no view writes to them.

    Args:
        ended: the study's trials by number, as they ended.
        asked: its trials by number, as they were asked.
        seen: how many of the trials before this one are seen as they ended.
        number: this trial's own, which is added by `ask` or `add_trial` of the view's study.
    """

    def __init__(self, ended: Sequence[FrozenTrial], asked: Sequence[FrozenTrial], seen: int, number: int) -> None:
        super().__init__()
        self._ended, self._asked, self._seen, self._number = ended, asked, seen, number

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        self.get_trial(trial_id).number = self._number
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        before = [*self._ended[: self._seen], *self._asked[self._seen : self._number]]
        trials = [trial for trial in before if states is None or trial.state in states]
        own = super().get_all_trials(study_id, deepcopy, states)
        return [*(copy.deepcopy(trials) if deepcopy else trials), *own]


def add_trial(study: optuna.Study, trial: FrozenTrial, number: int) -> FrozenTrial:
    """Add a trial as the study's ``number``-th, counted from 0, unless it was added already; return it with its id."""
    trial.number = number
    storage = study._storage
    try:
        trial._trial_id = storage.create_new_trial(study._study_id, template_trial=trial)
    except StoredAlreadyError:
        trial._trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return trial


def as_asked(stored: FrozenTrial) -> FrozenTrial:
    """A stored trial with its parameters only, as it was when it had just been asked."""
    trial = copy.copy(stored)
    trial.state, trial.values, trial.datetime_complete = TrialState.RUNNING, None, None
    trial.intermediate_values, trial.user_attrs, trial.system_attrs = {}, {}, {}
    return trial


def report(study: optuna.Study, stored: FrozenTrial, epoch: int, value: float) -> None:
    """Write an epoch's objective; `Trial` would read the trial first."""
    study._storage.set_trial_intermediate_value(stored._trial_id, epoch, value)


def set_user_attr(study: optuna.Study, stored: FrozenTrial, key: str, value: Any) -> None:
    """Write a user attribute; `Trial` would read the trial first."""
    study._storage.set_trial_user_attr(stored._trial_id, key, value)


def writable(study: optuna.Study, stored: FrozenTrial) -> Trial:
    """A stored trial as one that can be reported to and written to."""
    return Trial(study, stored._trial_id)


def in_storage(study: optuna.Study, stored: FrozenTrial | Trial) -> FrozenTrial:
    """A trial as the storage has it now, read without the study's others."""
    return study._storage.get_trial(stored._trial_id)


def system_attrs(trial: Trial) -> dict[str, Any]:
    """A trial's system attributes, where pruners keep their rung values."""
    return dict(trial.storage.get_trial(trial._trial_id).system_attrs)


def set_system_attr(study: optuna.Study, stored: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute, which `Trial` has no method for."""
    study._storage.set_trial_system_attr(stored._trial_id, key, value)
