"""The uids under which homes that exist already have their runs."""

from __future__ import annotations

import hashlib

from pipeline.tracking.uids import (
    TRAINING,
    baseline_uid,
    judge_uid,
    study_run_uid,
    study_uid_of,
    training_uid,
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
    assert study_uid_of(trial_uid(uid, 0)) == uid
