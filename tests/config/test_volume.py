"""How large a space is: compared with all its trials, one by one."""

from __future__ import annotations

from itertools import islice

import pytest

from pipeline.config import Choices, Range
from pipeline.config.space import Space
from pipeline.config.volume import combinations, configurations, drawn, parameters

DISCRETE = {
    "model": {
        "layer_type": ["linear", "conv"],
        "depth": {"by": "layer_type", "linear": {"low": 1, "high": 5, "step": 2}, "default": [1, 2]},
        "channels": [4, 8],
        "activation": ["relu", "leaky_relu"],
        "negative_slope": {"low": 0.1, "high": 0.3, "step": 0.1},
        "dropout": {"choices": [0.1, 0.2], "when": {"depth": [3, 5]}},
    },
    "train": {"batch_size": {"low": 10, "high": 19}},
}


def test_combinations_are_as_many_as_there_are_different_trials() -> None:
    space = Space(DISCRETE)
    trials = {tuple(values.items()) for values in configurations(space, lambda _, form: form.values or ())}
    # linear: depth 1 without dropout, depths 3 and 5 with two; conv: two depths with two numbers of channels
    assert combinations(space) == len(trials) == ((1 + 2 * 2) + 2 * 2) * (1 + 3) * 10


def test_parameters_say_when_they_are_searched() -> None:
    found = {one.name: one.conditions for one in parameters(Space(DISCRETE))}
    assert found == {
        "layer_type": {},
        "depth@linear": {"layer_type": ["linear"]},
        "depth@default": {"layer_type": ["conv"]},
        "channels": {"layer_type": ["conv"]},
        "activation": {},
        "negative_slope": {"activation": ["leaky_relu"]},
        "dropout": {"depth": [3, 5]},
        "batch_size": {},
    }


def test_what_no_trial_has_is_no_parameter() -> None:
    lr = {"by": "optimizer", "sgd": [0.1, 1.0], "default": {"low": 1e-3, "high": 1e-2}}
    space = Space({"model": {"negative_slope": [0.1, 0.2]}, "train": {"optimizer": "sgd", "lr": lr}})
    assert [one.name for one in parameters(space)] == ["lr@sgd"]
    assert combinations(space) == 2


def test_a_continuous_key_has_no_number_of_combinations() -> None:
    space = Space({"train": {"lr": {"low": 1e-3, "high": 1e-2}}})
    assert combinations(space) is None
    assert [one.continuous for one in parameters(space)] == [True]
    assert combinations(Space({})) == 1


@pytest.mark.parametrize(
    "form",
    [
        Choices(choices=("a", "b", "c")),
        Range(low=1, high=100, log=True),
        Range(low=1, high=9, step=2),
        Range(low=0.1, high=0.3, step=0.1),
        Range(low=1e-4, high=1e-1, log=True),
        Range(low=-1.0, high=1.0),
    ],
    ids=str,
)
def test_a_share_of_a_form_is_one_of_its_values(form: Choices | Range) -> None:
    values = [form.at(share / 1000) for share in range(1000)]
    assert all(form.contains(value) for value in values)
    if form.values is None:
        assert values == sorted(values)
        assert values[0] == pytest.approx(form.first)
    else:
        assert set(values) == set(form.values)


def test_drawn_trials_are_the_same_for_a_seed() -> None:
    space = Space(DISCRETE)
    first = list(drawn(space, 20, seed=1))
    assert first == list(islice(drawn(space, 99, seed=1), 20))
    assert first != list(drawn(space, 20, seed=2))
    assert {values["layer_type"] for values in first} == {"linear", "conv"}
