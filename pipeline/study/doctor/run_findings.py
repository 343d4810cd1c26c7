"""Whether MLflow has the runs that a study must have, with the tags and figures that Optuna says.

Comes in: a session. Goes out: findings. People edit and delete runs in MLflow's UI, so nothing that a run's tags say is
trusted: Optuna's summary says which run is a trial's, and what its tags and figures must be.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pydantic import ValidationError

from pipeline.config import TrialConfig
from pipeline.search.records import EndedTrial, RunningTrial
from pipeline.study.doctor.findings import Finding, are_lost
from pipeline.study.doctor.metric_findings import last_figures, restore_figures, wrong_figures
from pipeline.study.doctor.model_findings import finish_again
from pipeline.study.doctor.rebuild import rebuild, redraw_baseline
from pipeline.study.finish import baseline_figures
from pipeline.study.session import Session
from pipeline.tracking.runs import (
    CONTACT_SHEET,
    FILES_TAG,
    LEADERBOARD,
    PANEL,
    RUN_STATUS,
    STUDY_FILES,
    StoredRun,
    Tracking,
)
from pipeline.tracking.uids import (
    CONFIG_TAG,
    TRAINING,
    baseline_uid,
    judge_uid,
    study_run_uid,
    training_of,
    trial_number,
    trial_uid,
)
from pipeline.training.checkpoint import found

AGAIN = "the next `study run` makes it again"
OURS = ("study.", "trial.", "data.sha256", "zz.")  # begin the tags by which a run shows that this program made it


@dataclass(frozen=True)
class Expected:
    """A run that a study must have."""

    session: Session  # of the trials, or of the replicates
    label: str
    name: str
    tags: dict[str, str]
    trial: EndedTrial | None = None
    mark: str | None = None  # the attribute of the study in Optuna that says that it was made
    figures: dict[str, float] = field(default_factory=dict)  # the last value of these metrics

    @property
    def uid(self) -> str:
        return self.tags["trial.uid"]

    @property
    def run_id(self) -> str | None:
        """The run's id, where Optuna knows it."""
        return self.trial.summary.run_id if self.trial else None

    def is_run(self, run: StoredRun | None) -> bool:
        return run is not None and self.run_id in (None, run.run_id)


def run_findings(parts: Sequence[Session], thorough: bool, retrain: bool) -> Iterator[Finding]:
    """What is wrong with a study's runs, each finding to be repaired before the next is asked for.

    Args:
        parts: the session of the study, and that of its replicates.
        thorough: also read every metric's history, and not only its last value.
        retrain: runs that are lost with their checkpoints may be made again from what Optuna has.
    """
    session, tracking = parts[0], parts[0].tracking
    runs, expected = session.runs, list(_expected(parts))
    absent = list(_absent(expected, runs, retrain))
    yield from absent
    if absent:
        runs, expected = tracking.runs(), list(_expected(parts))
    own = _owners(expected, [run for run in runs if not run.deleted])
    for each in expected:
        run = own.get(each.uid)
        if run is not None and each.is_run(run):
            yield from _examined(each, run, thorough)
    owned = {run.run_id for run in own.values()}
    others = [run for run in runs if not run.deleted and run.run_id not in owned]
    yield from _others(session, {each.uid: each.label for each in expected}, others)


def training_run_findings(tracking: Tracking, study: str, runs: Iterable[StoredRun]) -> Iterator[Finding]:
    """Runs of single trainings with tags that are not theirs, or left RUNNING; runs that are nobody's.

    A training's uid follows from its configuration and data, so each of these tags is verified by the others.
    """
    for run in runs:
        uid = run.tags.get("trial.uid", "")
        right = {"study.role": "train", "trial.uid": trial_uid(training_of(study, run.tags), 0)}
        if uid.startswith(TRAINING) and uid != right["trial.uid"]:
            text = f"run {run.name} ({run.run_id}): its tags trial.uid, {CONFIG_TAG} and data.sha256 do not agree"
            yield Finding(text)
        elif uid == right["trial.uid"] or run.tags.get("study.role") == "train" or run.name.startswith(TRAINING):
            if wrong := _wrong_tags(run, right):
                yield _retagged(tracking, run, wrong, "a single training")
            if run.status == "RUNNING":
                yield Finding(f"run {run.name} was left RUNNING", partial(tracking.suspend, run.run_id))
        elif any(key.startswith(OURS) for key in run.tags):
            yield Finding(f"run {run.name} ({run.run_id}): its tags do not say whose it is; it is left unchanged")


