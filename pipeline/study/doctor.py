"""Whether Optuna, MLflow, the checkpoints and the artifacts say the same, and how to mend it where they do not.

Comes in: a study's search, tracking and home. Goes out: findings, each with its repair where there is one. Optuna's
database is the authority: a repair brings the rest to what it says. `run` does the same for its study when it starts.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlparse

from pipeline.config import check_name
from pipeline.config.results import EpochResult
from pipeline.data import load
from pipeline.errors import InputError, NotFoundError, StudyError
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.panel import panel
from pipeline.home import Home
from pipeline.search.ask_tell import Search, load_search, study_names
from pipeline.search.records import Record
from pipeline.study.finish import Finisher
from pipeline.tracking._mlflow import relocate
from pipeline.tracking.models import load_verified
from pipeline.tracking.runs import (
    CONTACT_SHEET,
    RUN_STATUS,
    DataInput,
    StoredRun,
    Tracking,
    read_tracking,
)
from pipeline.tracking.store import experiment_names
from pipeline.tracking.uids import judge_uid


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be."""

    text: str
    repair: Callable[[], None] | None = None


def examine_home(home: Home, note: Callable[[str], None]) -> Iterator[tuple[str, Finding]]:
    """Every study's findings, with the study's name; a study that is being run is left alone.

    Findings come one by one: repairing each before the next is asked for mends a home in one pass.
    """
    if not home.exists() and not home.has_tracking():
        raise NotFoundError(f"{home.path}: there is no home of studies; name it with --home")
    studies = study_names(home)
    for name in sorted({*studies, *experiment_names(home)}):
        try:
            check_name(name, "MLflow's experiment")  # a store may be anybody's, and the name becomes a lock's path
            with home.driver_lock(name):
                examined = _examine_study(home, name, note) if name in studies else _examine_trainings(home, name)
                for finding in examined:
                    yield name, finding
        except InputError as error:  # the lock is held, or the data set is not there
            yield name, Finding(str(error))
    known = {load_search(home, name).uid for name in study_names(home)}
    for folder in sorted((home.path / "checkpoints").glob("*")):
        if folder.name not in known and not folder.name.startswith("train-"):  # those can be gone on with
            text = f"{folder}: checkpoints of a study that is not there"
            yield "-", Finding(text, partial(shutil.rmtree, folder))


def examine(home: Home, search: Search, tracking: Tracking, finisher: Finisher) -> Iterator[Finding]:
    """One study's findings, each to be repaired before the next is asked for."""
    yield from moved(home, tracking)
    records = search.records()
    uids = {f"{search.uid}-{record.number}": record for record in records}
    runs = tracking.runs("trial")
    by_id = {run.run_id: run for run in runs}

    for run in runs:
        uid = run.tags.get("trial.uid", "")
        record = uids.get(uid)
        if record is None:
            yield Finding(f"run {run.name} ({run.run_id}) belongs to no trial", partial(tracking.delete, run.run_id))
        elif run.run_id != _rightful(runs, uid, record):
            text = f"trial {record.number} has a second run ({run.run_id})"
            yield Finding(text, partial(tracking.delete, run.run_id))
        elif record.summary is None and run.status == "RUNNING":
            text = f"run {run.name} was left RUNNING; its trial is not finished"
            yield Finding(text, partial(tracking.suspend, run.run_id))
    for record in records:
        if record.summary is not None:
            yield from _ended_trial(record, by_id.get(record.summary.run_id), search, tracking, finisher)
    yield from _beside_the_trials(search, tracking, records)
    yield from _trainings(tracking)
    yield from _strays(tracking)
    yield from _leftovers(home, search, records)


def _examine_study(home: Home, name: str, note: Callable[[str], None]) -> Iterator[Finding]:
    search = load_search(home, name)
    tracking = read_tracking(home, name)
    facts = search.recall("facts")
    data = load(search.config.dataset, home.data_dir)
    if data.digest != facts["data.sha256"]:
        raise InputError(f"dataset {data.name} is not the one that study {name} was run on; its runs are not examined")
    finisher = Finisher(search.config, data, home, facts["device"], search.uid, tracking, note, lambda: False)
    yield from examine(home, search, tracking, finisher)


