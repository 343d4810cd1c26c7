"""Delete a study: its trials, its experiment, its models, its checkpoints.

Comes in: a study's name. Goes out: nothing. What is deleted can be listed first. Optuna's data is deleted last, so an
interrupted deletion is completed by repeating it.
"""

from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import NotFoundError
from pipeline.home import UID, Home
from pipeline.search.lock import study_lock
from pipeline.search.studies import delete_search, load_search, stored_uid, study_names
from pipeline.tracking.experiments import (
    UID_TAG,
    delete_experiment,
    experiment_names,
    experiment_uid,
    find_experiment,
    settle_move,
)
from pipeline.tracking.registry import RegisteredVersion, delete_empty_model, delete_version, registered
from pipeline.tracking.runs import read_tracking
from pipeline.tracking.uids import training_of, trial_uid


@dataclass(frozen=True)
class Inventory:
    """What belongs to a study."""

    trials: int
    runs: int
    versions: tuple[RegisteredVersion, ...]
    trainings: tuple[str, ...]  # uids of single trainings


def inventory(home: Home, name: str) -> Inventory:
    """What `delete` would delete. Raises NotFoundError and InputError as `delete`; settles a move as it does."""
    home.check_writable()
    settle_move(home)
    tracked = name in experiment_names(home)
    # A name with an experiment only has single trainings, or its deletion was interrupted.
    searched = not tracked or name in study_names(home)
    trials = len(load_search(home, name).records()) if searched else 0
    uid = stored_uid(home, name) or experiment_uid(home, name)
    experiment = find_experiment(home, uid) if uid and home.has_tracking() else None
    active = experiment is not None and experiment.lifecycle_stage == "active"
    runs = read_tracking(home, name, uid).runs() if uid and active else []
    # Only a uid that the run's other tags confirm: it becomes the path of a folder that is removed.
    trainings = {of for run in runs if trial_uid(of := training_of(name, run.tags), 0) == run.tags.get("trial.uid")}
    versions = tuple(v for v in registered(home) if uid and v.tags.get(UID_TAG) == uid)
    return Inventory(trials, len(runs), versions, tuple(sorted(trainings)))


def delete(home: Home, name: str) -> None:
    """Delete a study, its MLflow experiment with all runs, pictures and models, and the versions registered from it.

    Raises:
        NotFoundError: there is neither a study nor an experiment of that name.
        InputError: the study is being run, it belongs to another home, or this home is a copy.
    """
    inventory(home, name)  # refuses an unknown name before a lock is made for it
    with study_lock(home, name):
        found = inventory(home, name)
        models = {version.model for version in found.versions}
        for version in found.versions:
            delete_version(home, version)
        uids = [*found.trainings]
        if (tracked := experiment_uid(home, name)) and UID.fullmatch(tracked):
            uids.append(tracked)
        with suppress(NotFoundError):
            search = load_search(home, name)
            uids.append(search.uid)
            models.add(search.config.model_name)  # may be left empty by an interrupted deletion
        for uid in uids:
            home.remove(home.checkpoints(uid))
        if home.has_tracking():
            for model in sorted(models):
                delete_empty_model(home, model)
            delete_experiment(home, name)
        delete_search(home, name)
