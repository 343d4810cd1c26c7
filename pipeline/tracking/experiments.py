"""The experiments of studies: whose they are, found by the study's uid, created, moved with their home, deleted.

Comes in: a home, a study's name and uid. Goes out: experiments of this home; what belongs to another one is refused and
left unchanged. Names and paths in a database prove nothing. May not import torch.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError, NotFoundError, TrackingError
from pipeline.home import Home
from pipeline.tracking._mlflow import artifact_locations, relocate
from pipeline.tracking.store import connect, database_file, every_page, local_path, store_errors

STUDY_TAG = "study.name"  # of an experiment and of each of its runs
UID_TAG, HOME_TAG = "study.uid", "study.home"  # of an experiment: its study's uid, its home's id
DELETED_TAG = "study.deleted"  # of an experiment that is being deleted


def home_experiments(home: Home) -> list[Experiment]:
    """The experiments of a home's studies: active ones, and those whose deletion was interrupted or was not ours."""
    if not home.has_tracking() or not home.id:
        return []
    client, query = connect(home), f"tags.`{HOME_TAG}` = '{home.id}'"
    with store_errors(home):
        found = list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query)))
    # On a server, deleting completes a deletion: only its operator can purge.
    return [e for e in found if home.local_tracking or e.lifecycle_stage == "active" or DELETED_TAG not in e.tags]


def experiment_names(home: Home) -> set[str]:
    """The studies that have an experiment in a home's store, also those whose deletion was interrupted."""
    found = home_experiments(home)
    return {e.tags.get(STUDY_TAG, e.name) for e in found if e.lifecycle_stage == "active" or DELETED_TAG in e.tags}


def find_by_name(home: Home, name: str) -> Experiment:
    """The experiment of this home's study of that name. Raises NotFoundError if there is none."""
    for experiment in home_experiments(home):
        if experiment.tags.get(STUDY_TAG) == name and DELETED_TAG not in experiment.tags:
            return experiment
    raise NotFoundError(f"MLflow has no experiment of study {name!r} at {home.tracking_shown}")


def experiment_uid(home: Home, name: str) -> str | None:
    """The uid in the experiment of this home's study of that name; None if there is none."""
    with suppress(NotFoundError):
        return find_by_name(home, name).tags.get(UID_TAG)
    return None


def uid_for(home: Home, name: str, stored: str | None) -> str:
    """The uid of a study: the stored one, else that of its experiment of single trainings, else a new one.

    Raises:
        InputError: MLflow has an experiment of that name which is not this study's.
        TrackingError: the store cannot be used.
    """
    uid = stored or experiment_uid(home, name)
    if home.has_tracking() and (uid is None or find_experiment(home, uid) is None):
        with store_errors(home):
            taken = connect(home).get_experiment_by_name(name)
        if taken is not None:
            state = "an" if taken.lifecycle_stage == "active" else "a deleted"
            raise InputError(
                f"MLflow at {home.tracking_shown} has {state} experiment {name!r}, which is not this home's; use "
                "--name OTHER"
            )
    return uid or uuid.uuid4().hex


def find_experiment(home: Home, uid: str) -> Experiment | None:
    """The experiment of the study with this uid, whatever its name is by now.

    Raises:
        InputError: it belongs to another home.
        TrackingError: the store cannot be used.
    """
    client = connect(home)
    with store_errors(home):
        query = f"tags.`{UID_TAG}` = '{uid}'"
        found = list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query)))
    found = [e for e in found if DELETED_TAG not in e.tags]
    own = [e for e in found if e.tags.get(HOME_TAG) == home.id]
    if found and not own:
        raise InputError(f"MLflow's experiment {found[0].name!r} belongs to another home, which alone may change it")
    return own[0] if own else None


