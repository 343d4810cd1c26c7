"""A whole home or one study examined: what is looked at, and in which order.

Comes in: a home, or a session. Goes out: findings, each with its repair where there is one.
"""

import threading
from collections.abc import Iterator, Sequence
from functools import partial

from pipeline.config import check_name
from pipeline.data import load
from pipeline.errors import InputError, LossError, NotFoundError, TrackingError
from pipeline.home import Home
from pipeline.search.lock import StudyLock, study_lock
from pipeline.search.records import ended
from pipeline.search.studies import adopt as adopt_studies
from pipeline.search.studies import load_search, load_searches, owned
from pipeline.study.doctor.findings import Finding
from pipeline.study.doctor.lost import check, restore_tags
from pipeline.study.doctor.model_findings import export_findings, stray_models, training_findings, version_findings
from pipeline.study.doctor.run_findings import run_findings, training_run_findings
from pipeline.study.replicas import replicas
from pipeline.study.reporter import Reporter
from pipeline.study.session import Session, experiment_heading, precision_of, trial_label
from pipeline.tracking.experiments import UID_TAG, edited_tags, experiment_names, home_experiments, settle_move, uid_for
from pipeline.tracking.experiments import adopt as adopt_experiments
from pipeline.tracking.runs import StoredRun, Tracking, open_tracking, read_tracking
from pipeline.tracking.store import patience_with
from pipeline.tracking.uids import TRAINING
from pipeline.workers.machine import Device


def examine_home(home: Home, reporter: Reporter, retrain: bool = False) -> Iterator[tuple[str, Finding]]:
    """Every study's findings, with the study's name; a study that is being run is left unchanged.

    Findings come one by one: if each is repaired before the next is asked for, one pass repairs a home. Of a study of
    which a database lost a part nothing is repaired, but with ``retrain`` runs that MLflow lost are made again: the
    trials are trained again. Raises NotFoundError where there is no home.
    """
    if not home.exists() and not home.has_tracking():
        raise NotFoundError(f"{home.path}: there is no home of studies; name it with --home")
    if home.original is not None:
        yield "-", Finding(f"the home is a copy of {home.original}; `study doctor --adopt` makes it a home of its own")
        return
    if old := home.moved_from:
        text = f"the home was moved here from {old}; the paths in its databases are old"
        yield "-", Finding(text, partial(settle_move, home))
        if home.moved_from:  # not repaired, so nothing is found where it should be
            return
    studies = {search.config.name: search for search in load_searches(home)}
    own = {name for name, search in studies.items() if owned(home, search)}
    for name in sorted(own):
        if edited_tags(home, name, studies[name].uid, studies[name].experiment):
            yield name, Finding("the tags of its experiment were edited", partial(restore_tags, home, name))
    for name in sorted({*own, *experiment_names(home)}):
        try:
            check_name(name, "MLflow's experiment")  # the name becomes a lock's path, and a store may hold any name
            with study_lock(home, name) as lock:
                runs = check(home, name, retrain)
                if name in own:
                    found = _examine_study(home, name, lock, runs, reporter, retrain)
                else:
                    found = _examine_trainings(home, name, runs)
                for finding in found:
                    yield name, finding
        except (InputError, LossError, TrackingError) as error:  # also: the lock is held, or the data set is absent
            yield name, Finding(str(error))
    known = {search.uid for search in studies.values()} | {e.tags.get(UID_TAG) for e in home_experiments(home)}
    for folder in sorted((home.path / "checkpoints").glob("*")):
        if folder.name not in known and not folder.name.startswith(TRAINING):  # single trainings can be resumed
            text = f"{folder}: checkpoints of a study that neither Optuna nor MLflow knows; remove the folder by hand"
            yield "-", Finding(text)


