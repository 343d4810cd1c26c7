"""The model registry: choose a study's best model, hold it against the baselines, promote it.

Comes in: a study's records and runs. Goes out: a new version of the registered model with the alias ``champion``. The
only module that receives the test split's tensors: they are read once for a promoted run, to report, never to choose.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from filelock import FileLock

from pipeline.config import StudyConfig
from pipeline.data import load, load_test
from pipeline.errors import GateError, InputError, NotFoundError, TrackingError
from pipeline.evaluation.baselines import baseline, baseline_names
from pipeline.evaluation.batches import threads, without_gradients
from pipeline.evaluation.judge import judge_of
from pipeline.evaluation.scores import evaluate
from pipeline.home import Home
from pipeline.search.records import EndedTrial, StoredTrial, ranked
from pipeline.search.studies import load_search
from pipeline.tracking.models import load_verified
from pipeline.tracking.registry import find_champion, register_version
from pipeline.tracking.runs import read_tracking
from pipeline.tracking.store import connect


@dataclass(frozen=True)
class Promotion:
    """A version that became champion."""

    model: str
    version: str
    trial: int
    run_id: str
    select: dict[str, float]
    test: dict[str, float]
    baselines: dict[str, float]  # objective on select, by baseline
    replaced: str | None  # the version that was champion before


def promote(home: Home, study: str, number: int | None = None, force: bool = False) -> Promotion:
    """Register a study's best model by validation as the new champion.

    Side effects: the model is loaded (after its files are verified), scored on *select* beside the baselines and, if it
    passes, on *test*; the test figures go to the trial's run and to the version's tags; version and aliases are set.
    Promoting the run that is champion already is refused, so the test split is read once a promotion.

    Args:
        home: of the study.
        study: its name.
        number: a trial other than the best.
        force: promote even if a baseline is better; recorded on the version.

    Raises:
        NotFoundError: no such study or trial.
        InputError: the trial is not complete, or is champion already.
        GateError: no trial is complete, or a baseline is better on *select*.
        TrackingError: the model's files are not those that were logged.
    """
    search = load_search(home, study)
    config = search.config
    record = _choose(search.records(), config, number)
    client, tracking = connect(home), read_tracking(home, study)
    run = next((r for r in tracking.runs("trial") if r.run_id == record.summary.run_id), None)
    if run is None or "model.sha256" not in run.tags:
        raise TrackingError(f"trial {record.number} has no model in MLflow; run the study again to mend that")
    name, manifest = config.model_name, json.loads(run.tags["model.sha256"])

    home.path.joinpath("locks").mkdir(exist_ok=True)
    with FileLock(home.path / "locks" / f"{name}.registry.lock"), threads(config.budget.threads_per_trial):
        before = find_champion(client, name)
        if before is not None and before.run_id == run.run_id:
            raise InputError(
                f"trial {record.number} of {study} is {name}'s champion already (version {before.version}); "
                "the test split is not read again"
            )
        restore = without_gradients(load_verified(run.tags["model.id"], manifest))
        data = load(config.dataset, home.data_dir)
        if data.digest != search.facts["data.sha256"]:
            raise InputError(f"dataset {config.dataset}: not the data that study {study} was trained on")
        judge, metric = judge_of(data, home.judges), config.objective.metric
        select = evaluate(restore, data.select, config.degrade, "select", judge).summary()
        others = {}
        for b in baseline_names(config.degrade, data.image_size):
            scores = evaluate(baseline(b, data, config.degrade), data.select, config.degrade, "select", judge)
            others[b] = scores.summary()[metric]
        failed = [b for b, value in others.items() if not _better(select[metric], value, config)]
        if failed and not force:
            worst = ", ".join(f"{b} {others[b]:.4g}" for b in failed)
            raise GateError(
                f"trial {record.number} ({metric} {select[metric]:.4g} on select) is not better than {worst}; "
                "not promoted. --force promotes it all the same, on record"
            )
        test = evaluate(restore, load_test(config.dataset, home.data_dir), config.degrade, "test", judge).summary()
        stamp = datetime.now(UTC).isoformat(timespec="seconds")
        tracking.log_figures(run.run_id, {f"select/{k}": v for k, v in select.items()})
        tracking.log_figures(run.run_id, {f"test/{k}": v for k, v in test.items()})
        tracking.tag(run.run_id, {f"test.read.{int(time.time())}": f"promotion of {name} at {stamp}"})
        tags = {
            "study.name": study,
            "trial.number": str(record.number),
            "data.sha256": data.digest,
            "model.sha256": run.tags["model.sha256"],
            "promoted": stamp,
            "forced": str(bool(failed)).lower(),
            **{f"select.{k}": f"{v:.6g}" for k, v in select.items()},
            **{f"test.{k}": f"{v:.6g}" for k, v in test.items()},
            **{f"baseline.{b}.select.{metric}": f"{v:.6g}" for b, v in others.items()},
        }
        version = register_version(client, name, run.run_id, run.tags["model.id"], tags, before)
    replaced = str(before.version) if before else None
    return Promotion(name, version, record.number, run.run_id, select, test, others, replaced)


def _choose(records: list[StoredTrial], config: StudyConfig, number: int | None) -> EndedTrial:
    if number is None:
        order = ranked(records, config.objective.direction)
        if not order:
            raise GateError(f"study {config.name} has no complete trial to promote")
        return order[0]
    if not 0 <= number < len(records):
        raise NotFoundError(f"study {config.name} has no trial {number}; it has 0 to {len(records) - 1}")
    record = records[number]
    if not isinstance(record, EndedTrial) or record.state != "COMPLETE":
        state = record.state if isinstance(record, EndedTrial) else "RUNNING"
        raise InputError(f"trial {number} is {state}; only complete trials have a model to promote")
    return record


def _better(mine: float, other: float, config: StudyConfig) -> bool:
    return mine > other if config.objective.direction == "maximize" else mine < other
