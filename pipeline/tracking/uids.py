"""The ``trial.uid`` of every run, by which the run is found again. Homes store it, so its forms must not change."""

import hashlib
import re
from collections.abc import Mapping

TRAINING = "train-"  # begins the study uid of a single training
PARENT_TAG = "mlflow.parentRunId"  # nests a run under another in MLflow's pages
CONFIG_TAG = "zz.trial.config"  # of a training's run; tags that only programs read begin with "zz.", to come last


def trial_uid(study_uid: str, number: int | str) -> str:
    """Of a trial's run; a single training is trial 0 of its own study uid."""
    return f"{study_uid}-{number}"


def trial_number(study_uid: str, tags: Mapping[str, str]) -> int | None:
    """The number of the study's trial that a run's tags name, by its uid, else by its role; None if they name none."""
    match = re.fullmatch(re.escape(study_uid) + "-([0-9]{1,6})", tags.get("trial.uid", ""))
    if match is None and tags.get("study.role") == "trial":
        match = re.fullmatch("([0-9]{1,6})", tags.get("trial.number", ""))
    return int(match[1]) if match else None


def replicate_uid(study_uid: str, number: int, epochs: int, seed: int) -> str:
    """Of the run of a replicate of a trial: trained again for so many epochs, with the seed of this number."""
    return f"{study_uid}-{number}-replicate-{epochs}-{seed}"


def training_uid(study: str, data_sha256: str, trial: str) -> str:
    """The study uid of a single training: of a study's name, its data and the trial's configuration as JSON."""
    return TRAINING + hashlib.sha256(f"{study} {data_sha256}{trial}".encode()).hexdigest()[:16]


def training_of(study: str, tags: Mapping[str, str]) -> str:
    """The study uid that a single training has by the configuration and the data in its run's tags."""
    return training_uid(study, tags.get("data.sha256", ""), tags.get(CONFIG_TAG, ""))


def baseline_uid(study_uid: str, name: str) -> str:
    return f"{study_uid}-baseline-{name}"


def judge_uid(study_uid: str, sha256: str) -> str:
    """Of the judge's run, by the digest of the judge's file."""
    return f"{study_uid}-judge-{sha256[:12]}"


def study_run_uid(study_uid: str) -> str:
    return f"{study_uid}-study"
