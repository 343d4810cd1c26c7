"""One training without a search."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from typing import Any

from pipeline import workers as engines
from pipeline.config import StudyFile, Value
from pipeline.data.prepare import prepare
from pipeline.evaluation.judge import judge_of
from pipeline.home import Home
from pipeline.search import ask_tell, samplers
from pipeline.study.doctor import moved
from pipeline.study.driver import Options, _device, _Driver, _mend, _note, _signals
from pipeline.study.reporter import Reporter
from pipeline.tracking.runs import open_tracking


@dataclass(frozen=True)
class Training:
    """A single training that has ended."""

    run_id: str
    name: str
    status: str  # of the run: FINISHED or FAILED
    reason: str
    metrics: dict[str, float]  # as the run has them last; ``best_epoch`` and ``objective`` among them


def train_one(file: StudyFile, home: Home, options: Options, reporter: Reporter) -> Training:
    """Train the one configuration that a study file fixes, in this process, without a search.

    Side effects: a run ``train-…`` in the study's experiment, with a model, as a trial's. Called again it goes on with
    what was stopped, and finds what has ended.

    Args:
        file: the study; keys that it leaves open take the first enqueued configuration's values.
        home: where it is kept.
        options: only the device and whether to download count.
        reporter: told of every epoch.

    Raises:
        InputError: bad arguments or data, a key that stays open, or the study is being run; nothing was written.
        Interrupted, StudyError: as `run_study`.
    """
    samplers.check(file.config)
    file = replace(file, config=file.config.single())
    config, device = file.config, _device(options.device)
    data = prepare(config, home.data_dir, options.download)
    home.prepare()
    trial = config.trial(config.space.resolve(_nothing_open), 0, device)
    # The study's name is part of it: another study's like training has checkpoints and a run of its own.
    identity = f"{config.name} {data.digest}{trial.model_dump_json()}"
    uid = "train-" + hashlib.sha256(identity.encode()).hexdigest()[:16]
    with home.driver_lock(config.name), _signals() as stop:  # one process writes to an experiment
        tracking = open_tracking(home, config.name, _note(file, data), stop.is_set)
        _mend(moved(home, tracking), reporter, stop)
        run = tracking.stored(f"{uid}-0")
        if run is None or run.status not in ("FINISHED", "FAILED"):
            judge = judge_of(data, home.judges, stop.is_set)
            search = ask_tell.detached(config, uid)
            driver = _Driver(file, home, data, judge, device, search, tracking, reporter, stop, "train")
            driver.run(engines.start(0, None))
            run = tracking.stored(f"{uid}-0")
        assert run is not None, "the driver made it"
        shutil.rmtree(home.checkpoints(uid, 0).parent, ignore_errors=True)  # a kill may have left them
        return Training(run.run_id, run.name, run.status, run.tags.get("trial.reason", ""), run.metrics)


def _nothing_open(name: str, _: Any) -> Value:
    raise AssertionError(f"{name} is open in a single training")
