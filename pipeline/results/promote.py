"""Promotion: compare a study's best model with the baselines, and register it as champion if it is better.

Comes in: a study's records and runs. Goes out: a new version of the registered model. The only module that reads the
test split: once for a promotion, to report, never to choose. May not import mlflow.
"""

import shlex
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from pipeline.config import StudyConfig
from pipeline.config.choices import METRICS
from pipeline.data import Dataset, load, load_test
from pipeline.errors import GateError, InputError, NotFoundError, TrackingError
from pipeline.evaluation.baselines import baseline, baseline_names
from pipeline.evaluation.batches import Restore, example, threads, without_gradients
from pipeline.evaluation.judge import Judge, judge_of
from pipeline.evaluation.scores import evaluate
from pipeline.home import Home
from pipeline.results.summary import StudySummary, summarise
from pipeline.search.records import EndedTrial, StoredTrial, ranked
from pipeline.search.studies import check_owner, load_search
from pipeline.study.doctor import lost
from pipeline.study.reporter import degradation, md_text, shown_value
from pipeline.tracking.experiments import settle_move
from pipeline.tracking.models import EXPORT_TAG, MODEL_ID, WEIGHTS_TAG, check_files, read_manifest
from pipeline.tracking.registry import find_version, register_version, registry_lock
from pipeline.tracking.runs import PANEL_FILE, StoredRun, Tracking, read_tracking, restorer_of
from pipeline.tracking.views import run_page