def _examine_trainings(home: Home, name: str) -> Iterator[Finding]:
    """An experiment of single trainings, without a study."""
    try:
        tracking = read_tracking(home, name)
    except NotFoundError:
        yield Finding(f"its deletion was cut short; `study delete {name}` ends it")
        return
    yield from moved(home, tracking)
    yield from _trainings(tracking)
    yield from _strays(tracking)


def _rightful(runs: list[StoredRun], uid: str, record: Record) -> str:
    """The run that is a trial's own: the one its summary names, else the first."""
    if record.summary is not None:
        return record.summary.run_id
    return next(run.run_id for run in runs if run.tags.get("trial.uid") == uid)


def _ended_trial(
    record: Record, run: StoredRun | None, search: Search, tracking: Tracking, finisher: Finisher
) -> Iterator[Finding]:
    summary = record.summary
    assert summary is not None
    finish: Callable[[], None] = partial(finisher.finish, record)
    if run is None:
        text = f"trial {record.number} ({record.state}) has no run"
        yield Finding(text, partial(_rebuild, record, search, tracking, finisher))
        return
    amiss: list[str] = []
    if run.status != RUN_STATUS[record.state] or run.tags.get("trial.state") != record.state:
        amiss.append(f"it is {run.status}, its trial {record.state}")
    problem = tracking.models.problem(run.run_id, run.tags) if record.state == "COMPLETE" else None
    if problem is not None:
        amiss.append(problem)
        finish = partial(_log_model_again, run.run_id, tracking, finish)
    elif record.state == "COMPLETE" and not tracking.has_panel(run.run_id, summary.best_epoch):
        amiss.append("the picture of its best epoch is gone")
        finish = partial(_finish_and_draw, finish, record, run.run_id, tracking, finisher)
    if amiss:
        yield Finding(f"run {run.name}: {'; '.join(amiss)}", finish)


def _log_model_again(run_id: str, tracking: Tracking, finish: Callable[[], None]) -> None:
    tracking.models.delete_of_run(run_id)
    finish()


def _finish_and_draw(
    finish: Callable[[], None], record: Record, run_id: str, tracking: Tracking, finisher: Finisher
) -> None:
    """Finish a complete trial whose picture is gone, and draw it with the model that was logged."""
    finish()
    assert record.summary is not None
    tags = next(run.tags for run in tracking.runs("trial") if run.run_id == run_id)
    model = load_verified(tags["model.id"], json.loads(tags["model.sha256"]))
    with threads(finisher.config.budget.threads_per_trial):
        picture = panel(without_gradients(model), finisher.data.val, finisher.config.degrade, "val")
    tracking.log_panel(run_id, picture, record.summary.best_epoch, look_first=True)


def _rebuild(record: Record, search: Search, tracking: Tracking, finisher: Finisher) -> None:
    """Make a lost run again from what Optuna has: the objective of every epoch, all metrics of the best one."""
    summary = record.summary
    assert summary is not None
    config = finisher.config.trial(record.values, record.number, finisher.device)
    tags = {
        "study.name": finisher.config.name,
        "study.role": "trial",
        "trial.number": str(record.number),
        "trial.config": config.model_dump_json(),
        "data.sha256": finisher.data.digest,
        "reconstructed": "true",
    }
    data = DataInput(finisher.data.name, finisher.data.digest, finisher.data.sizes)
    uid, name = f"{search.uid}-{record.number}", f"trial-{record.number:04d}"
    run_id = tracking.run(uid, name, tags, config.params(), data, record.started.timestamp())
    metric = f"val/{finisher.config.objective.metric}"
    for epoch, value in record.reported.items():
        metrics = summary.metrics if epoch == summary.best_epoch else {metric: value}
        tracking.log_epoch(run_id, EpochResult(epoch, metrics, time.time()))
    search.adopt(record.number, run_id)
    finish = partial(finisher.finish, search.records()[record.number])
    if record.state == "COMPLETE":
        _finish_and_draw(finish, record, run_id, tracking, finisher)
    else:
        finish()


