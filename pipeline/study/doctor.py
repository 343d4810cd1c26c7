"""Whether Optuna, MLflow, the checkpoints and the artifacts agree, and how to repair them where they do not.

Comes in: a session, or a home. Goes out: findings, each with its repair where there is one. Optuna's database is the
authority: a repair brings the rest to what it says. A run examines its study in the same way when it starts.
"""

import threading
import time
from collections.abc import Iterator
from functools import partial

from pipeline.config import check_name
from pipeline.config.outcomes import EpochResult
from pipeline.data import load
from pipeline.errors import InputError, Interrupted, NotFoundError
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.panel import panel
from pipeline.home import Home
from pipeline.search.ask_tell import Search
from pipeline.search.lock import study_lock
from pipeline.search.records import EndedTrial, ended
from pipeline.search.studies import adopt as adopt_studies
from pipeline.search.studies import load_search, load_searches, owned
from pipeline.study.model_findings import (
    Finding,
    finish_again,
    model_problem,
    stray_models,
    training_findings,
    version_findings,
)
from pipeline.study.reporter import Reporter
from pipeline.study.session import Device, Session, trial_label
from pipeline.tracking.models import MODEL_ID, load_restorer
from pipeline.tracking.runs import CONTACT_SHEET, RUN_STATUS, StoredRun, Tracking, read_tracking
from pipeline.tracking.store import adopt as adopt_experiments
from pipeline.tracking.store import experiment_names, settle_move, uid_for
from pipeline.tracking.uids import TRAINING, baseline_uid, judge_uid, study_run_uid


def examine_home(home: Home, reporter: Reporter) -> Iterator[tuple[str, Finding]]:
    """Every study's findings, with the study's name; a study that is being run is left unchanged.

    Findings come one by one: if each is repaired before the next is asked for, one pass repairs a home. Raises
    NotFoundError where there is no home.
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
    for name in sorted({*own, *experiment_names(home)}):
        try:
            check_name(name, "MLflow's experiment")  # the name becomes a lock's path, and a store may hold any name
            with study_lock(home, name):
                found = _examine_study(home, name, reporter) if name in own else _examine_trainings(home, name)
                for finding in found:
                    yield name, finding
        except InputError as error:  # the lock is held, or the data set is not there
            yield name, Finding(str(error))
    known = {search.uid for search in studies.values()}
    for folder in sorted((home.path / "checkpoints").glob("*")):
        if folder.name not in known and not folder.name.startswith(TRAINING):  # single trainings can be resumed
            text = f"{folder}: checkpoints of a study that no longer exists"
            yield "-", Finding(text, partial(home.remove, folder))


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


def examine(session: Session, load_versions: bool = False) -> Iterator[Finding]:
    """One study's findings, each to be repaired before the next is asked for."""
    search, tracking = session.search, session.tracking
    trials = ended(search.records())
    runs = tracking.runs("trial")
    yield from _runs(session, trials, runs)
    by_id = {run.run_id: run for run in runs}
    for trial in trials:
        yield from _ended_trial(session, trial, by_id.get(trial.summary.run_id))
    yield from version_findings(session, ended(search.records()), load_versions)
    yield from _other_runs(search, tracking, any(trial.state == "COMPLETE" for trial in trials))
    yield from _other_roles(tracking)
    yield from _leftovers(session.home, search, {trial.number for trial in trials})


def repair(findings: Iterator[Finding], reporter: Reporter, stop: threading.Event) -> None:
    """Repair each finding, where that is possible, before asking for the next. Raises Interrupted to stop."""
    for finding in findings:
        if stop.is_set():
            raise Interrupted
        if finding.repair is not None:
            finding.repair()
            reporter.note(f"repaired: {finding.text}")


def _examine_study(home: Home, name: str, reporter: Reporter) -> Iterator[Finding]:
    search = load_search(home, name)
    config, facts = search.config, search.facts
    data = load(config.dataset, home.data_dir)
    if data.digest != facts["data.sha256"]:
        raise InputError(f"dataset {data.name} is not the one that study {name} was run on; its runs are not examined")
    device: Device = "cuda" if facts["device"] == "cuda" else "cpu"
    tracking, labels = read_tracking(home, name, search.uid), partial(trial_label, search.uid)
    never = threading.Event()
    session = Session(config, home, data, device, search, tracking, reporter, never, None, {}, labels)
    yield from examine(session, load_versions=True)


def _examine_trainings(home: Home, name: str) -> Iterator[Finding]:
    """An experiment of single trainings, without a study."""
    try:
        tracking = read_tracking(home, name, uid_for(home, name, None))
    except NotFoundError:
        yield Finding(f"its deletion was interrupted; run `study delete {name}` again")
        return
    yield from _other_roles(tracking)


def _runs(session: Session, trials: list[EndedTrial], runs: list[StoredRun]) -> Iterator[Finding]:
    """Runs that belong to no trial, second runs of a trial, and runs left RUNNING."""
    tracking = session.tracking
    own: dict[str, str] = {}  # the run of each trial: the one in its summary, else the first
    for run in runs:
        own.setdefault(run.tags.get("trial.uid", ""), run.run_id)
    finished = {session.label(trial.number).uid: trial.summary.run_id for trial in trials}
    own |= finished
    numbers = {session.label(number).uid: number for number in range(len(session.search.trials()))}
    for run in runs:
        uid = run.tags.get("trial.uid", "")
        if uid not in numbers:
            yield Finding(f"run {run.name} ({run.run_id}) belongs to no trial", partial(tracking.delete, run.run_id))
        elif run.run_id != own[uid]:
            text = f"trial {numbers[uid]} has a second run ({run.run_id})"
            yield Finding(text, partial(tracking.delete, run.run_id))
        elif uid not in finished and run.status == "RUNNING":
            text = f"run {run.name} was left RUNNING; its trial is not finished"
            yield Finding(text, partial(tracking.suspend, run.run_id))