DESCRIPTION_LENGTH = 5000  # characters that a store takes
CANDIDATE = "candidate"  # among the restorations that are scored on select


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

    Side effects: the trial's model is exported if it is not; the figures on *select* and *test* and a note that *test*
    was read go to the tags of the trial's run; a new version of the registered model, with the figures as tags and a
    description in Markdown, becomes champion. A promotion that is refused changes nothing. Called again for the
    champion it is refused, so *test* is read once per promotion.

    Args:
        number: a trial other than the best.
        force: promote even if a baseline is better; recorded on the version.

    Raises:
        NotFoundError: no such study or trial.
        InputError: the trial is not complete or is champion already, the data set has changed, the study belongs to
            another home, or this home is a copy.
        GateError: no trial is complete, or a baseline is better on *select*.
        TrackingError: the model's files are not those that were logged; `study doctor --repair` restores them.
    """
    home.check_writable()
    settle_move(home)
    lost.check(home, study)
    search = load_search(home, study)
    check_owner(home, search)
    config, name = search.config, search.config.model_name
    home = home.with_data(config.dataset)
    summary = summarise(search)
    trial = _choose(summary.records, config, number)
    tracking = read_tracking(home, study, search.uid)
    sha256, run = trial.summary.weights_sha256, tracking.read(trial.summary.run_id)
    if run is None:
        raise TrackingError(f"trial {trial.number} has no run in MLflow; run the study again to repair that")
    with registry_lock(home, name), threads(config.budget.threads_per_trial):
        champion = find_version(home, name)
        if champion is not None and champion.tags.get(WEIGHTS_TAG) == sha256:
            raise InputError(
                f"trial {trial.number} of {study} is {name}'s champion already (version {champion.version}); "
                "the test split is not read again"
            )
        exported = MODEL_ID in run.tags
        if exported:
            check_files(run.tags[MODEL_ID], read_manifest(run.tags) or {})  # the exported program is what gets served
        restore = without_gradients(restorer_of(run, sha256))
        data = load(config.dataset, home.data_dir)
        if data.digest != search.facts["data.sha256"]:
            raise InputError(f"dataset {config.dataset}: not the data that study {study} was trained on")
        judge = judge_of(data, home.judges)
        scores = _scores_on_select(restore, data, judge, config)
        reason = _refusal(config, scores)
        if reason and not force:
            raise GateError(f"trial {trial.number} {reason}; not promoted. --force promotes it anyway and records that")
        test = evaluate(restore, load_test(config.dataset, home.data_dir), config.degrade, "test", judge).summary()
        stamp, metric = datetime.now(UTC).isoformat(timespec="seconds"), config.objective.metric
        select, baselines = scores[CANDIDATE], {key: scores[key][metric] for key in scores if key != CANDIDATE}
        if not exported:
            images, epoch = example(data.val, config.degrade), trial.summary.best_epoch
            tracking.export(run, f"{study}-{run.name}", sha256, images, epoch)
            run = tracking.read(run.run_id) or run
        splits = {"select": select, "test": test}
        figures = {f"{split}.{key}": f"{value:.6g}" for split in splits for key, value in splits[split].items()}
        tracking.tag(run.run_id, figures | {f"test.read.{int(time.time())}": f"promotion of {name} at {stamp}"})
        tags = figures | {
            **{f"baseline.{key}.select.{metric}": f"{value:.6g}" for key, value in baselines.items()},
            "forced": str(bool(reason)).lower(),
            "study.name": study,
            "study.uid": search.uid,
            "trial.number": str(trial.number),
            EXPORT_TAG: run.tags[EXPORT_TAG],
            WEIGHTS_TAG: sha256,
            "data.sha256": data.digest,
            "promoted": stamp,
        }
        text = _description(summary, trial, tracking, run, scores, test, reason)
        version = register_version(home, name, run.run_id, run.tags[MODEL_ID], tags, text, champion)
    replaced = champion.version if champion else None
    return Promotion(name, version, trial.number, run.run_id, select, test, baselines, replaced)


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
        raise InputError(f"trial {number} is {record.state}; only complete trials have a model to promote")
    return record


def _scores_on_select(
    restore: Restore, data: Dataset, judge: Judge | None, config: StudyConfig
) -> dict[str, dict[str, float]]:
    """The figures on *select* of the candidate, which is first, and of each baseline."""
    restorations = {CANDIDATE: restore}
    restorations |= {
        name: baseline(name, data, config.degrade) for name in baseline_names(config.degrade, data.image_size)
    }
    return {
        name: evaluate(restoration, data.select, config.degrade, "select", judge).summary()
        for name, restoration in restorations.items()
    }


def _refusal(config: StudyConfig, scores: dict[str, dict[str, float]]) -> str | None:
    """Which baselines the candidate does not beat on *select*, as text; None if it beats all."""
    metric, sign = config.objective.metric, 1 if config.objective.direction == "maximize" else -1
    values = {name: figures[metric] for name, figures in scores.items()}
    value = values.pop(CANDIDATE)
    unbeaten = [f"{name} {other:.4g}" for name, other in values.items() if not sign * value > sign * other]
    return f"({metric} {value:.4g} on select) is not better than {', '.join(unbeaten)}" if unbeaten else None


def _description(
    summary: StudySummary,
    trial: EndedTrial,
    tracking: Tracking,
    run: StoredRun,
    scores: dict[str, dict[str, float]],
    test: dict[str, float],
    forced: str | None,
) -> str:
    """What a version is, in Markdown: its study, figures and settings, its run, how to load and to serve it."""
    config, best = summary.config, trial.summary
    place = summary.ranked.index(trial) + 1
    order = "best" if place == 1 else f"number {place}"
    columns = {"on val": {key.removeprefix("val/"): value for key, value in best.metrics.items()}}
    columns |= {"on test": test, "on select": scores[CANDIDATE]}
    columns |= {f"baseline {name}, on select": figures for name, figures in scores.items() if name != CANDIDATE}
    table = [["", *(f"&emsp;{name}&emsp;" for name in columns)], ["---"] * (len(columns) + 1)]  # MLflow sets no space
    table += [[key, *(METRICS[key].shown(scored[key]) for scored in columns.values())] for key in test]
    settings = ", ".join(f"{key} {md_text(shown_value(value))}" for key, value in trial.params.items())
    cost = f"{best.cost['parameters']:,} parameters, {best.cost['multiply_adds']:,} multiply-adds per image"
    load = f'pipeline.load_model("{config.model_name}")'
    serve = f"MLFLOW_TRACKING_URI={shlex.quote(tracking.home.tracking_shown)} \\\n"
    serve += "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \\\n"
    serve += f"mlflow models serve -m models:/{config.model_name}@champion --env-manager local --host 127.0.0.1 -p 5001"
    page = partial(run_page, tracking.experiment_id, run.run_id)
    file = run.tags.get("study.file_sha256", "unknown")
    lines = [
        f"**Trial {trial.number} of study {md_text(summary.name)}** restores images of {md_text(config.dataset)} "
        f"after {degradation(config.degrade)}. It is {order} of {len(summary.ranked)} complete trials on val.",
        "\n".join(f"| {' | '.join(row)} |" for row in table),
        "val chose the epoch and the trial, so its figures flatter; select decided whether to promote it.",
        *([f"**Promoted by force**: it {forced}."] if forced else []),
        f"**Settings**: {settings or 'no searched key'}; {cost}; epoch {best.best_epoch} of {best.epochs}.",
        f"**From** this [run]({page()}), with this [picture]({page(PANEL_FILE)}); sha256 of the study file "
        f"`{file[:12]}`, of the data `{summary.facts['data.sha256'][:12]}`.",
        f"While it is champion, `{load}` loads it in Python, and this serves it:",
        f"```sh\n{serve}\n```",
    ]
    return "\n\n".join(lines)[:DESCRIPTION_LENGTH]
