"""Whether a database lost what the other one or the checkpoints still have: then nothing is repaired unasked.

Comes in: a home and a study's name. Goes out: what is missing, from which file, and what to do. Writes nothing but the
tags by which an experiment is found.
"""

from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import LossError, NotFoundError
from pipeline.home import Home, sqlite_file
from pipeline.search.records import RunningTrial, StoredTrial, ended
from pipeline.search.studies import load_searches, owned
from pipeline.tracking.experiments import (
    DELETED_TAG,
    UID_TAG,
    edited_tags,
    experiment_uid,
    home_experiments,
    tag_experiment,
)
from pipeline.tracking.runs import RUN_STATUS, StoredRun, read_tracking
from pipeline.tracking.uids import trial_number, trial_uid
from pipeline.training.checkpoint import found


def check(home: Home, name: str, retrain: bool = False) -> list[StoredRun]:
    """Refuse to work on a study of which a database lost a part; a study that is not of this home is not examined.

    Returns the study's runs in MLflow, the deleted ones too: reading them takes a second per 1,000.

    Raises:
        LossError: something is lost, and nothing was changed. With ``retrain`` runs that MLflow lost are no loss: they
            are to be trained again.
    """
    search = next(iter(load_searches(home, name)), None)
    uid = search.uid if search else experiment_uid(home, name)
    if uid is None or (search and not owned(home, search)):
        return []
    if search and edited_tags(home, name, uid, search.experiment):
        raise LossError(
            f"the tags of MLflow's experiment of study {name} were edited; `study doctor --repair` restores them"
        )
    try:
        runs = read_tracking(home, name, uid).runs(deleted=True)
    except NotFoundError:
        if any(e.tags.get(UID_TAG) == uid and DELETED_TAG in e.tags for e in home_experiments(home)):
            raise LossError(f"the deletion of study {name} was interrupted; run `study delete {name}` again") from None
        runs = []
    trials, folder = search.records() if search else [], home.checkpoints(uid)
    if (missing := _unknown_to_optuna(uid, trials, runs, folder)) is not None:
        where, there = _named(home.storage_url, "Optuna's database")
        raise LossError(
            f"{where} lacks {_numbered(missing)} of study {name}, which MLflow or the checkpoints have; nothing was "
            f"changed. Put {there} back as it was, or delete what is left of the study: `study delete {name}`"
        )
    if (missing := _unknown_to_mlflow(uid, trials, runs, folder)) and not retrain:
        where, there = _named(home.tracking_uri, "MLflow's store")
        raise LossError(
            f"{where} lacks the runs of {_numbered(missing)} of study {name}, and their checkpoints are gone; nothing "
            f"was changed. Put {there} back as it was, or train them again (`study doctor --repair --retrain`), or "
            f"delete the study (`study delete {name}`)"
        )
    return runs


def restore_tags(home: Home, name: str) -> bool:
    """Give a study's experiment the tags by which it is found, if they were edited; whether they were."""
    for search in load_searches(home, name):
        tags = edited_tags(home, name, search.uid, search.experiment) if owned(home, search) else {}
        if tags and search.experiment:
            tag_experiment(home, search.experiment, tags)
            return True
    return False


def _unknown_to_optuna(
    uid: str, trials: list[StoredTrial], runs: list[StoredRun], folder: Path
) -> set[int | None] | None:
    """The trials whose end Optuna does not know, None for an unknown number; an end is recorded there first."""
    known = {trial.summary.run_id for trial in ended(trials)}
    missing = set[int | None]()
    for run in runs:
        if run.deleted or run.run_id in known or run.status not in RUN_STATUS.values():
            continue
        number = trial_number(uid, run.tags)
        nameless = number is None and not trials and run.tags.get("study.role") == "trial"
        absent = number is not None and (number >= len(trials) or isinstance(trials[number], RunningTrial))
        if nameless or absent:
            missing.add(number)
    for trial in folder.glob("[0-9]*"):
        if trial.name.isdecimal() and int(trial.name) >= len(trials) and found(trial):
            missing.add(int(trial.name))
    return missing or None


def _unknown_to_mlflow(uid: str, trials: list[StoredTrial], runs: list[StoredRun], folder: Path) -> set[int | None]:
    """The ended trials that have neither a run, nor a deleted one, nor checkpoints."""
    ids = {run.run_id for run in runs}
    again = {run.tags.get("trial.uid") for run in runs if not run.deleted}  # of those that are being made again
    absent = {trial.number for trial in ended(trials) if trial.summary.run_id not in ids}
    return {n for n in absent if trial_uid(uid, n) not in again and not found(folder / f"{n:04d}")}


def _named(url: str, server: str) -> tuple[str, str]:
    """A database in words, and how it is called after that; a server's URL may hold a password."""
    file = sqlite_file(url)
    return (str(file), "the file") if file else (server, "the database")


def _numbered(numbers: Iterable[int | None]) -> str:
    """``trial 4``, or ``trials 0 to 2, 5``; trials of unknown numbers are left out if there are others."""
    ranges: list[list[int]] = []
    for number in sorted(number for number in numbers if number is not None):
        if ranges and ranges[-1][-1] == number - 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    parts = [f"{r[0]} to {r[-1]}" if len(r) > 1 else str(r[0]) for r in ranges]
    one = len(ranges) == 1 and len(ranges[0]) == 1
    return f"trial{'' if one else 's'} {', '.join(parts)}".strip()
