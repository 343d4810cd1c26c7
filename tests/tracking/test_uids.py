"""The uids under which homes that exist already have their runs."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.tracking.uids import (
    TRAINING,
    baseline_uid,
    judge_uid,
    study_run_uid,
    training_of,
    training_uid,
    trial_number,
    trial_uid,
)


def test_uids_have_the_stored_form() -> None:
    assert trial_uid("3f2a", 7) == "3f2a-7"
    assert baseline_uid("3f2a", "linear") == "3f2a-baseline-linear"
    assert judge_uid("3f2a", "0123456789abcdef") == "3f2a-judge-0123456789ab"
    assert study_run_uid("3f2a") == "3f2a-study"


def test_a_single_training_has_a_study_uid_of_its_own() -> None:
    uid = training_uid("digits", "ab12", '{"seed":0}')
    assert uid == "train-" + hashlib.sha256(b'digits ab12{"seed":0}').hexdigest()[:16]
    assert uid.startswith(TRAINING)
    tags = {"data.sha256": "ab12", "zz.trial.config": '{"seed":0}', "trial.uid": trial_uid(uid, 0)}
    assert training_of("digits", tags) == uid
    assert training_of("digits", {}) != uid


@pytest.mark.parametrize(
    ("tags", "number"),
    [
        ({"trial.uid": "3f2a-7"}, 7),
        ({"trial.uid": "3f2a-7", "study.role": "trial", "trial.number": "3"}, 7),
        ({"trial.uid": "3f2b-7", "study.role": "trial", "trial.number": "3"}, 3),
        ({"trial.uid": "3f2a-baseline-linear", "study.role": "baseline"}, None),
        ({"study.role": "trial", "trial.number": "1" * 5000}, None),
        ({"study.role": "trial", "trial.number": "-1"}, None),
        ({"trial.number": "3"}, None),
        ({}, None),
    ],
)
def test_a_trial_s_number_is_read_from_whatever_the_tags_hold(tags: dict[str, str], number: int | None) -> None:
    assert trial_number("3f2a", tags) == number
