"""One trial's configuration."""

from __future__ import annotations

import json

import pytest
import tiny
from pydantic import ValidationError

from pipeline.config import TrialConfig


def test_a_trial_converts_to_json_and_back_and_is_frozen() -> None:
    trial = tiny.trial(lr=0.1, degrade={"kind": "downscale", "factor": 2}, number=7, width=100)
    assert TrialConfig.model_validate_json(trial.model_dump_json()) == trial
    assert TrialConfig.model_validate_json(json.dumps(trial.model_dump(mode="json"))) == trial
    with pytest.raises(ValidationError):
        trial.number = 8
    with pytest.raises(ValidationError):
        trial.model.depth = 8


def test_only_parameters_that_apply_are_recorded() -> None:
    adam = tiny.trial(optimizer="adam", activation="relu").params()
    sgd = tiny.trial(optimizer="sgd", activation="leaky_relu").params()
    assert {"beta1", "beta2"} <= adam.keys()
    assert not {"momentum", "nesterov", "negative_slope", "alpha", "delta"} & adam.keys()
    assert {"momentum", "nesterov", "negative_slope"} <= sgd.keys()
    assert not {"beta1", "beta2", "alpha"} & sgd.keys()
    assert (adam["degrade.kind"], adam["degrade.sigma"], adam["dataset"]) == ("gaussian", 0.3, "tiny")
