"""What one `study run` or `study train` works with: configuration, data, judge, search, tracking, under one lock.

Comes in: a study file, a home and options, all checked before anything is written. Goes out: a `Session`, which the
driver, `finish` and `doctor` work with.
"""

import itertools
import json
import os
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from pipeline.config import StudyConfig, StudyFile, TrialConfig
from pipeline.config.choices import Precision
from pipeline.data import Dataset
from pipeline.data.prepare import prepare
from pipeline.errors import InputError
from pipeline.evaluation.judge import Judge, judge_of
from pipeline.home import Home
from pipeline.patience import patience_s
from pipeline.provenance import git_state, hardware, versions
from pipeline.search import samplers
from pipeline.search.ask_tell import OpenTrial, Search
from pipeline.search.lock import study_lock
from pipeline.search.records import StoredTrial
from pipeline.search.studies import load_searches, open_search, stored_uid
from pipeline.study.advice import about_window
from pipeline.study.doctor import lost
from pipeline.study.reporter import Reporter, degradation, md_text, split_sizes
from pipeline.tracking.experiments import settle_move, uid_for
from pipeline.tracking.runs import Tracking, open_tracking
from pipeline.tracking.store import patience_with
from pipeline.tracking.uids import trial_uid
from pipeline.workers import Cluster, DaskWorkers, Needs, Workers, attach, handle_signals, start
from pipeline.workers.machine import Device, device_here, precision_here, room_for


@dataclass(frozen=True)
class Options:
    """How a study is run. Only the device can change its numbers."""

    workers: int | None = None
    cluster: Cluster | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    download: bool = True
    report: bool = True  # whether the study's page and figures are made, which takes seconds


@dataclass(frozen=True)
class RunLabel:
    """How a trial's MLflow run is found and shown."""

    uid: str
    name: str
    tags: dict[str, str]


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
    pool: DaskWorkers | None = None  # of the cluster, where one was named

    @property
    def objective(self) -> str:
        """The recorded name of the metric that ranks trials."""
        return f"val/{self.config.objective.metric}"

    def trial(self, trial: OpenTrial | StoredTrial) -> TrialConfig:
        """The configuration of one of the study's trials."""
        return self.config.trial(trial.values, trial.number, self.device, self.precision)


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
    return RunLabel(trial_uid(study_uid, number), f"trial-{number:04d}", tags)


@contextmanager
def open_session(
    file: StudyFile, home: Home, options: Options, reporter: Reporter, opener: Opener = open_stored
) -> Iterator[Session]:
    """Check a study and everything it needs, take its lock, and open or create it.

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
    data = prepare(config, home.data_dir, options.download)
    home.prepare()
    home.remember_data(config.dataset)
    needs = _needs(home, config, data, device, precision)
    with (
        study_lock(home, config.name) as lock,
        _stop_signals() as stop,
        _attached(options.cluster, needs, reporter) as pool,
    ):
        if old := settle_move(home):
            reporter.note(f"the home was moved here from {old}; the paths in its databases were updated")
        if lost.restore_tags(home, config.name):
            reporter.note("the tags of MLflow's experiment were edited, and are restored")
        lost.check(home, config.name)
        uid = uid_for(home, config.name, stored_uid(home, config.name))
        if pool and (device is None or precision is None):
            device, precision = pool.wait_for_one(stop.is_set)
        facts: Facts = {"data.sha256": data.digest, "device": device or "cpu"}
        if config.auto_precision:
            facts["precision"] = precision or "float32"
        search, label = opener(home, config, uid, facts)
        precision = precision_of(search.facts)
        search.patience = replace(search.patience, stop_asked=stop.is_set, say=reporter.note)
        search.hold(lock.ensure)
        patience = patience_with(home, stop_asked=stop.is_set, say=reporter.note)
        tracking = open_tracking(home, config.name, uid, experiment_note(config, data), patience)
        search.experiment = tracking.experiment_id
        judge = judge_of(data, home.judges, stop.is_set)
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
        yield Session(
            config, home, data, device or "cpu", precision, search, tracking, reporter, stop, judge, tags, label, pool
        )


def start_workers(session: Session, options: Options) -> Workers:
    """The cluster's workers, as soon as one has passed; without a cluster, processes that are started here.

    By default these are one per GPU or ``threads_per_trial`` cores. Raises EngineError if they do not start.
    """
    budget = session.config.budget
    most = room_for(session.device, budget.threads_per_trial)
    if session.pool is not None:
        session.pool.wait_for_one(session.stop.is_set)
        started: Workers = session.pool
    else:
        needs = _needs(session.home, session.config, session.data, session.device, session.precision)
        count = min(most, budget.concurrency) if options.workers is None else options.workers
        started = start(count, needs, session.reporter.note)
    chosen = options.cluster is not None or options.workers is not None
    for text in about_window(session.config, started.slots, most if not chosen else None):
        session.reporter.note(text)
    return started


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


def experiment_note(config: StudyConfig, data: Dataset) -> str:
    """The experiment's heading in MLflow, Markdown."""
    searched = ", ".join(f"`{key}`" for key in config.space.searched()) or "nothing"
    return (
        f"**{md_text(config.name)}**: {degradation(config.degrade)} on {md_text(config.dataset)} "
        f"({split_sizes(data)}).\n\n"
        f"Ranked by validation `{config.objective.metric}` ({config.objective.direction}), searching {searched} with "
        f"{config.sampler.name}, pruned by {config.pruner.name}."
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
