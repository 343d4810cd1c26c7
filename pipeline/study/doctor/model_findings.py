"""Whether the models of a study and the registered versions of its trials are sound, and how they are repaired.

Comes in: a session and its runs. Goes out: findings. No repair deletes what a registered version names: its model is
written again in place, or a new version takes the place of one whose model is lost.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from pipeline.errors import RESUME, EngineError, Interrupted, StudyError, TrackingError
from pipeline.evaluation.batches import example
from pipeline.search.records import EndedTrial, ranked
from pipeline.study.doctor.findings import Finding, are_lost
from pipeline.study.finish import finish, log_saved
from pipeline.study.session import Session
from pipeline.tracking.models import (
    EXPORT_TAG,
    MODEL_ID,
    WEIGHTS_TAG,
    check_files,
    export,
    load_restorer,
    read_manifest,
)
from pipeline.tracking.registry import REPLACED_BY, RegisteredVersion, registry_lock, replace_version, tag_version
from pipeline.tracking.runs import StoredRun, Tracking, weights_of
from pipeline.workers import Lost, Raised, Returned, ThisProcess, Workers


def finish_again(session: Session, trial: EndedTrial) -> None:
    """Bring an ended trial's run up to date, its exported model and the registered versions of it."""
    log_saved(session, trial)
    finish(session, trial)
    trial = session.search.ended(trial.number)  # its weights may be others now
    run = session.tracking.read(trial.summary.run_id)
    if trial.state == "COMPLETE" and run is not None and (MODEL_ID in run.tags or _own_versions(session, [trial])):
        repair_exports(session, [trial])


# --- exported models ----------------------------------------------------------------------------------------------


def export_models(session: Session, workers: Workers) -> None:
    """Export the models of the best trials, as tasks of these workers, and remove those of the others.

    ``keep_models`` says how many are kept; what a registered version names is kept as well. Raises Interrupted if the
    user asks to stop.
    """
    missing = missing_exports(session)
    damaged = [f"repaired: run {run.name}: {problem}" for _, run, problem in missing if MODEL_ID in run.tags]
    export_trials(session, [trial for trial, _, _ in missing], workers)
    for text in damaged:
        session.reporter.note(text)
    for trial in _surplus(session):
        drop_export(session, trial)


def missing_exports(session: Session) -> list[tuple[EndedTrial, StoredRun, str]]:
    """The trials whose model must be exported and is not, or is not sound, each with its run and what is wrong."""
    found = []
    for trial in _kept(session):
        run = session.tracking.read(trial.summary.run_id)
        if run is not None and (problem := session.tracking.models.problem(run.run_id, run.tags, _sha256(trial))):
            found.append((trial, run, problem))
    return found


def export_findings(session: Session) -> Iterator[Finding]:
    """Exported models that are missing or not sound, and those of trials that are not among the best.

    Of a study that has not ended only those that it has are examined: `run` exports them when it ends.
    """
    ended_all = session.search.published == session.search.told()
    for trial, run, problem in missing_exports(session):
        if ended_all or MODEL_ID in run.tags:
            yield Finding(f"run {run.name}: {problem}", partial(repair_exports, session, [trial]))
    for trial in _surplus(session):
        text = f"trial {trial.number} has an exported model and is not among the best"
        yield Finding(text, partial(drop_export, session, trial))


def repair_exports(session: Session, trials: Sequence[EndedTrial]) -> None:
    """Export the models of these trials in this process, where theirs are not sound."""
    wanted = []
    for trial in trials:
        run = session.tracking.read(trial.summary.run_id)
        if run is not None and not _sound(session, trial, run):
            wanted.append(trial)
    export_trials(session, wanted, ThisProcess())
    for trial in trials:
        _update_versions(session, trial)


def drop_export(session: Session, trial: EndedTrial) -> None:
    """Remove a trial's exported model, unless a registered version names it by now: `promote` holds the same lock."""
    with registry_lock(session.home, session.config.model_name):
        session.tracking.models.drop(trial.summary.run_id)


