"""The ``trial.uid`` of every run, by which the run is found again.

Comes in: what the run is of. Goes out: a string that is stored in the run's tags, so its form must not change.
"""

from __future__ import annotations

import hashlib

TRAINING = "train-"  # begins the study uid of a single training


def trial_uid(study_uid: str, number: int) -> str:
    """Of a trial's run; a single training is trial 0 of its own study uid."""
    return f"{study_uid}-{number}"


def study_uid_of(trial_uid: str) -> str:
    """The study uid that `trial_uid` was given."""
    return trial_uid.rpartition("-")[0]


def training_uid(study: str, data_sha256: str, trial: str) -> str:
    """The study uid of a single training, made from all that decides its result.

    Args:
        study: its name; another study's training of the same configuration has a run of its own.
        data_sha256: digest of the data set.
        trial: the trial's configuration as JSON.
    """
    return TRAINING + hashlib.sha256(f"{study} {data_sha256}{trial}".encode()).hexdigest()[:16]


def baseline_uid(study_uid: str, name: str) -> str:
    """Of a baseline's run."""
    return f"{study_uid}-baseline-{name}"


def judge_uid(study_uid: str, sha256: str) -> str:
    """Of the judge's run, by the digest of the judge's file."""
    return f"{study_uid}-judge-{sha256[:12]}"


def study_run_uid(study_uid: str) -> str:
    """Of the study's own run."""
    return f"{study_uid}-study"
