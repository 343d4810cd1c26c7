"""Promotion: register a study's best model as champion, if it passes the gate.

Comes in: a study's records and runs. Goes out: a `Verdict`, and a new version of the registered model. The only module
that reads the test split: once for a promotion, to report, never to choose. May not import mlflow.
"""

import getpass
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import torch

from pipeline.config import StudyConfig
from pipeline.config.choices import METRICS, worth
from pipeline.data import Dataset, load, load_test
from pipeline.errors import GateError, InputError, TrackingError
from pipeline.evaluation.baselines import baseline, baseline_names
from pipeline.evaluation.batches import Restore, example, threads, without_gradients
from pipeline.evaluation.intervals import Interval
from pipeline.evaluation.judge import Judge, judge_of, labels_of
from pipeline.evaluation.panel import PANEL_IMAGES, labelled, panel
from pipeline.evaluation.scores import Scores, evaluate
from pipeline.home import Home
from pipeline.results.card import WORST_FILE, card
from pipeline.results.gate import Verdict, compared, judge_candidate
from pipeline.results.material import trial_restorer
from pipeline.results.replication import (
    Optimism,
    champion_configuration,
    configurations_compared,
    optimism,
    seeds_on_select,
)
from pipeline.results.summary import Configuration, StudySummary, summarise
from pipeline.search.ask_tell import Search
from pipeline.search.records import EndedTrial, numbered
from pipeline.search.studies import check_owner, load_search
from pipeline.study.doctor import lost
from pipeline.tracking.experiments import settle_move
from pipeline.tracking.models import EXPORT_TAG, MODEL_ID, WEIGHTS_TAG, check_files, read_manifest
from pipeline.tracking.registry import (
    CHAMPION,
    PREVIOUS,
    STATUS_TAG,
    RegisteredVersion,
    find_version,
    load_champion,
    register_version,
    registry_lock,
    withdraw_version,
)
from pipeline.tracking.runs import StoredRun, Tracking, read_tracking, restorer_of
from pipeline.tracking.uids import replicate_uid, trial_uid

CLASSES_FILE = "select-class-kept.json"  # of the run that was promoted


@dataclass(frozen=True)
class Promotion:
    """A version that became champion."""

    model: str
    version: str
    trial: int
    run_id: str
    verdict: Verdict
    select: dict[str, Interval]
    test: dict[str, Interval]
    baselines: dict[str, float]  # objective on select, by baseline
    optimism: Optimism | None
    replaced: str | None  # the version that was champion before


@dataclass(frozen=True)
class _Case:
    """A candidate and how it and its rivals restore *select*."""

    search: Search
    summary: StudySummary
    trial: EndedTrial  # or the median replicate of one, which has its number
    tracking: Tracking
    run: StoredRun
    restore: Restore
    champion: RegisteredVersion | None
    data: Dataset
    judge: Judge | None
    scores: Scores  # of the candidate
    baselines: Mapping[str, Scores]
    verdict: Verdict
    optimism: Optimism | None

    @property
    def config(self) -> StudyConfig:
        return self.search.config

    @property
    def replicated(self) -> Configuration | None:
        """The replicated configuration whose median it is."""
        return self.summary.configurations.get(self.trial.number)

    @property
    def uid(self) -> str:
        """Of its run, whose tags may be edited."""
        found, number = self.replicated, self.trial.number
        if found is None:
            return trial_uid(self.search.uid, number)
        return replicate_uid(self.search.uid, number, found.epochs, found.median)


def check(
    home: Home, study: str, number: int | None = None, margin: float | None = None
) -> tuple[Verdict, Optimism | None]:
    """What the gate says of a candidate, and how much the search flattered its winner.

    Arguments and errors are those of `promote`, but a refusal is not an error. No image of *test* is read, and nothing
    is changed, except that the data set's judge is made where it is missing.
    """
    search = load_search(home, study)
    home = home.with_data(search.config.dataset)
    with threads(search.config.budget.threads_per_trial):
        case = _examine(home, search, number, margin)
    return case.verdict, case.optimism


