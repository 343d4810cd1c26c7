"""One training without a search: the same driver, with one trial, which is opened as a resumed one.

Comes in: a study file that fixes one configuration, or a trial of a study. Goes out: a run ``train-…`` in the study's
experiment.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.config import StudyConfig, StudyFile
from pipeline.config.study_file import trial_file
from pipeline.errors import InputError, StudyError
from pipeline.evaluation.batches import example
from pipeline.home import Home
from pipeline.search import samplers
from pipeline.search.ask_tell import Search
from pipeline.search.records import numbered
from pipeline.search.studies import detached, load_search
from pipeline.study.driver import Driver
from pipeline.study.reporter import Reporter
from pipeline.study.session import Facts, Label, Options, RunLabel, Session, open_session, precision_of
from pipeline.study.window import Window
from pipeline.tracking.models import WEIGHTS_TAG
from pipeline.tracking.runs import StoredRun
from pipeline.tracking.uids import TRAINING, training_uid, trial_uid
from pipeline.workers.machine import Device


@dataclass(frozen=True)
class Training:
    """A single training that has ended."""

    run_id: str
    name: str
    status: str  # of the run: FINISHED or FAILED
    reason: str
    metrics: dict[str, float]  # the run's last ones, with ``best_epoch`` and ``objective``


@dataclass(frozen=True)
class Origin:
    """The trial of a study whose configuration is trained."""

    search: Search
    number: int

    def __str__(self) -> str:
        return f"{self.search.config.name}/{self.number}"

    def file(self, overrides: Sequence[str] = (), name: str | None = None) -> StudyFile:
        """A study file that fixes the trial's configuration, with what ``precision = "auto"`` meant in its study."""
        config, facts = self.search.config, self.search.facts
        values = self.search.records()[self.number].values
        device: Device = "cuda" if facts.get("device") == "cuda" else "cpu"
        trial = config.trial(values, self.number, device, precision_of(facts))
        return trial_file(config, {**values, "precision": trial.train.precision}, str(self), overrides, name)


def find_trial(home: Home, named: str) -> Origin | None:
    """The trial that ``STUDY/TRIAL`` names; None where the text has another form.

    Raises NotFoundError: there is no such study or trial.
    """
    match = re.fullmatch("([^/]+)/([0-9]{1,6})", named)
    if match is None:
        return None
    search = load_search(home, match[1])
    return Origin(search, numbered(search.records(), int(match[2]), match[1]).number)


def train_one(
    file: StudyFile, home: Home, options: Options, reporter: Reporter, origin: Origin | None = None
) -> Training:
    """Train the one configuration that a study file fixes, in this process, without a search.

    Side effects: a run ``train-…`` in the study's experiment, with a model, as a trial's. Called again it resumes what
    was stopped, and finds what has ended.

    Args:
        file: the study; keys that it leaves open take the first enqueued configuration's values.
        options: only ``device`` is used.
        origin: the trial that the file was made of, which the run's tag ``train.of`` then names.

    Raises:
        InputError: bad arguments or data, or not the origin's, a key that stays open, or the study is being run;
            nothing was written.
        Interrupted, StudyError: as `pipeline.api.run_study`.
    """
    samplers.check(file.config)
    single = replace(file, config=file.config.single())
    with open_session(single, home, replace(options, workers=0), reporter, partial(_open_single, origin)) as session:
        _restore(session)
        run = _ended(session)
        if run is None:
            reporter.begun(session.config, session.data, [], session.workers.slots, 0.0)
            Driver(session, session.workers, Window(total=1, width=1, resumed=[0])).run()
            run = _ended(session)
        home.remove(home.checkpoints(session.search.uid))  # a kill may have left them
        if run is None:
            raise StudyError(f"{session.label(0).name}: its MLflow run was deleted")
        tracking, tags = session.tracking, run.tags
        if run.status == "FINISHED" and session.config.budget.keep_models and tracking.models.problem(run.run_id, tags):
            images = example(session.data.val, session.config.degrade)
            name = f"{session.config.name}-{run.name}"
            tracking.export(run, name, tags.get(WEIGHTS_TAG, ""), images, run.best_epoch)
        return Training(run.run_id, run.name, run.status, run.tags.get("trial.reason", ""), run.metrics)


def _open_single(
    origin: Origin | None, _home: Home, config: StudyConfig, _study_uid: str, facts: Facts
) -> tuple[Search, Label]:
    """A study in memory, of the one trial that the configuration fixes."""
    source = origin.search if origin else None
    if source and source.config.dataset == config.dataset and source.facts["data.sha256"] != facts["data.sha256"]:
        raise InputError(f"dataset {config.dataset}: not the data that study {source.config.name} was trained on")
    values = config.space.resolve(lambda _, form: form.first)  # every key is fixed
    trial = config.trial(values, 0, "cuda" if facts["device"] == "cuda" else "cpu", precision_of(facts))
    uid = training_uid(config.name, facts["data.sha256"], trial.model_dump_json())
    tags = {"study.role": "train"} | ({"train.of": str(origin)} if origin else {})
    label = RunLabel(trial_uid(uid, 0), uid[: len(TRAINING) + 8], tags, "0000", 0)
    search = detached(config, uid)
    search.facts = facts
    return search, lambda _: label


def _restore(session: Session) -> None:
    """Restore the training's run, if it was deleted in MLflow."""
    tracking, label = session.tracking, session.label(0)
    if tracking.find(label.uid) is None and (run := tracking.find(label.uid, deleted=True)) is not None:
        tracking.restore(run.run_id)
        session.reporter.note(f"{label.name}: its run was deleted in MLflow, and is restored")


def _ended(session: Session) -> StoredRun | None:
    run = session.tracking.find(session.label(0).uid)
    return run if run is not None and run.status in ("FINISHED", "FAILED") else None
