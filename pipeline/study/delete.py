"""Delete a study: its trials, its experiment, its models, its checkpoints.

Comes in: a study's name. Goes out: nothing. What is deleted can be listed first. Optuna's data is deleted last, so an
interrupted deletion is completed by repeating it.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass

from pipeline.errors import NotFoundError
from pipeline.home import Home
from pipeline.search.studies import delete_search, load_search, study_names
from pipeline.tracking.registry import RegisteredVersion, delete_empty_model, delete_version, registered
from pipeline.tracking.runs import read_tracking
from pipeline.tracking.store import delete_experiment, experiment_names
from pipeline.tracking.uids import study_uid_of


@dataclass(frozen=True)
class Inventory:
    """What belongs to a study."""

    trials: int
    runs: int
    versions: tuple[RegisteredVersion, ...]


def inventory(home: Home, name: str) -> Inventory:
    """What `delete` would delete. Raises NotFoundError as `delete`."""
    tracked = name in experiment_names(home)
    # A name with an experiment only has single trainings, or its deletion was interrupted.
    searched = not tracked or name in study_names(home)
    trials = len(load_search(home, name).records()) if searched else 0
    runs = 0
    with suppress(NotFoundError):
        runs = len(read_tracking(home, name).runs())
    versions = tuple(v for v in registered(home) if v.tags.get("study.name") == name)
    return Inventory(trials, runs, versions)


def delete(home: Home, name: str) -> None:
    """Delete a study, its MLflow experiment with all runs, pictures and models, and the versions registered from it.

    Raises:
        NotFoundError: there is neither a study nor an experiment of that name.
        InputError: the study is being run.
    """
    inventory(home, name)  # refuses an unknown name before a lock is made for it
    with home.driver_lock(name):
        versions, uids = inventory(home, name).versions, []
        models = {version.model for version in versions}
        for version in versions:
            delete_version(home, version)
        with suppress(NotFoundError):
            uids += [study_uid_of(run.tags["trial.uid"]) for run in read_tracking(home, name).runs("train")]
        with suppress(NotFoundError):
            search = load_search(home, name)
            uids.append(search.uid)
            models.add(search.config.model_name)  # may be left empty by an interrupted deletion
        for uid in uids:
            shutil.rmtree(home.path / "checkpoints" / uid, ignore_errors=True)
        if home.has_tracking():
            for model in sorted(models):
                delete_empty_model(home, model)
            delete_experiment(home, name)
        delete_search(home, name)