def promote(
    home: Home,
    study: str,
    number: int | None = None,
    force: bool = False,
    reason: str = "",
    margin: float | None = None,
) -> Promotion:
    """Register a study's best model by validation as the new champion, if it passes the gate.

    That is the median replicate of the best replicated configuration; where there is none, the best trial.

    Side effects: the trial's model is exported if it is not; the figures on *select* and *test* go to the tags of the
    trial's run, the worst restorations and the share kept per class to its files; that *test* was read is recorded on
    the study; a new version of the registered model, with the figures as tags and a description in Markdown, becomes
    champion, is loaded by that alias and compared. A refusal is recorded on the study and changes nothing else. Called
    again for the champion it is refused, so *test* is read once per promotion.

    Args:
        number: a trial other than the best; of a replicated one its median replicate is taken.
        force: promote a candidate that does not pass; recorded on the version.
        reason: why, in the user's words; recorded.
        margin: the least gain over every rival, in the objective's unit; 0.1 of an objective in dB by default.

    Raises:
        NotFoundError: no such study or trial.
        InputError: the trial is not complete or is champion already, the data set has changed, the study belongs to
            another home, or this home is a copy.
        GateError: no trial is complete, or it does not pass: it is not shown to be better on *select* than each
            baseline and the champion, or the champion cannot be compared with it.
        TrackingError: the model's files are not those that were logged (`study doctor --repair` restores them), or the
            new champion, loaded by its alias, restores otherwise; then the aliases are as they were.
    """
    home.check_writable()
    settle_move(home)
    lost.check(home, study)
    search = load_search(home, study)
    check_owner(home, search)
    config, name = search.config, search.config.model_name
    home = home.with_data(config.dataset)
    with registry_lock(home, name), threads(config.budget.threads_per_trial):
        case = _examine(home, search, number, margin)
        stamp = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        what = {"at": stamp, "trial": str(case.trial.number), "run": case.run.run_id, "model": name, "reason": reason}
        if not case.verdict.passed and not force:
            search.refusals = [*search.refusals, what | {"verdict": case.verdict.text}]
            raise GateError(f"{case.verdict.text}; not promoted. --force promotes it anyway and records that")
        search.test_readings = [*search.test_readings, what]  # before it is read: a kill leaves one too many
        test = evaluate(case.restore, load_test(config.dataset, home.data_dir), config.degrade, "test", case.judge)
        return _register(home, case, test.intervals(), reason, stamp)


