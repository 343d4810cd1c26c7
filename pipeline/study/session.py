"""What one `study run` or `study train` works with: configuration, data, judge, search, tracking, under one lock.

Comes in: a study file, a home and options, all checked before anything is written. Goes out: a `Session`, which the
driver, `finish` and `doctor` work with.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.config import StudyConfig, StudyFile, TrialConfig
from pipeline.config.choices import Precision
from pipeline.data import Dataset
from pipeline.data.prepare import prepare
from pipeline.errors import EngineError, InputError, Interrupted
from pipeline.evaluation.judge import Judge, find_judge
from pipeline.home import Home
from pipeline.patience import patience_s
from pipeline.provenance import git_state, hardware, versions
from pipeline.search import samplers
from pipeline.search.ask_tell import OpenTrial, Search
from pipeline.search.database import reading_once
from pipeline.search.lock import study_lock
from pipeline.search.records import StoredTrial
from pipeline.search.studies import load_searches, open_search, stored_uid
from pipeline.study.advice import about_window
from pipeline.study.reporter import Reporter, degradation, md_text, split_sizes
from pipeline.tracking.uids import trial_uid
from pipeline.workers import (
    Cluster,
    DaskWorkers,
    Lost,
    Needs,
    Note,
    Raised,
    Returned,
    ThisProcess,
    Workers,
    attach,
    handle_signals,
    start,
)
from pipeline.workers.machine import Device, device_here, precision_here, room_for

if TYPE_CHECKING:
    from pipeline.tracking.runs import StoredRun, Tracking


@dataclass(frozen=True)
class Options:
    """How a study is run. Only the device can change its numbers."""

    workers: int | None = None
    cluster: Cluster | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    report: bool = True  # whether the study's page and figures are made, which takes seconds


@dataclass(frozen=True)
class RunLabel:
    """How a trial's MLflow run is found and shown, and what else follows from which trial it is."""

    uid: str
    name: str
    tags: dict[str, str]
    folder: str  # of its checkpoints, in the study's
    trial: int  # whose seeds it has
    changes: Mapping[str, int] = field(default_factory=dict)  # of its configuration: a replicate's seed and epochs


Label = Callable[[int], RunLabel]


@dataclass(frozen=True)
class Session:
    """All that the steps of one run share."""

    config: StudyConfig
    home: Home
    data: Dataset
    device: Device
    precision: Precision  # what ``auto`` means in this study
    search: Search
    tracking: Tracking
    reporter: Reporter
    stop: threading.Event  # set when the user asks to stop
    judge: Judge | None  # of the data set, where it has classes
    tags: dict[str, str]  # of every run: the study file, the data, the environment
    label: Label  # gives the run label of a trial by its number
    runs: list[StoredRun]  # as MLflow had them when the session was opened, the deleted ones too
    workers: Workers = field(default_factory=ThisProcess)

    @property
    def objective(self) -> str:
        """The recorded name of the metric that ranks trials."""
        return f"val/{self.config.objective.metric}"

    def trial(self, trial: OpenTrial | StoredTrial) -> TrialConfig:
        """The configuration of one of the study's trials."""
        label = self.label(trial.number)
        config = self.config.trial(trial.values, label.trial, self.device, self.precision)
        return config.model_copy(update=dict(label.changes))

    def checkpoints(self, number: int) -> Path:
        """The folder of one trial's checkpoints."""
        return self.home.checkpoints(self.search.uid) / self.label(number).folder


Facts = dict[str, str]  # of a study: the digest of its data, its device, and what ``auto`` means, if it has that
Opener = Callable[[Home, StudyConfig, str, Facts], tuple[Search, Label]]


def open_stored(home: Home, config: StudyConfig, uid: str, facts: Facts) -> tuple[Search, Label]:
    """Open or create a study that is stored in the home."""
    return open_search(home, config, uid, facts), partial(trial_label, uid)


def precision_of(facts: Mapping[str, str]) -> Precision:
    """What ``precision = "auto"`` means in a study with these facts."""
    return "bfloat16" if facts.get("precision") == "bfloat16" else "float32"