def _expected(parts: Sequence[Session]) -> Iterator[Expected]:
    session, search, uid = parts[0], parts[0].search, parts[0].search.uid
    common = {"study.name": session.config.name, "data.sha256": session.data.digest}
    for part in parts:
        for record in part.search.records():
            label, config = part.label(record.number), part.trial(record)
            what = f"trial {record.number}" if part is session else label.name
            tags = common | label.tags | {"trial.uid": label.uid, CONFIG_TAG: config.model_dump_json()}
            if isinstance(record, RunningTrial):
                yield Expected(part, what, label.name, tags)
            else:
                tags |= {"trial.state": record.state, "trial.reason": record.summary.reason}
                yield Expected(part, what, label.name, tags, record, figures=last_figures(part, record))
    common |= {"trial.state": "COMPLETE"}
    for name, metrics in search.baselines.items():
        tags = common | {"study.role": "baseline", "trial.uid": baseline_uid(uid, name)}
        figures = baseline_figures(session, metrics)
        yield Expected(session, f"baseline {name}", f"baseline-{name}", tags, mark="baselines", figures=figures)
    if search.judge is not None:
        tags = common | {"study.role": "judge", "trial.uid": judge_uid(uid, search.judge)}
        yield Expected(session, "the judge", "judge", tags, mark="judge")
    if search.published is not None:
        tags = common | {"study.role": "study", "trial.uid": study_run_uid(uid)}
        yield Expected(session, "the study's own run", f"study-{session.config.name}", tags, mark="published")


def _owners(expected: list[Expected], runs: list[StoredRun]) -> dict[str, StoredRun]:
    """The run of each by its uid: the one that Optuna names, else the first with its uid, else with its role and name.

    So one whose tags were edited is found by what is left of them.
    """
    own: dict[str, StoredRun] = {}
    owned: set[str] = set()
    for of_expected, of_run in (
        (lambda e: e.run_id, lambda r: r.run_id),
        (lambda e: e.uid, lambda r: r.tags.get("trial.uid")),
        (lambda e: (e.tags["study.role"], e.name), lambda r: (r.tags.get("study.role"), r.name)),
    ):
        free: dict[object, StoredRun] = {}
        for run in runs:
            if run.run_id not in owned:
                free.setdefault(of_run(run), run)
        for each in expected:
            if each.uid not in own and (mine := free.get(of_expected(each))) is not None:
                own[each.uid] = mine
                owned.add(mine.run_id)
    return own


def _absent(expected: list[Expected], runs: list[StoredRun], retrain: bool) -> Iterator[Finding]:
    """Runs that were deleted, which can be restored, and runs that are lost."""
    own = _owners(expected, [run for run in runs if not run.deleted])
    deleted = [run for run in runs if run.deleted]
    for each in expected:
        mine = own.get(each.uid)
        if each.is_run(mine):
            continue
        if (run_id := _restorable(each, deleted)) is not None:
            text = f"{each.label}: its run was deleted in MLflow"
            yield Finding(text, partial(each.session.tracking.restore, run_id))
        elif each.trial is not None:
            possible = retrain or mine is not None or found(each.session.checkpoints(each.trial.number))
            repair = partial(rebuild, each.session, each.trial) if possible else None
            yield Finding(f"{each.label} ({each.trial.state}) has no run", repair)
        elif each.mark is not None:
            yield Finding(f"{each.label} has no run; {AGAIN}", partial(_forget, each))


def _restorable(each: Expected, deleted: list[StoredRun]) -> str | None:
    """The id of the deleted run that is this one's; an unfinished trial's must be of the same configuration."""
    for run in deleted:
        if run.run_id == each.run_id:
            return run.run_id
        if each.run_id is None and run.tags.get("trial.uid") == each.uid:
            key = CONFIG_TAG if each.mark is None else "study.role"
            if key not in _wrong_tags(run, {key: each.tags[key]}) and (each.mark is None or run.status == "FINISHED"):
                return run.run_id
    return None


def _forget(each: Expected) -> None:
    """Remove the mark that a run was made, so that the next `study run` makes it again."""
    search = each.session.search
    if each.mark == "baselines":
        search.baselines = {n: m for n, m in search.baselines.items() if baseline_uid(search.uid, n) != each.uid}
    elif each.mark == "judge":
        search.judge = None
    else:
        search.published = None


def _examined(each: Expected, run: StoredRun, thorough: bool) -> Iterator[Finding]:
    """What is wrong with a run that is there."""
    session, tracking = each.session, each.session.tracking
    if each.trial is not None:
        finding = _unfinished(session, each.trial, run)
        if finding is not None:
            yield finding
            run = tracking.read(run.run_id) or run
    elif each.mark is None and run.status == "RUNNING":
        text = f"run {run.name} was left RUNNING; its trial is not finished"
        yield Finding(text, partial(tracking.suspend, run.run_id))
    elif each.mark is not None:
        yield from _unfinished_other(each, run)
    if wrong := _wrong_tags(run, each.tags):
        yield _retagged(tracking, run, wrong, each.label)
    if edited := wrong_figures(session, each.figures, each.trial, run, thorough):
        text = f"run {run.name}: its {'; its '.join(edited)}"
        yield Finding(text, partial(restore_figures, session, each.figures, each.trial, run.run_id))