def _examine(home: Home, search: Search, number: int | None, margin: float | None) -> _Case:
    """Choose the candidate, and compare it with its rivals on *select*."""
    config, summary = search.config, summarise(search)
    trial, label = _choose(summary, number)
    tracking = read_tracking(home, config.name, search.uid)
    sha256, run = trial.summary.weights_sha256, tracking.read(trial.summary.run_id)
    if run is None:
        raise TrackingError(f"{label} has no run in MLflow; run the study again to repair that")
    champion = find_version(home, config.model_name)
    if champion is not None and champion.tags.get(WEIGHTS_TAG) == sha256:
        raise InputError(
            f"{label} of {config.name} is {config.model_name}'s champion already (version "
            f"{champion.version}); the test split is not read again"
        )
    if MODEL_ID in run.tags:
        check_files(run.tags[MODEL_ID], read_manifest(run.tags) or {})  # the exported program is what gets served
    data = load(config.dataset, home.data_dir)
    if data.digest != search.facts["data.sha256"]:
        raise InputError(f"dataset {config.dataset}: not the data that study {config.name} was trained on")
    judge = judge_of(data, home.judges)

    def scored(restore: Restore) -> Scores:
        return evaluate(restore, data.select, config.degrade, "select", judge)

    restore = without_gradients(restorer_of(run, sha256))
    scores, metric = scored(restore), config.objective.metric
    known = {sha256: scores}

    def scored_trial(trial: EndedTrial, tracking: Tracking) -> Scores:
        digest = trial.summary.weights_sha256
        if digest not in known:
            known[digest] = scored(without_gradients(trial_restorer(tracking, trial)))
        return known[digest]

    names = baseline_names(config.degrade, data.image_size)
    baselines = {name: scored(baseline(name, data, config.degrade)) for name in names}
    rivals = {name: each.figures(metric) for name, each in baselines.items()}
    incomparable, configurations = "", None
    if champion is not None:
        try:
            incomparable = _incomparable(champion, config, data)
            if not incomparable:
                model = without_gradients(load_champion(home, config.model_name))
                rivals[f"version {champion.version}"] = scored(model).figures(metric)
        except TrackingError as error:
            incomparable = str(error)
        own = summary.configurations.get(trial.number)
        other = champion_configuration(home, champion) if own and not incomparable else None
        if own is not None and other is not None and other[1].trial.summary.run_id != own.trial.summary.run_id:
            name, theirs, there = other
            with suppress(TrackingError):  # weights are lost; it decides nothing
                figures = seeds_on_select(own.seeds.values(), tracking, scored_trial, metric)
                others = seeds_on_select(theirs.seeds.values(), there, scored_trial, metric)
                gain = configurations_compared(figures, others, summary.sign)
                configurations = compared(name, gain)
    verdict = judge_candidate(label, metric, scores.figures(metric), rivals, margin, incomparable)
    verdict = replace(verdict, configurations=configurations)
    return _Case(
        search=search,
        summary=summary,
        trial=trial,
        tracking=tracking,
        run=run,
        restore=restore,
        champion=champion,
        data=data,
        judge=judge,
        scores=scores,
        baselines=baselines,
        verdict=verdict,
        optimism=optimism(summary, tracking, scored_trial, baselines),
    )


def _choose(summary: StudySummary, number: int | None) -> tuple[EndedTrial, str]:
    """The candidate, and how it is called: a trial, or of a replicated one the median replicate."""
    trial = _chosen(summary, number)
    replicated = summary.configurations.get(trial.number)
    if replicated is None:
        return trial, f"trial {trial.number}"
    seed = replicated.median
    return replicated.seeds[seed], f"trial {trial.number} seed {seed}, the median of {len(replicated.seeds)} seeds"


def _chosen(summary: StudySummary, number: int | None) -> EndedTrial:
    config = summary.config
    if number is None:
        if summary.best is None:
            raise GateError(f"study {config.name} has no complete trial to promote")
        return summary.best
    record = numbered(summary.records, number, config.name)
    if not isinstance(record, EndedTrial) or record.state != "COMPLETE":
        raise InputError(f"trial {number} is {record.state}; only complete trials have a model to promote")
    return record


def _incomparable(champion: RegisteredVersion, config: StudyConfig, data: Dataset) -> str:
    """Why a champion cannot be compared with a study's models; empty if it can."""
    other = []
    if champion.tags.get("data.sha256") != data.digest:
        other.append("other data")
    if champion.tags.get("degrade") != config.degrade.model_dump_json():
        other.append("another degradation")
    return f"version {champion.version} is of {' and '.join(other)}, so it is not comparable" if other else ""