def trial_label(study_uid: str, number: int) -> RunLabel:
    tags = {"study.role": "trial", "trial.number": str(number)}
    return RunLabel(trial_uid(study_uid, number), f"trial-{number:04d}", tags, f"{number:04d}", number)


@contextmanager
def open_session(
    file: StudyFile,
    home: Home,
    options: Options,
    reporter: Reporter,
    opener: Opener = open_stored,
    train: bool = False,
) -> Iterator[Session]:
    """Check a study and everything it needs, take its lock, start its workers, and open or create it.

    The workers start, and one of them finds or trains the judge, while this process imports MLflow and makes the
    databases. A study whose trials have all ended gets no workers, unless there is something else to ``train``: what
    is left to do is done in this process.
    Side effects: downloads an absent data set; makes the home, the databases, the experiment and the judge.

    Raises:
        InputError: bad arguments or data, the study is being run, or the stored one differs; nothing was written.
        StudyError: a database lost a part of the study; nothing was written.
        Interrupted, StudyError: as `pipeline.api.run_study`.
    """
    config = file.config
    samplers.check(config)
    patience_s()  # refuses bad input before anything is written
    if options.workers is not None and options.workers < 0:
        raise InputError(f"--workers {options.workers}: must be 0 (in this process) or more")
    if options.cluster and options.workers:
        raise InputError("--workers and --cluster exclude each other: a cluster has its own workers")
    device, precision = _machine(options, home, config)
    home = home.with_data(config.dataset)
    data = prepare(config, home.data_dir)
    home.prepare()
    home.remember_data(config.dataset)
    needs = _needs(home, config, data, device, precision)
    with (
        study_lock(home, config.name) as lock,
        _stop_signals() as stop,
        _attached(options.cluster, needs, reporter) as pool,
        ExitStack() as reading,
    ):
        reading.enter_context(reading_once())  # several steps look at the trials
        if pool and (device is None or precision is None):
            device, precision = pool.wait_for_one(stop.is_set)
        device, precision = device or "cpu", precision or "float32"
        needs = replace(needs, device=device, precision=precision)
        starter = (
            None if not train and _all_ended(home, config) else _starter(config, options, pool, needs, reporter.note)
        )
        with _begun(starter, home, data, stop) as begun:
            # Imported here, since MLflow takes seconds to load, in which the workers start.
            from pipeline.study.doctor import lost
            from pipeline.tracking.experiments import settle_move, uid_for
            from pipeline.tracking.runs import open_tracking
            from pipeline.tracking.store import patience_with

            if old := settle_move(home):
                reporter.note(f"the home was moved here from {old}; the paths in its databases were updated")
            if lost.restore_tags(home, config.name):
                reporter.note("the tags of MLflow's experiment were edited, and are restored")
            runs = lost.check(home, config.name)
            uid = uid_for(home, config.name, stored_uid(home, config.name))
            facts: Facts = {"data.sha256": data.digest, "device": device}
            if config.auto_precision:
                facts["precision"] = precision
            search, label = opener(home, config, uid, facts)
            search.patience = replace(search.patience, stop_asked=stop.is_set, say=reporter.note)
            search.hold(lock.ensure)
            patience = patience_with(home, stop_asked=stop.is_set, say=reporter.note)
            tracking = open_tracking(home, config.name, uid, experiment_heading(config, data), patience)
            search.experiment = tracking.experiment_id
            reading.close()
            workers, judge = begun()
            tags = {
                "study.name": config.name,
                "study.file_sha256": file.sha256,
                "study.overrides": shlex.join(file.overrides),
                "data.sha256": data.digest,
                "zz.judge.sha256": judge.sha256 if judge else "",
                "zz.env.versions": json.dumps(versions()),
                "env.hardware": hardware(),
                **git_state(),
            }
            stored = precision_of(search.facts)
            yield Session(
                config, home, data, device, stored, search, tracking, reporter, stop, judge, tags, label, runs, workers
            )


def _all_ended(home: Home, config: StudyConfig) -> bool:
    """Whether a study's trials have all ended, so that little is left to do."""
    stored = load_searches(home, config.name)
    return bool(stored) and stored[0].told() >= config.budget.trials


