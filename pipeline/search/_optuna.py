"""All that this project uses of Optuna without a public API. A test for each says what an upgrade changed."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial


def writable(study: optuna.Study, stored: FrozenTrial) -> Trial:
    """A stored trial as one that can be reported to and written to."""
    return Trial(study, stored._trial_id)


def system_attrs(trial: Trial) -> dict[str, Any]:
    """A trial's system attributes, where pruners keep their rung values."""
    return dict(trial.storage.get_trial(trial._trial_id).system_attrs)


def set_system_attr(study: optuna.Study, stored: FrozenTrial, key: str, value: Any) -> None:
    """Write a system attribute, which `Trial` has no method for."""
    study._storage.set_trial_system_attr(stored._trial_id, key, value)