def _register(home: Home, case: _Case, test: dict[str, Interval], reason: str, stamp: str) -> Promotion:
    """Register a candidate as champion, and load it by that alias."""
    config, trial, run, tracking, verdict = case.config, case.trial, case.run, case.tracking, case.verdict
    name, select, metric = config.model_name, case.scores.intervals(), config.objective.metric
    images = example(case.data.val, config.degrade)
    if MODEL_ID not in run.tags:
        sha256, epoch = trial.summary.weights_sha256, trial.summary.best_epoch
        tracking.export(run, f"{config.name}-{run.name}", sha256, images, epoch)
        run = tracking.read(run.run_id) or run
    files: dict[str, bytes | np.ndarray] = {WORST_FILE: _worst(case)}
    if classes := _class_kept(case):
        files[CLASSES_FILE] = json.dumps(classes, indent=2).encode()
    tracking.log_files(run.run_id, files)
    figures: dict[str, str] = {}
    for split, intervals in (("select", select), ("test", test)):
        for key, found in intervals.items():
            ends = {".low": found.low, ".high": found.high}
            figures |= {f"{split}.{key}{end}": f"{value:.6g}" for end, value in ({"": found.mean} | ends).items()}
    tracking.tag(run.run_id, figures | {f"test.read.{stamp.replace(':', '')}": f"promotion of {name}"})
    baselines = {key: each.summary()[metric] for key, each in case.baselines.items()}
    tags = figures | {
        **{f"baseline.{key}.select.{metric}": f"{value:.6g}" for key, value in baselines.items()},
        "gate.verdict": verdict.text,
        "gate.margin": f"{verdict.margin:g}",
        "gate.gain": f"{verdict.shown(verdict.least)} over {verdict.least.rival}",
        "replicate": str(case.replicated.median) if case.replicated else "",
        "forced": str(not verdict.passed).lower(),
        "reason": reason,
        "study.name": config.name,
        "study.uid": case.search.uid,
        "study.file_sha256": run.tags.get("study.file_sha256", ""),
        "trial.number": str(trial.number),
        "trial.uid": case.uid,
        EXPORT_TAG: run.tags[EXPORT_TAG],
        WEIGHTS_TAG: trial.summary.weights_sha256,
        "data.sha256": case.data.digest,
        "degrade": config.degrade.model_dump_json(),
        "promoted": stamp,
        "promoted.by": _user(),
        STATUS_TAG: "approved",
    }
    text = card(
        case.summary,
        trial,
        verdict,
        {"on select": select, "on test": test},
        {name: each.summary() for name, each in case.baselines.items()},
        classes,
        reason,
        run,
        (tracking.experiment_id, tracking.home.tracking_shown),
    )
    before = {alias: find_version(home, name, alias) for alias in (CHAMPION, PREVIOUS)}
    version = register_version(home, name, run.run_id, run.tags[MODEL_ID], tags, text, case.champion)
    try:
        degraded = torch.from_numpy(images)
        if not torch.equal(without_gradients(load_champion(home, name))(degraded), case.restore(degraded)):
            raise TrackingError(f"{name} version {version}, loaded by its alias, does not restore as {run.name} does")
    except BaseException:
        withdraw_version(home, name, version, before)
        raise
    replaced = case.champion.version if case.champion else None
    return Promotion(name, version, trial.number, run.run_id, verdict, select, test, baselines, case.optimism, replaced)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return "unknown"


def _class_kept(case: _Case) -> dict[str, float]:
    """The share of images of each class that the judge still gives their class; empty without classes."""
    if "class_kept" not in case.scores.columns:
        return {}
    kept, labels = case.scores.columns["class_kept"], labels_of(case.data.select)
    return {str(c): kept[labels == c].double().mean().item() for c in labels.unique().tolist()}


def _worst(case: _Case) -> np.ndarray:
    """The images of *select* that a candidate restores worst, the worst first, as a labelled panel."""
    metric = case.summary.image_metric
    figures = case.scores.figures(metric)
    order = np.argsort(worth(figures, METRICS[metric].better), kind="stable")
    chosen = order[:PANEL_IMAGES].tolist()
    values = ", ".join(METRICS[metric].shown(figures[index], False) for index in chosen)
    drawn = panel(case.restore, case.data.select, case.config.degrade, "select", chosen=chosen)
    return labelled(drawn, f"{case.run.name} of {case.config.name} · the worst of select · {metric} {values}")
