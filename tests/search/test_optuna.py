"""What this project uses of Optuna without a public API. A failure here says what an upgrade changed."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from pipeline.search import _optuna


@pytest.fixture(params=["in memory", "sqlite"])
def study(request: pytest.FixtureRequest, tmp_path: Path) -> optuna.Study:
    """A study with one running trial, as `Search.ask` stores it."""
    storage = f"sqlite:///{tmp_path / 'optuna.db'}" if request.param == "sqlite" else None
    study = optuna.create_study(storage=storage)
    study.add_trial(create_trial(state=TrialState.RUNNING))
    return study


def test_a_stored_trial_can_be_written_to(study: optuna.Study) -> None:
    """`Trial(study, frozen._trial_id)`: reports and attributes reach the storage, and the study can end the trial."""
    handle = _optuna.writable(study, study.trials[0])
    handle.report(0.5, 1)
    handle.set_user_attr("summary", {"epochs": 1})
    study.tell(handle, 0.5)
    [stored] = study.trials
    assert (stored.state, stored.value, stored.intermediate_values) == (TrialState.COMPLETE, 0.5, {1: 0.5})
    assert stored.user_attrs == {"summary": {"epochs": 1}}


def test_system_attributes_are_written_and_read(study: optuna.Study) -> None:
    """`storage.set_trial_system_attr` and `FrozenTrial.system_attrs`: pruners keep their rung values there."""
    _optuna.set_system_attr(study, study.trials[0], "rung", 0.25)
    assert _optuna.system_attrs(_optuna.writable(study, study.trials[0])) == {"rung": 0.25}


def test_successive_halving_keeps_its_rungs_in_system_attributes() -> None:
    """Its decisions about later trials depend on them, so they are copied to the database."""
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    trial = optuna.create_study(pruner=pruner).ask()
    trial.report(0.5, 1)
    trial.should_prune()
    assert any("rung" in key for key in _optuna.system_attrs(trial))
