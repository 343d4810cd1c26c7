"""One training without a search: the same driver, with a window of one trial that counts as resumed.

Comes in: a study file that fixes one configuration. Goes out: a run ``train-…`` in the study's experiment.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from typing import Any

from pipeline import workers
from pipeline.config import StudyFile, Value
from pipeline.data.prepare import prepare
from pipeline.errors import StudyError
from pipeline.evaluation.judge import judge_of
from pipeline.home import Home
from pipeline.search import samplers
from pipeline.search.studies import detached
from pipeline.study.doctor import moved, repair
from pipeline.study.driver import Driver
from pipeline.study.reporter import Reporter
from pipeline.study.session import (
    Options,
    RunLabel,
    Session,
    choose_device,
    experiment_note,
    run_tags,
    stop_signals,
)
from pipeline.study.window import Window
from pipeline.tracking.runs import StoredRun, Tracking, open_tracking
from pipeline.tracking.uids import TRAINING, training_uid, trial_uid


@dataclass(frozen=True)
class Training:
    """A single training that has ended."""

    run_id: str
    name: str
    status: str  # of the run: FINISHED or FAILED
    reason: str
    metrics: dict[str, float]  # the run's last ones, with ``best_epoch`` and ``objective``


def train_one(file: StudyFile, home: Home, options: Options, reporter: Reporter) -> Training:
    """Train the one configuration that a study file fixes, in this process, without a search.

    Side effects: a run ``train-…`` in the study's experiment, with a model, as a trial's. Called again it resumes what
    was stopped, and finds what has ended.

    Args:
        file: the study; keys that it leaves open take the first enqueued configuration's values.
        home: where it is kept.
        options: only the device and whether to download count.
        reporter: told of every epoch.

    Raises:
        InputError: bad arguments or data, a key that stays open, or the study is being run; nothing was written.
        Interrupted, StudyError: as `pipeline.api.run_study`.
    """
    samplers.check(file.config)
    file = replace(file, config=file.config.single())
    config, device = file.config, choose_device(options.device)
    data = prepare(config, home.data_dir, options.download)
    home.prepare()
    trial = config.trial(config.space.resolve(_nothing_open), 0, device)
    uid = training_uid(config.name, data.digest, trial.model_dump_json())
    label = RunLabel(trial_uid(uid, 0), uid[: len(TRAINING) + 8], {"study.role": "train"})
    with home.driver_lock(config.name), stop_signals() as stop:  # one process writes to an experiment
        tracking = open_tracking(home, config.name, experiment_note(file, data), stop.is_set)
        repair(moved(home, tracking), reporter, stop)
        run = _ended(tracking, label)
        if run is None:
            judge, search = judge_of(data, home.judges, stop.is_set), detached(config, uid)
            tags = run_tags(file, data, judge)
            session = Session(
                config, home, data, device, search, tracking, reporter, stop, judge, tags, lambda _: label
            )
            worker = workers.start(0, None)
            reporter.begun(config, data, 0, worker.slots)
            Driver(session, worker, Window(total=1, width=1, resumed=[0])).run()
            run = _ended(tracking, label)
        shutil.rmtree(home.checkpoints(uid, 0).parent, ignore_errors=True)  # a kill may have left them
        if run is None:
            raise StudyError(f"{label.name}: its run is not in MLflow any more")
        return Training(run.run_id, run.name, run.status, run.tags.get("trial.reason", ""), run.metrics)


def _ended(tracking: Tracking, label: RunLabel) -> StoredRun | None:
    run = tracking.stored(label.uid)
    return run if run is not None and run.status in ("FINISHED", "FAILED") else None


def _nothing_open(name: str, _: Any) -> Value:
    raise AssertionError(f"{name} is open in a single training")