def _beside_the_trials(search: Search, tracking: Tracking, records: list[Record]) -> Iterator[Finding]:
    """Runs of other roles that are known to have been made and are gone.

    What made them is forgotten by the repair, so that the next `run` of the study makes them again.
    """
    baselines = search.recall("baselines", {})
    for name in baselines:
        if tracking.find(f"{search.uid}-baseline-{name}") is None:
            rest = {other: figures for other, figures in search.recall("baselines").items() if other != name}
            text = f"baseline {name} has no run; the next `study run` makes it again"
            yield Finding(text, partial(search.remember, "baselines", rest))
    judge = search.recall("judge")
    if judge is not None and tracking.find(judge_uid(search.uid, judge)) is None:
        text = "the judge's run is gone; the next `study run` makes it again"
        yield Finding(text, partial(search.remember, "judge", None))
    if search.recall("summarised") is not None:
        run_id = tracking.find(f"{search.uid}-study")
        drawn = any(record.state == "COMPLETE" for record in records)
        if run_id is None or (drawn and not tracking.has_file(run_id, CONTACT_SHEET)):
            what = "the study's own run" if run_id is None else "the contact sheet"
            text = f"{what} is gone; the next `study run` makes it again"
            yield Finding(text, partial(search.remember, "summarised", None))


def _trainings(tracking: Tracking) -> Iterator[Finding]:
    """Runs beside the trials' left under way, and single trainings whose model is lost or damaged."""
    for run in tracking.unfinished():
        if run.tags.get("study.role") != "trial" and run.status == "RUNNING":
            yield Finding(f"run {run.name} was left RUNNING", partial(tracking.suspend, run.run_id))
    for run in tracking.runs("train"):
        problem = tracking.models.problem(run.run_id, run.tags) if run.status == "FINISHED" else None
        if problem is not None:
            text = f"run {run.name}: {problem}; the `study train` that made it makes it again"
            yield Finding(text, partial(_forget_training, run.run_id, tracking))


def _forget_training(run_id: str, tracking: Tracking) -> None:
    """Have a single training count as not ended, so that the same command trains it again."""
    tracking.models.delete_of_run(run_id)
    tracking.suspend(run_id)


def _strays(tracking: Tracking) -> Iterator[Finding]:
    """Models and pictures that no run has."""
    owners = {run.run_id for role in ("trial", "train", "replicate") for run in tracking.runs(role)}
    for model_id, status in tracking.models.stray(owners):
        text = f"logged model {model_id} is {status} and belongs to no finished run"
        yield Finding(text, partial(tracking.models.delete, model_id))
    for file in tracking.stray_images():
        yield Finding(f"{file}: does not belong among a run's images and hides them", file.unlink)


def _leftovers(home: Home, search: Search, records: list[Record]) -> Iterator[Finding]:
    """Checkpoints that are not needed any more."""
    ended = {record.number for record in records if record.summary is not None}
    for folder in sorted((home.path / "checkpoints" / search.uid).glob("*")):
        if folder.name.isdigit() and int(folder.name) in ended:
            yield Finding(f"{folder}: checkpoints of an ended trial", partial(shutil.rmtree, folder))
        else:
            for file in sorted(folder.glob("*.tmp")):
                yield Finding(f"{file}: left by an interrupted write", file.unlink)


def moved(home: Home, tracking: Tracking) -> Iterator[Finding]:
    """A home that lies elsewhere than when it was written: MLflow stores the places of artifacts absolute."""
    if not home.local_tracking:
        return
    stored = tracking.location()
    here = home.artifacts.as_uri()
    old = stored.rpartition("/")[0]
    if old == here:
        return
    if not home.artifacts.is_dir():
        raise StudyError(f"{home.artifacts}: the artifacts of {home.path} are not there; they were at {_path(old)}")
    database = Path(_path(home.tracking_uri.replace("sqlite:///", "file://")))
    text = f"the home was moved: its artifacts are recorded at {_path(old)}"
    yield Finding(text, partial(relocate, database, old, here))  # type: ignore[arg-type]


def _path(uri: str) -> str:
    return unquote(urlparse(uri).path)
