"""Samplers and pruners: Optuna's signatures against ours, and what is refused before a study begins."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import StudyConfig, load_study_file
from pipeline.config.study_config import PRUNERS, SAMPLERS, Named
from pipeline.errors import ConfigError
from pipeline.search import samplers

STUDY = {"name": "made-up", "dataset": "mnist-5k", "degrade": {"kind": "gaussian", "sigma": 0.5}}
BUILT: dict[str, Callable[..., Any]] = {**samplers.SAMPLER_CLASSES, **samplers.PRUNER_CLASSES}
DECLARED = {**SAMPLERS, **PRUNERS}
# Decided by the study, or functions that no TOML value can be.
NOT_OFFERED = {"seed", "gamma", "weights", "constraints_func"}

# Settings for few trials and epochs.
FEW: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 3},
    "median": {"n_startup_trials": 2},
    "successive_halving": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "reduction_factor": 2},
    "paired": {"over": ["loss"], "blocks": 3},
}


def configuration(**sections: Any) -> StudyConfig:
    return StudyConfig.model_validate_json(json.dumps({**STUDY, **sections}))


def types(annotation: Any) -> set[str]:
    """The plain types that an annotation names; what may be the text ``auto`` is text."""
    text = inspect.formatannotation(annotation).replace("Literal['auto']", "str")
    return set(re.findall(r"\b(?:bool|int|float|str)\b", text))


@pytest.mark.parametrize("name", sorted(DECLARED.keys() - {"paired"}))
def test_arguments_are_those_of_the_installed_optuna(name: str) -> None:
    """An upgrade that adds, removes or retypes an argument fails here."""
    parameters = inspect.signature(BUILT[name]).parameters
    expected = {key: types(parameter.annotation) for key, parameter in parameters.items() if key not in NOT_OFFERED}
    for names in expected.values():
        if "float" in names:
            names.add("int")  # as TOML may write it
    fields = DECLARED[name].model_fields
    assert {key: types(field.annotation) for key, field in fields.items() if key != "name"} == expected


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[sampler]\nnonsense = 1", ["[sampler] nonsense", "tpe", "n_startup_trials"]),
        ("[sampler]\nn_startup_trial = 1", ["[sampler] n_startup_trial", "did you mean 'n_startup_trials'"]),
        ("[sampler]\nseed = 1", ["[sampler] seed", "allowed: "]),
        ("[sampler]\nn_startup_trials = 'ten'", ["[sampler] n_startup_trials = 'ten'", "int"]),
        ("[sampler]\nn_startup_trials = true", ["[sampler] n_startup_trials = True", "int"]),
        ("[sampler]\nn_startup_trials = 2.5", ["[sampler] n_startup_trials = 2.5", "int"]),
        ("[sampler]\nn_ei_candidates = 1_000_000_000", ["[sampler] n_ei_candidates = 1000000000", "equal to 1000"]),
        ("[sampler]\nn_ei_candidates = 0", ["[sampler] n_ei_candidates = 0", "greater than or equal to 1"]),
        ('[pruner]\nname = "successive_halving"\nmin_early_stopping_rate = 1_000_000_000', ["equal to 100"]),
        ("[sampler]\nmultivariate = 'yes'", ["[sampler] multivariate = 'yes'", "bool"]),
        ("[sampler]\nprior_weight = true", ["[sampler] prior_weight = True", "number"]),
        ("[pruner]\npatience = 1", ["[pruner] patience", "successive_halving", "min_resource"]),
        (
            "[pruner]\nname = 'hyperband'\nn_startup_trials = 1",
            ["n_startup_trials", "hyperband", "reduction_factor"],
        ),
        ("[pruner]\nname = 'hyperband'\nmax_resource = 'much'", ["[pruner] max_resource = 'much'", "'auto'", "int"]),
    ],
)
def test_arguments_that_optuna_does_not_take_are_refused_when_the_file_is_read(
    text: str, parts: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "study.toml"
    file.write_text(f'name = "a"\ndataset = "mnist-5k"\n[degrade]\nkind = "gaussian"\nsigma = 0.5\n{text}\n')
    with pytest.raises(ConfigError) as refusal:
        load_study_file(file)
    assert all(part in str(refusal.value) for part in parts), refusal.value
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"sampler": {"multivariate": False, "group": True}}, ["[sampler]", "group"]),
        ({"pruner": {"name": "median", "n_startup_trials": -1}}, ["[pruner]", "n_startup_trials", "-1"]),
    ],
)
def test_values_that_optuna_does_not_take_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        samplers.check(configuration(**changes))
    assert all(part in str(refusal.value) for part in parts), refusal.value
    assert len(str(refusal.value).splitlines()) == 1


def test_without_multivariate_a_conditional_space_has_no_groups() -> None:
    sampler = samplers.build_sampler(configuration(sampler={"name": "tpe", "multivariate": False}), 0)
    assert (sampler._multivariate, sampler._group) == (False, False)


@pytest.mark.parametrize("arguments", [{"reduction_factor": 1}, {"min_resource": 0}])
def test_values_that_fail_only_when_they_are_used_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"\[pruner\]"):
        samplers.check(configuration(pruner={"name": "hyperband", **arguments}))


@pytest.mark.parametrize("arguments", [{"prior_weight": -1.0}])
def test_sampler_arguments_that_would_end_a_study_in_the_middle_are_refused(arguments: dict[str, Any]) -> None:
    [(name, value)] = arguments.items()
    with pytest.raises(ConfigError, match=rf"\[sampler\] tpe cannot draw with {name} = {value}"):
        samplers.check(configuration(sampler={"name": "tpe", **arguments}))


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("pruner", PRUNERS)
def test_what_is_offered_is_accepted(sampler: str, pruner: str) -> None:
    if sampler == "paired" and pruner != "none":
        pytest.skip("refused")
    sections = {"sampler": {"name": sampler, **FEW.get(sampler, {})}, "pruner": {"name": pruner, **FEW.get(pruner, {})}}
    for model in ({"depth": [1, 2]}, {"activation": ["relu", "elu"], "alpha": [1.0, 2.0]}):
        samplers.check(configuration(**sections, model=model, train={"loss": ["bce", "mse"]}))
    assert set(samplers.SAMPLER_CLASSES) == set(SAMPLERS)
    assert set(samplers.PRUNER_CLASSES) == set(PRUNERS)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"name": "tpe", "n_startup_trials": 3, "consider_endpoints": True, "prior_weight": 1},
        {"prior_weight": 1.0, "constant_liar": False},
        {"name": "random"},
    ],
)
def test_only_the_given_arguments_are_stored_and_passed_on(given: dict[str, Any]) -> None:
    config = configuration(sampler=given)
    expected = {"name": "tpe"} | given
    stored = json.dumps(config.canonical()["sampler"])
    assert stored == json.dumps(expected), "in the file's order, integers as integers"
    again = StudyConfig.model_validate_json(json.dumps(config.canonical()))
    assert json.dumps(again.canonical()["sampler"]) == stored
    assert isinstance(config.sampler, Named)
    assert config.sampler.arguments == {key: value for key, value in given.items() if key != "name"}