def export_trials(session: Session, trials: Sequence[EndedTrial], workers: Workers) -> None:
    """Export the models of these trials on the workers, and log them here."""
    tracking, waiting, running = session.tracking, deque(trials), dict[int, EndedTrial]()
    images = example(session.data.val, session.config.degrade)
    while waiting or running:
        if session.stop.is_set():
            raise Interrupted
        while waiting and len(running) < workers.slots:
            trial = waiting.popleft()
            run = tracking.read(trial.summary.run_id)
            if run is not None:
                weights = weights_of(run, _sha256(trial))
                workers.submit(trial.number, export, weights, _sha256(trial), images)
                running[trial.number] = trial
        match workers.wait(0.2):
            case Returned(int(number), files):
                trial = running.pop(number)
                name = f"{session.config.name}-{session.label(number).name}"
                with registry_lock(session.home, session.config.model_name):  # `promote` may export the same
                    tracking.models.log(trial.summary.run_id, name, files, trial.summary.best_epoch)
                _update_versions(session, trial)
            case Raised(number, error):
                raise StudyError(f"the model of trial {number} could not be exported: {error}; {RESUME}") from error
            case Lost(number, reason):
                raise EngineError(f"the model of trial {number} could not be exported: {reason}; {RESUME}")


def _kept(session: Session) -> list[EndedTrial]:
    """The trials whose model is exported: the best ones, and those that a registered version was made of."""
    best = ranked(session.search.records(), session.config.objective.direction)
    keep = session.config.budget.keep_models
    count = len(best) if keep == "all" else keep
    named = {trial.number for _, trial in _own_versions(session, best)}
    return [trial for place, trial in enumerate(best) if place < count or trial.number in named]


def _surplus(session: Session) -> list[EndedTrial]:
    """The complete trials that have an exported model and need not: nothing names it, and they are not the best."""
    kept, tracking = {trial.number for trial in _kept(session)}, session.tracking
    others = {t.summary.run_id: t for t in ranked(session.search.records(), "minimize") if t.number not in kept}
    if not others:
        return []
    having, named = tracking.models.unnamed(), tracking.models.named()
    having |= {run.run_id for run in tracking.exported() if run.tags[MODEL_ID] not in named}
    return [trial for run_id, trial in others.items() if run_id in having]


def _sha256(trial: EndedTrial) -> str:
    return trial.summary.weights_sha256


def _sound(session: Session, trial: EndedTrial, run: StoredRun) -> bool:
    """Whether a trial's exported model is what its run's tags say, with the trial's weights."""
    if session.tracking.models.problem(run.run_id, run.tags, _sha256(trial)):
        return False
    return _loads(run.tags[MODEL_ID], run.tags, trial)


def _update_versions(session: Session, trial: EndedTrial) -> None:
    run = session.tracking.read(trial.summary.run_id)
    if run is not None:
        for version, _ in _own_versions(session, [trial]):
            _update(session, version, trial, run)


# --- registered versions, single trainings, stray models ------------------------------------------------------------


def version_findings(session: Session, trials: Sequence[EndedTrial], load: bool) -> Iterator[Finding]:
    """Registered versions of a study's trials that are not as their trials are; with ``load`` each is also loaded."""
    for version, trial in _own_versions(session, trials):
        if problem := _version_problem(session, version, trial, load):
            text = f"{_label(version)} ({session.label(trial.number).name}): {problem}"
            yield Finding(text, partial(_repair_version, session, trial.number))