def adopt_home(home: Home) -> None:
    """Make a copied home a home of its own; the original is left unchanged. Interrupted, it is repeated.

    Raises:
        InputError: it is no copy, or its databases are not all files in it, so that it shares them with the original.
    """
    if home.original is None and home.replaces is None:
        raise InputError(f"--home {home.path}: is not a copy of another home; --adopt is for copies only")
    shared = [url for url in (home.tracking_uri, home.storage_url) if not url.startswith(f"sqlite:///{home.path}/")]
    if shared:
        raise InputError(f"--adopt: {shared[0]} is not in {home.path}: a copy cannot own the studies there")
    adopt_experiments(home)
    adopt_studies(home)


def examine(session: Session, thorough: bool = False, retrain: bool = False) -> Iterator[Finding]:
    """One study's findings, each to be repaired before the next is asked for; arguments as of `run_findings`."""
    parts, found = (session, replicas(session)), False
    for finding in _of_trials(parts, thorough, retrain):
        found = True
        yield finding
    runs = session.tracking.runs(deleted=True) if found else session.runs
    yield from _models_and_images(session.tracking, runs)
    yield from _leftovers(parts)


def _of_trials(parts: Sequence[Session], thorough: bool, retrain: bool) -> Iterator[Finding]:
    """What is wrong with the runs and models of a study and of its replicates."""
    yield from run_findings(parts, thorough, retrain)
    for part in parts:
        if thorough:  # `run` exports models when it ends
            yield from export_findings(part)
        yield from version_findings(part, ended(part.search.records()), load=thorough)


def _examine_study(
    home: Home, name: str, lock: StudyLock, runs: list[StoredRun], reporter: Reporter, retrain: bool
) -> Iterator[Finding]:
    search = load_search(home, name)
    search.hold(lock.ensure)
    config, facts = search.config, search.facts
    home = home.with_data(config.dataset)
    data = load(config.dataset, home.data_dir)
    if data.digest != facts["data.sha256"]:
        raise InputError(f"dataset {data.name} is not the one that study {name} was run on; its runs are not examined")
    device: Device = "cuda" if facts["device"] == "cuda" else "cpu"
    never = threading.Event()
    if retrain:  # the database or the experiment may be what was lost
        tracking = open_tracking(home, name, search.uid, experiment_heading(config, data), patience_with(home))
        search.experiment = tracking.experiment_id
    tracking, labels = read_tracking(home, name, search.uid), partial(trial_label, search.uid)
    precision = precision_of(facts)
    session = Session(config, home, data, device, precision, search, tracking, reporter, never, None, {}, labels, runs)
    yield from examine(session, thorough=True, retrain=retrain)


def _examine_trainings(home: Home, name: str, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """An experiment of single trainings, without a study."""
    try:
        tracking = read_tracking(home, name, uid_for(home, name, None))
    except NotFoundError:
        yield Finding(f"its deletion was interrupted; run `study delete {name}` again")
        return
    yield from training_run_findings(tracking, name, [run for run in runs if not run.deleted])
    yield from _models_and_images(tracking, tracking.runs(deleted=True))


def _models_and_images(tracking: Tracking, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Single trainings without their model, models and files that belong to no run."""
    active = [run for run in runs if not run.deleted]
    yield from training_findings(tracking, active)
    yield from stray_models(tracking, runs)
    for file in tracking.stray_images(active):
        yield Finding(
            f"{file}: is not one of the run's images, or a part of one only", partial(tracking.home.remove, file)
        )


def _leftovers(parts: Sequence[Session]) -> Iterator[Finding]:
    """Checkpoints that are not needed any more."""
    home, uid = parts[0].home, parts[0].search.uid
    over = {part.checkpoints(trial.number) for part in parts for trial in ended(part.search.records())}
    for folder in sorted(home.checkpoints(uid).glob("*")):
        if folder in over:
            yield Finding(f"{folder}: checkpoints of an ended trial", partial(home.remove, folder))
        else:
            for file in sorted(folder.glob("*.tmp")):
                yield Finding(f"{file}: left by an interrupted write", partial(home.remove, file))