def _unfinished(session: Session, trial: EndedTrial, run: StoredRun) -> Finding | None:
    """An ended trial's run that was not brought to its end, or whose weights or pictures are lost."""
    wrong, complete = [], trial.state == "COMPLETE"
    if run.status != RUN_STATUS[trial.state]:
        wrong.append(f"it is {run.status}, its trial {trial.state}")
    if complete and (problem := session.tracking.weights_problem(run, trial.summary.weights_sha256)):
        wrong.append(problem)
    elif trial.summary.metrics:
        lost = session.tracking.lost_pictures(run, trial.summary.best_epoch)
        if lost and (complete or PANEL not in lost):  # only a trial with a model can draw its panel again
            wrong.append(f"of its best epoch {are_lost(lost)}")
    if not wrong:
        return None
    return Finding(f"run {run.name}: {'; '.join(wrong)}", partial(finish_again, session, trial))


def _unfinished_other(each: Expected, run: StoredRun) -> Iterator[Finding]:
    """The same of a baseline, the judge or the study's own run."""
    session, tracking = each.session, each.session.tracking
    if run.status != "FINISHED":
        text = f"run {run.name} is {run.status}, and was finished"
        yield Finding(text, partial(tracking.end, run.run_id, "COMPLETE"))
    if each.mark == "baselines" and (lost := tracking.lost_pictures(run, 0)):
        name = each.name.removeprefix("baseline-")
        yield Finding(f"run {run.name}: its {are_lost(lost)}", partial(redraw_baseline, session, name, run.run_id))
    if each.mark == "published":
        best = any(isinstance(trial, EndedTrial) and trial.state == "COMPLETE" for trial in session.search.records())
        files = {*STUDY_FILES, *LEADERBOARD.values(), *([CONTACT_SHEET] if best else [])}
        files |= set(run.tags.get(FILES_TAG, "").split())  # the report, where it was made, and its figures
        absent = sorted(files - tracking.files(run.run_id))
        if absent:
            what = are_lost(["the contact sheet" if file == CONTACT_SHEET else file for file in absent])
            yield Finding(f"run {run.name}: {what}; {AGAIN}", partial(_forget, each))


def _wrong_tags(run: StoredRun, right: Mapping[str, str]) -> dict[str, str]:
    """The tags that a run must have and does not, with their values."""
    return {key: value for key, value in right.items() if not _same_tag(key, run.tags.get(key, ""), value)}


def _same_tag(key: str, tag: str, right: str) -> bool:
    if tag == right or key != CONFIG_TAG:
        return tag == right
    try:  # a later version of this program may know more keys
        return TrialConfig.model_validate_json(tag) == TrialConfig.model_validate_json(right)
    except ValidationError:
        return False


def _retagged(tracking: Tracking, run: StoredRun, wrong: dict[str, str], label: str) -> Finding:
    text = f"run {run.name} ({run.run_id}): its {_counted('tag', wrong)} not as of {label}"
    return Finding(text, partial(tracking.tag, run.run_id, wrong))


def _others(session: Session, labels: Mapping[str, str], runs: list[StoredRun]) -> Iterator[Finding]:
    """Runs that are none of the expected: second runs and runs of no trial, single trainings, and nobody's."""
    tracking, uid = session.tracking, session.search.uid
    trainings = []
    for run in runs:
        mine = run.tags.get("trial.uid", "")
        delete = partial(tracking.delete, run.run_id)
        if mine in labels:
            yield Finding(f"{labels[mine]} has a second run ({run.run_id})", delete)
        elif trial_number(uid, {"trial.uid": mine}) is not None:
            yield Finding(f"run {run.name} ({run.run_id}) belongs to no trial", delete)
        elif mine.startswith(f"{uid}-"):  # of a baseline, a judge or the study itself that was not finished
            if run.status == "RUNNING":
                yield Finding(f"run {run.name} was left RUNNING", partial(tracking.suspend, run.run_id))
        else:
            trainings.append(run)
    yield from training_run_findings(tracking, session.config.name, trainings)


def _counted(noun: str, names: Iterable[str]) -> str:
    names = sorted(names)
    return f"{noun}{'' if len(names) == 1 else 's'} {', '.join(names)} {'is' if len(names) == 1 else 'are'}"