def _starter(
    config: StudyConfig, options: Options, pool: DaskWorkers | None, needs: Needs, note: Note
) -> Callable[[], Workers] | None:
    """What gives the workers: the cluster's, else processes: one per GPU or ``threads_per_trial`` cores by default.

    None for this process, if that is asked.
    """
    if pool is not None:
        return lambda: pool
    most = min(room_for(needs.device or "cpu", config.budget.threads_per_trial), config.budget.concurrency)
    count = most if options.workers is None else options.workers
    return partial(start, count, needs, note) if count else None


@contextmanager
def _begun(
    starter: Callable[[], Workers] | None, home: Home, data: Dataset, stop: threading.Event
) -> Iterator[Callable[[], tuple[Workers, Judge | None]]]:
    """Begin to start workers, and on one of them the judge; gives a function that waits for both.

    It raises EngineError if they do not start, and Interrupted if the user asks to stop. The workers are closed at the
    end, whatever happened meanwhile. Tasks in this process have to wait for that function, since only the main thread
    can drop them at a signal.
    """
    over = threading.Event()
    with ExitStack() as opened, ThreadPoolExecutor(1) as thread:

        def begin() -> tuple[Workers, Judge | None]:
            workers = opened.enter_context(closing(starter() if starter else ThisProcess()))
            if data.classes < 2:
                return workers, None
            workers.submit("judge", find_judge, data.name, home.data_dir, home.judges)
            while not stop.is_set() and not over.is_set():
                match workers.wait(0.2):
                    case Returned(result=judge):
                        return workers, judge
                    case Raised(error=error):
                        raise error
                    case Lost(reason=reason):
                        raise EngineError(f"the judge could not be trained: {reason}")
            raise Interrupted

        try:
            yield thread.submit(begin).result if starter else begin
        finally:
            over.set()


def note_window(session: Session, options: Options) -> None:
    """Say so where the window of trials does not fit the number of workers."""
    most = room_for(session.device, session.config.budget.threads_per_trial)
    chosen = options.cluster is not None or options.workers is not None
    for text in about_window(session.config, session.workers.slots, most if not chosen else None):
        session.reporter.note(text)


def _machine(options: Options, home: Home, config: StudyConfig) -> tuple[Device | None, Precision | None]:
    """Where to train, and what ``auto`` means; None if the first worker of the cluster decides that for a new study."""
    if options.cluster is None:
        device = device_here(options.device)
        return device, precision_here(device)
    stored = load_searches(home, config.name)
    facts = stored[0].facts if stored else {}
    asked = facts.get("device", "auto") if options.device == "auto" else options.device
    undecided = config.auto_precision and not stored
    return (
        None if asked == "auto" else "cuda" if asked == "cuda" else "cpu",
        None if undecided else precision_of(facts),
    )


def _needs(home: Home, config: StudyConfig, data: Dataset, device: Device | None, precision: Precision | None) -> Needs:
    """What the workers must share with this process."""
    shared = home.path / "locks" / f"{config.name}.shared"
    return Needs(shared, config.dataset, home.data_dir, data.digest, device, precision)


@contextmanager
def _attached(cluster: Cluster | None, needs: Needs, reporter: Reporter) -> Iterator[DaskWorkers | None]:
    """The workers of the cluster, if one was named."""
    if cluster is None:
        yield None
        return
    with closing(attach(cluster, needs, reporter.note)) as pool:
        yield pool


def experiment_heading(config: StudyConfig, data: Dataset) -> str:
    """The experiment's heading in MLflow, Markdown."""
    searched = ", ".join(f"`{key}`" for key in config.space.searched()) or "nothing"
    return (
        f"**{md_text(config.name)}**: {degradation(config.degrade)} on {md_text(config.dataset)} "
        f"({split_sizes(data)}).\n\n"
        f"Ranked by validation `{config.objective.metric}` ({config.objective.direction}), searching {searched} with "
        f"{config.sampling}, pruned by {config.pruner.name}."
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGINT or SIGTERM sets the event; a second one ends the process."""
    stop, asked = threading.Event(), itertools.count()

    def ask(_signum: int, _frame: Any) -> None:
        if next(asked) > 0:  # a counter: a second signal inside `Event.set` would deadlock
            os._exit(130)  # workers end with this process
        stop.set()

    with handle_signals(ask):
        yield stop
