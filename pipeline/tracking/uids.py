"""The ``trial.uid`` of every run, by which the run is found again. Homes store it, so its forms must not change."""

import hashlib

TRAINING = "train-"  # begins the study uid of a single training


def trial_uid(study_uid: str, number: int | str) -> str:
    """Of a trial's run; a single training is trial 0 of its own study uid."""
    return f"{study_uid}-{number}"


def study_uid_of(trial_uid: str) -> str:
    return trial_uid.rpartition("-")[0]


def training_uid(study: str, data_sha256: str, trial: str) -> str:
    """The study uid of a single training: of a study's name, its data and the trial's configuration as JSON."""
    return TRAINING + hashlib.sha256(f"{study} {data_sha256}{trial}".encode()).hexdigest()[:16]


def baseline_uid(study_uid: str, name: str) -> str:
    return f"{study_uid}-baseline-{name}"


def judge_uid(study_uid: str, sha256: str) -> str:
    """Of the judge's run, by the digest of the judge's file."""
    return f"{study_uid}-judge-{sha256[:12]}"


def study_run_uid(study_uid: str) -> str:
    return f"{study_uid}-study"