def _ended_trial(session: Session, trial: EndedTrial, run: StoredRun | None) -> Iterator[Finding]:
    if run is None:
        yield Finding(f"trial {trial.number} ({trial.state}) has no run", partial(_rebuild, session, trial))
        return
    wrong, complete = [], trial.state == "COMPLETE"
    if run.status != RUN_STATUS[trial.state] or run.tags.get("trial.state") != trial.state:
        wrong.append(f"it is {run.status}, its trial {trial.state}")
    if complete and (problem := model_problem(session, trial, run)):
        wrong.append(problem)
    elif complete and not session.tracking.has_panel(run, trial.summary.best_epoch):
        wrong.append("the picture of its best epoch is lost")
    if wrong:
        yield Finding(f"run {run.name}: {'; '.join(wrong)}", partial(_complete_run, session, trial))


def _complete_run(session: Session, trial: EndedTrial) -> None:
    """Finish an ended trial again, with a new model or panel where that is lost or damaged."""
    tracking, run_id, epoch = session.tracking, trial.summary.run_id, trial.summary.best_epoch
    finish_again(session, trial)
    run = tracking.read(run_id)
    if trial.state == "COMPLETE" and run and not tracking.has_panel(run, epoch):
        sha256 = session.search.ended(trial.number).summary.weights_sha256
        model = load_restorer(run.tags[MODEL_ID], sha256)
        with threads(session.config.budget.threads_per_trial):
            picture = panel(without_gradients(model), session.data.val, session.config.degrade, "val")
        tracking.log_panel(run_id, picture, epoch, look_first=True)


def _rebuild(session: Session, trial: EndedTrial) -> None:
    """Restore a deleted run. If it is gone, make it from what Optuna has: objectives, and metrics of the best epoch."""
    search, tracking, summary = session.search, session.tracking, trial.summary
    label = session.label(trial.number)
    if tracking.restore(summary.run_id):
        tracking.tag(summary.run_id, label.tags | {"trial.uid": label.uid})
        _complete_run(session, trial)
        return
    config = session.config.trial(trial.values, trial.number, session.device)
    tags = label.tags | {
        "study.name": session.config.name,
        "trial.config": config.model_dump_json(),
        "data.sha256": session.data.digest,
        "reconstructed": "true",
    }
    run_id = tracking.run(label.uid, label.name, tags, config.params(), session.data, trial.started.timestamp())
    for epoch, value in trial.reported.items():
        metrics = summary.metrics if epoch == summary.best_epoch else {session.objective: value}
        tracking.log_epoch(run_id, EpochResult(epoch, metrics, time.time()))
    search.adopt(trial.number, run_id)
    _complete_run(session, search.ended(trial.number))


def _other_runs(search: Search, tracking: Tracking, has_best: bool) -> Iterator[Finding]:
    """Runs of baselines, the judge and the study itself that were made and are lost.

    The repair removes the mark that they exist, so that the next `study run` makes them again.
    """
    again = "the next `study run` makes it again"
    for name in search.baselines:
        if tracking.find(baseline_uid(search.uid, name)) is None:
            others = {other: metrics for other, metrics in search.baselines.items() if other != name}
            yield Finding(f"baseline {name} has no run; {again}", partial(setattr, search, "baselines", others))
    judge = search.judge
    if judge is not None and tracking.find(judge_uid(search.uid, judge)) is None:
        yield Finding(f"the judge's run is lost; {again}", partial(setattr, search, "judge", None))
    if search.published is not None:
        run = tracking.find(study_run_uid(search.uid))
        if run is None or (has_best and not tracking.has_file(run.run_id, CONTACT_SHEET)):
            what = "the study's own run" if run is None else "the contact sheet"
            yield Finding(f"{what} is lost; {again}", partial(setattr, search, "published", None))


def _other_roles(tracking: Tracking) -> Iterator[Finding]:
    """Runs left RUNNING that are not trials', single trainings without their model, files that belong to no run."""
    runs = [(run, run.tags.get("study.role")) for run in tracking.runs()]
    for run, role in runs:
        if role != "trial" and run.status == "RUNNING":
            yield Finding(f"run {run.name} was left RUNNING", partial(tracking.suspend, run.run_id))
    yield from training_findings(tracking, [run for run, _ in runs])
    yield from stray_models(tracking)
    for file in tracking.stray_images():
        yield Finding(f"{file}: is not one of the run's images and hides them", partial(tracking.home.remove, file))


def _leftovers(home: Home, search: Search, ended_numbers: set[int]) -> Iterator[Finding]:
    """Checkpoints that are not needed any more."""
    for folder in sorted(home.checkpoints(search.uid).glob("*")):
        if folder.name.isdigit() and int(folder.name) in ended_numbers:
            yield Finding(f"{folder}: checkpoints of an ended trial", partial(home.remove, folder))
        else:
            for file in sorted(folder.glob("*.tmp")):
                yield Finding(f"{file}: left by an interrupted write", partial(home.remove, file))
