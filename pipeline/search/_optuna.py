"""All that this project uses of Optuna without a public API. A test for each says what an upgrade changed."""

import weakref
from contextlib import suppress
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial


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


def add_trial(study: optuna.Study, trial: FrozenTrial, number: int) -> None:
    """Add a trial as the study's ``number``-th, counted from 0, unless it was added already."""
    trial.number = number
    with suppress(StoredAlreadyError):
        study.add_trial(trial)


def writable(study: optuna.Study, stored: FrozenTrial) -> Trial:
    """A stored trial as one that can be reported to and written to."""
    return Trial(study, stored._trial_id)


def system_attrs(trial: Trial) -> dict[str, Any]:
    """A trial's system attributes, where pruners keep their rung values."""
    return dict(trial.storage.get_trial(trial._trial_id).system_attrs)


def set_system_attr(study: optuna.Study, stored: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute, which `Trial` has no method for."""
    study._storage.set_trial_system_attr(stored._trial_id, key, value)
