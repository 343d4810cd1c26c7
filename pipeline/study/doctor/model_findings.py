"""Whether the models of a study and the registered versions of its trials are sound, and how they are repaired.

Comes in: a session and its runs. Goes out: findings. No repair deletes what a registered version names: its model is
written again in place, or a new version takes the place of one whose model is lost.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from pipeline.errors import TrackingError
from pipeline.search.records import EndedTrial
from pipeline.study.doctor.findings import Finding, are_lost
from pipeline.study.finish import finish
from pipeline.study.session import Session
from pipeline.tracking.models import EXPORT_TAG, MODEL_ID, WEIGHTS_TAG, check_files, load_restorer, read_manifest
from pipeline.tracking.registry import REPLACED_BY, RegisteredVersion, replace_version, tag_version
from pipeline.tracking.runs import StoredRun, Tracking


def model_problem(session: Session, trial: EndedTrial, run: StoredRun) -> str | None:
    """What is wrong with a complete trial's model."""
    return session.tracking.models.problem(run.run_id, run.tags, trial.summary.weights_sha256)


def finish_again(session: Session, trial: EndedTrial, log_again: bool = False) -> None:
    """Finish an ended trial again, and bring the registered versions of its model up to date."""
    finish(session, trial, log_again)
    trial = session.search.ended(trial.number)  # its weights may be others now
    if trial.state == "COMPLETE" and (run := session.tracking.read(trial.summary.run_id)):
        for version, _ in _own_versions(session, [trial]):
            _update(session, version, trial, run)


def version_findings(session: Session, trials: Sequence[EndedTrial], load: bool) -> Iterator[Finding]:
    """Registered versions of a study's trials that are not as their trials are; with ``load`` each is also loaded."""
    for version, trial in _own_versions(session, trials):
        if problem := _version_problem(session, version, trial, load):
            text = f"{_label(version)} (trial {trial.number}): {problem}"
            yield Finding(text, partial(_repair_version, session, trial.number))


def training_findings(tracking: Tracking, runs: Sequence[StoredRun]) -> Iterator[Finding]:
    """Single trainings without their model or a picture; the repair makes them count as not ended."""
    for run in runs:
        if run.tags.get("study.role") != "train" or run.status != "FINISHED":
            continue
        problem = tracking.models.problem(run.run_id, run.tags)
        if problem is None and (lost := tracking.lost_pictures(run, run.best_epoch)):
            problem = f"of its best epoch {are_lost(lost)}"
        if problem:
            text = f"run {run.name}: {problem}; run the same `study train` again to train it again"
            yield Finding(text, partial(tracking.suspend, run.run_id))


def stray_models(tracking: Tracking) -> Iterator[Finding]:
    """Models that no run has, not even a deleted one, and no registered version names."""
    for model_id, status in tracking.models.stray({run.tags.get(MODEL_ID, "") for run in tracking.runs(deleted=True)}):
        text = f"logged model {model_id} is {status} and belongs to no finished run"
        yield Finding(text, partial(tracking.models.delete, model_id))


def _own_versions(session: Session, trials: Sequence[EndedTrial]) -> list[tuple[RegisteredVersion, EndedTrial]]:
    """The registered versions that `promote` made of these trials, but not those that have been replaced."""
    uid, found = session.search.uid, []
    by_run = {trial.summary.run_id: trial for trial in trials}
    by_number = {str(trial.number): trial for trial in trials}
    for version in session.tracking.versions():
        tags = version.tags
        trial = by_number.get(tags.get("trial.number", "")) if tags.get("study.uid") == uid else None
        if trial is None and tags.keys() & {"study.uid", "trial.number", WEIGHTS_TAG}:  # one of them may be edited
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
    number, sha256 = str(trial.number), trial.summary.weights_sha256
    return {"study.uid": session.search.uid, "trial.number": number, WEIGHTS_TAG: sha256}


def _repair_version(session: Session, number: int) -> None:
    trial = session.search.ended(number)
    run = session.tracking.read(trial.summary.run_id)
    sound = run is not None and model_problem(session, trial, run) is None
    if run is not None and sound:
        sound = _loads(run.tags[MODEL_ID], run.tags, trial)
    finish_again(session, trial, log_again=not sound)


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