def edited_tags(home: Home, name: str, uid: str, experiment_id: str | None) -> dict[str, str]:
    """The tags that make an experiment a study's, where they were edited in MLflow: those that it must have.

    ``experiment_id`` is what Optuna has of the study. Empty if the tags are right, or if the experiment may be another
    one: it must have two of the three tags, or its artifacts where only this study has them.
    """
    if experiment_id is None or not home.has_tracking():
        return {}
    client = connect(home)
    with store_errors(home):
        try:
            experiment = client.get_experiment(experiment_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
    right = {STUDY_TAG: name, UID_TAG: uid, HOME_TAG: home.id}
    wrong = {key: value for key, value in right.items() if experiment.tags.get(key) != value}
    sure = len(wrong) == 1 or experiment.artifact_location == _location(home, name, uid)
    return wrong if sure and DELETED_TAG not in experiment.tags else {}


def tag_experiment(home: Home, experiment_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an experiment."""
    client = connect(home)
    with store_errors(home):
        for key, value in tags.items():
            client.set_experiment_tag(experiment_id, key, value)


def _location(home: Home, name: str, uid: str) -> str | None:
    """The URI of a study's artifacts; None if a server decides."""
    return (home.artifacts / f"{name}-{uid[:8]}").as_uri() if home.local_tracking else None


def create_experiment(home: Home, name: str, uid: str, tags: Mapping[str, str]) -> None:
    """Create a study's experiment, in a store that `connect` has made."""
    own = {STUDY_TAG: name, UID_TAG: uid, HOME_TAG: home.id}
    with store_errors(home):
        connect(home).create_experiment(name, _location(home, name, uid), {**tags, **own})


def owned_path(home: Home, uri: str) -> Path | None:
    """The path in this home that a URI of artifacts names; None if a server keeps them.

    Raises TrackingError if it is not one of this home's artifacts: a database may say anything.
    """
    path = local_path(uri)
    if path is not None and home.artifacts not in (path := Path(os.path.normpath(path))).parents:
        raise TrackingError(f"{path}: is not among the artifacts of {home.path}; it is left unchanged")
    return path


def delete_experiment(home: Home, name: str) -> None:
    """Delete a study's experiment with its runs, models and files. If it is interrupted, call it again.

    MLflow only marks an experiment as deleted, and then refuses its name to a new one. So it is renamed first, and
    purged where the home has the database. A server keeps the files until its operator runs `mlflow gc`. Raises
    TrackingError if the store cannot be used, names files that are not of this home, or the purge fails.
    """
    client = connect(home)
    doomed = [e for e in home_experiments(home) if e.tags.get(STUDY_TAG) == name]
    folders = []
    for experiment in doomed if home.local_tracking else ():
        folders.append(owned_path(home, experiment.artifact_location))
        for uri in artifact_locations(database_file(home), experiment.experiment_id):
            owned_path(home, uri)
    with store_errors(home):
        for experiment in doomed:
            if experiment.lifecycle_stage == "active":
                client.set_experiment_tag(experiment.experiment_id, DELETED_TAG, "true")
                client.rename_experiment(experiment.experiment_id, f"deleted-{experiment.experiment_id}-{name}")
                client.delete_experiment(experiment.experiment_id)
    # The files first: once the experiment is purged, nothing says where they are.
    for folder in folders:
        if folder is not None:
            home.remove(folder)
    for experiment in doomed if home.local_tracking else ():
        store = ["--backend-store-uri", home.tracking_uri, "--tracking-uri", home.tracking_uri]
        purge = [sys.executable, "-m", "mlflow", "gc", *store, "--experiment-ids", experiment.experiment_id]
        done = subprocess.run(purge, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise TrackingError(f"MLflow could not purge the experiment of {name}: {message}")


def settle_move(home: Home) -> Path | None:
    """If a home was moved, bring the paths that MLflow stores to where it is now. Returns where it was.

    Raises TrackingError if its artifacts were left behind.
    """
    old = home.moved_from
    if old is not None:
        if not home.artifacts.is_dir() and (old / "artifacts").is_dir():
            raise TrackingError(f"the artifacts of {home.path} were left behind in {old / 'artifacts'}; move them too")
        _relocate(home, old)
        home.identify()
    return old


def adopt(home: Home) -> None:
    """Give a copied home an id of its own, and its experiments the new id and paths. Interrupted, it is repeated.

    Optuna's studies are adopted by `search.studies.adopt`. Raises TrackingError if the store cannot be used.
    """
    if home.original is not None:
        _relocate(home, home.original)
        home.identify(new=True)
    client = connect(home)
    with store_errors(home):
        query = f"tags.`{HOME_TAG}` = '{home.replaces}'"
        for experiment in list(every_page(partial(client.search_experiments, ViewType.ALL, filter_string=query))):
            client.set_experiment_tag(experiment.experiment_id, HOME_TAG, home.id)


def _relocate(home: Home, old: Path) -> None:
    if home.local_tracking and home.has_tracking():
        relocate(database_file(home), (old / "artifacts").as_uri(), home.artifacts.as_uri())