def training_findings(tracking: Tracking, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Single trainings without their model or a picture; the repair makes them count as not ended."""
    for run in runs:
        if run.tags.get("study.role") != "train" or run.status != "FINISHED":
            continue
        problem = tracking.weights_problem(run)
        if problem is None and MODEL_ID in run.tags:
            problem = tracking.models.problem(run.run_id, run.tags)
        if problem is None and (lost := tracking.lost_pictures(run, run.best_epoch)):
            problem = f"of its best epoch {are_lost(lost)}"
        if problem:
            text = f"run {run.name}: {problem}; run the same `study train` again to train it again"
            yield Finding(text, partial(tracking.suspend, run.run_id))


def stray_models(tracking: Tracking, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Models that no run has, not even a deleted one, and no registered version names."""
    stray = tracking.models.stray({run.tags.get(MODEL_ID, "") for run in runs})
    if stray:  # `promote`, which does not wait for the study's lock, may have exported one since the runs were read
        stray = tracking.models.stray({run.tags.get(MODEL_ID, "") for run in tracking.runs(deleted=True)})
    for model_id, status in stray:
        text = f"logged model {model_id} is {status} and belongs to no finished run"
        yield Finding(text, partial(tracking.models.delete, model_id))


def _own_versions(session: Session, trials: Sequence[EndedTrial]) -> list[tuple[RegisteredVersion, EndedTrial]]:
    """The registered versions that `promote` made of these trials, but not those that have been replaced."""
    uid, found = session.search.uid, []
    by_run = {trial.summary.run_id: trial for trial in trials}
    by_uid = {session.label(trial.number).uid: trial for trial in trials}
    for version in session.tracking.versions():
        tags = version.tags
        trial = by_uid.get(tags.get("trial.uid", "")) if tags.get("study.uid") == uid else None
        if trial is None and tags.keys() & {"study.uid", "trial.uid", WEIGHTS_TAG}:  # one of them may be edited
            trial = by_run.get(version.run_id)
        if trial is not None and trial.state == "COMPLETE" and REPLACED_BY not in tags:
            found.append((version, trial))
    return found


def _version_problem(session: Session, version: RegisteredVersion, trial: EndedTrial, load: bool) -> str | None:
    expected = _identity(session, trial)
    if wrong := [key for key, value in expected.items() if version.tags.get(key) != value]:
        return f"its tag {wrong[0]} is not that of its trial"
    manifest = read_manifest(version.tags)
    if manifest is None:
        return f"its tag {EXPORT_TAG} is missing or malformed"
    if load:
        try:
            check_files(version.model_id, manifest)
            load_restorer(version.model_id, trial.summary.weights_sha256)
        except TrackingError as error:
            return str(error)
    return None


def _identity(session: Session, trial: EndedTrial) -> dict[str, str]:
    """The tags that a version of this trial must have."""
    label, sha256 = session.label(trial.number), trial.summary.weights_sha256
    number = label.tags["trial.number"]
    return {"study.uid": session.search.uid, "trial.uid": label.uid, "trial.number": number, WEIGHTS_TAG: sha256}


def _repair_version(session: Session, number: int) -> None:
    repair_exports(session, [session.search.ended(number)])


def _update(session: Session, version: RegisteredVersion, trial: EndedTrial, run: StoredRun) -> None:
    """Bring a version's tags to those of its model; if that is lost, replace the version."""
    expected = _identity(session, trial)
    if version.model_id == run.tags.get(MODEL_ID):
        tag_version(session.home, version, expected | {EXPORT_TAG: run.tags[EXPORT_TAG]})
    elif _loads(version.model_id, version.tags, trial):
        tag_version(session.home, version, expected)
    else:
        tags = expected | {EXPORT_TAG: run.tags[EXPORT_TAG]}
        new = replace_version(session.home, version, run.run_id, run.tags[MODEL_ID], tags)
        weights = "the same weights" if version.tags.get(WEIGHTS_TAG) == expected[WEIGHTS_TAG] else "other weights"
        aliases = f" and takes its alias {', '.join(new.aliases)}" if new.aliases else ""
        session.reporter.note(
            f"the model of {_label(version)} is lost: version {new.version}, with {weights}, replaces it{aliases}"
        )


def _loads(model_id: str, tags: dict[str, str], trial: EndedTrial) -> bool:
    """Whether a model's files are those of these tags, and its weights the trial's."""
    manifest = read_manifest(tags)
    with suppress(TrackingError):
        check_files(model_id, manifest or {})
        load_restorer(model_id, trial.summary.weights_sha256)
        return manifest is not None
    return False


def _label(version: RegisteredVersion) -> str:
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    return f"{version.model} version {version.version}{aliases}"
