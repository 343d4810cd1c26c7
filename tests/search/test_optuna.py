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


def test_a_view_adds_its_own_trial_to_those_it_shares() -> None:
    """`InMemoryStorage.get_trial` gives the stored object, and `ask` and pruners read trials by `get_all_trials`."""
    ended = [create_trial(value=float(n), state=TrialState.COMPLETE) for n in range(3)]
    asked = [create_trial(state=TrialState.RUNNING) for _ in range(5)]
    for trials in (ended, asked):
        for number, trial in enumerate(trials):
            trial.number = number
    view = _optuna.View(ended, asked, seen=2, number=4)
    study = optuna.create_study(storage=view)
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 1)
    _optuna.set_system_attr(study, study.get_trials(deepcopy=False)[4], "rung", 0.5)
    seen = study.get_trials(deepcopy=False)
    assert [t.number for t in seen] == [0, 1, 2, 3, 4]
    assert trial.number == 4
    assert all(mine is theirs for mine, theirs in zip(seen, [*ended[:2], *asked[2:4]], strict=False))
    assert (seen[4].params.keys(), seen[4].intermediate_values) == ({"x"}, {1: 0.5})
    assert _optuna.in_storage(study, trial).system_attrs == {"rung": 0.5}
    assert [t.number for t in study.get_trials(states=(TrialState.COMPLETE,))] == [0, 1]
    assert asked[4].params == {}


def test_an_added_trial_is_returned_as_it_was_asked(study: optuna.Study) -> None:
    """`storage.create_new_trial` returns an id, and `storage.get_trial` reads one trial."""
    added = _optuna.add_trial(study, create_trial(state=TrialState.RUNNING), 1)
    _optuna.writable(study, added).report(0.5, 1)
    now = _optuna.in_storage(study, added)
    assert (added.number, added.intermediate_values, now.intermediate_values) == (1, {}, {1: 0.5})
    study.tell(1, 0.5)
    ended = _optuna.in_storage(study, added)
    again = _optuna.as_asked(ended)
    assert (ended.state, again.state, again.number) == (TrialState.COMPLETE, TrialState.RUNNING, 1)
    assert (again.value, again.intermediate_values, again.datetime_complete) == (None, {}, None)
