"""The driver: one process that owns a study, asks and tells its trials and sends their legs to the engine.

Comes in: a study file and a home. Goes out: exactly ``trials`` ended trials in Optuna's database, an MLflow run each,
and the baselines beside them. What is decided here depends on the file, the seed and the data; never on timing.

A trial's life: ask -> create run -> legs (checkpoint, then metrics) -> tell, in number order -> log model -> end run ->
remove checkpoints. After a kill at any point `run_study` goes on from what is stored.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pipeline import workers as engines
from pipeline.config import StudyConfig, StudyFile, TrialConfig
from pipeline.config.results import Checkpoint, EpochResult, LegResult
from pipeline.data import Dataset
from pipeline.data.degrade import input_size
from pipeline.data.prepare import prepare
from pipeline.epoch import build_model, history, run_leg
from pipeline.errors import RESUME, CheckpointError, EngineError, InputError, Interrupted, StudyError
from pipeline.evaluation.baselines import LARGEST_LINEAR, baseline_names, baseline_scores
from pipeline.evaluation.judge import Judge, judge_of
from pipeline.evaluation.scores import judge_figures
from pipeline.home import Home
from pipeline.provenance import git_state, hardware, versions
from pipeline.results.pictures import contact_sheet
from pipeline.search import ask_tell, samplers
from pipeline.search.ask_tell import OpenTrial, Search
from pipeline.search.records import Record, State, Summary, ranked
from pipeline.study.doctor import Finding, examine
from pipeline.study.finish import Finisher
from pipeline.study.reporter import Reporter
from pipeline.tracking.runs import CONTACT_SHEET, DataInput, Tracking, open_tracking
from pipeline.tracking.uids import judge_uid
from pipeline.training import checkpoint as checkpoints
from pipeline.training.model import cost
from pipeline.workers import Done, Engine

SHEET_TRIALS = 8  # the best ones are on it
KEPT = 2  # checkpoints kept of a running trial beside its best


@dataclass(frozen=True)
class Options:
    """How a study is run; none of this changes its numbers, but for the device."""

    workers: int | None = None
    cluster: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    download: bool = True


@dataclass(frozen=True)
class Outcome:
    """A finished `run_study`."""

    config: StudyConfig
    records: list[Record]
    baselines: dict[str, dict[str, float]]
    contact_sheet: Path | None  # where MLflow keeps its files on this machine
    seconds: float
    leg_share: float  # of the workers' time, while this call ran

    @property
    def best(self) -> Record | None:
        order = ranked(self.records, self.config.objective.direction)
        return order[0] if order else None


@dataclass
class Running:
    """A trial between ask and tell."""

    trial: OpenTrial
    config: TrialConfig
    run_id: str
    folder: Path
    cost: dict[str, int]
    epochs: list[EpochResult] = field(default_factory=list)
    kept: list[Checkpoint] = field(default_factory=list)
    ended: tuple[State, str] | None = None
    logged: frozenset[int] = frozenset()  # epochs that an earlier process logged; trained again they have other times

    @property
    def number(self) -> int:
        return self.trial.number

    def best_epoch(self, direction: str, metric: str) -> EpochResult:
        """The first of the epochs with the best objective."""
        sign = 1 if direction == "maximize" else -1
        return max(self.epochs, key=lambda e: (sign * e.metrics[metric], -e.epoch))


def run_study(file: StudyFile, home: Home, options: Options, reporter: Reporter) -> Outcome:
    """Run a study to its total, or go on with it.

    Side effects: creates the home, the databases, an experiment, runs and models; downloads the data set where it is
    absent. Called again it adds only what is missing; with a higher total it goes on as if that had been asked at once.

    Args:
        file: the study.
        home: where it is kept.
        options: workers, cluster, device.
        reporter: told of every epoch and trial.

    Raises:
        InputError: bad arguments, data or a study that differs from the stored one; nothing was written.
        Interrupted: Ctrl-C or SIGTERM; the study can be gone on with.
        StudyError: the databases, workers or disk failed; likewise.
    """
    config = file.config
    samplers.check(config)
    device = _device(options.device)
    slots = _workers(config, options, device)
    data = prepare(config, home.data_dir, options.download)
    home.prepare()
    with home.driver_lock(config.name), _signals() as stop:
        facts = {"data.sha256": data.digest, "device": device}
        search = ask_tell.open_search(home, config, facts)
        tracking = open_tracking(home, config.name, _note(file, data), stop.is_set)
        judge = judge_of(data, home.judges, stop.is_set)
        _note_environment(search, judge, reporter)
        if "linear" not in baseline_names(config.degrade, data.image_size):
            reporter.note(f"no baseline by the best linear map: images of more than {LARGEST_LINEAR:,} pixels")
        driver = _Driver(file, home, data, judge, device, search, tracking, reporter, stop)
        driver.tidy()
        if search.told() > config.budget.trials:
            reporter.note(f"{search.told()} trials have ended, more than the total of {config.budget.trials}: all stay")
        if driver.complete():
            return driver.outcome(0.0, 1)
        engine = engines.start(slots, options.cluster)
        if engine.slots > config.budget.concurrency / 2 and engine.slots > 1:
            reporter.note(
                f"{engine.slots} workers for a window of {config.budget.concurrency} trials: some will stand idle; "
                "[budget] concurrency of twice the workers keeps them busy"
            )
        try:
            return driver.run(engine)
        finally:
            engine.close()


class _Driver:
    """The state of one `run_study` or `train_one`."""

    def __init__(
        self,
        file: StudyFile,
        home: Home,
        data: Dataset,
        judge: Judge | None,
        device: Literal["cpu", "cuda"],
        search: Search,
        tracking: Tracking,
        reporter: Reporter,
        stop: threading.Event,
        role: Literal["trial", "train"] = "trial",
    ) -> None:
        self.role = role
        self.file, self.config, self.home, self.data, self.judge = file, file.config, home, data, judge
        self.device, self.search, self.tracking, self.reporter, self.stop = device, search, tracking, reporter, stop
        self.finisher = Finisher(self.config, data, home, device, search.uid, tracking, reporter.note, stop.is_set)
        self.metric = f"val/{self.config.objective.metric}"
        self.direction = self.config.objective.direction
        self.total = self.config.budget.trials
        self.running: dict[int, Running] = {}
        self.waiting: list[str] = []  # keys of tasks that have no worker yet
        self.in_flight: set[str] = set()
        self.leg_seconds = 0.0
        self.input = DataInput(data.name, data.digest, data.sizes)

    # --- before and after -------------------------------------------------------------------------------------

    def tidy(self) -> None:
        """Mend what a killed process left half done, before anything new is begun."""
        _mend(examine(self.home, self.search, self.tracking, self.finisher), self.reporter, self.stop)

    def complete(self) -> bool:
        """Whether nothing is missing: every trial told, baselines and judge there, the summary of all written."""
        done, told = self.search.recall("baselines", {}), self.search.told()
        baselines = all(name in done for name in self._baselines())
        judged = self.judge is None or self.search.recall("judge") == self.judge.sha256
        return told >= self.total and baselines and judged and self.search.recall("summarised") == told

    def outcome(self, seconds: float, slots: int) -> Outcome:
        share = self.leg_seconds / (seconds * slots) if seconds else 0.0
        baselines = self.search.recall("baselines", {})
        records = self.search.records()
        run_id = self.tracking.find(f"{self.search.uid}-study")
        sheet = self.tracking.local_file(run_id, CONTACT_SHEET) if run_id else None
        return Outcome(self.config, records, baselines, sheet, seconds, share)

    # --- the loop ---------------------------------------------------------------------------------------------

    def run(self, engine: Engine) -> Outcome:
        started = time.perf_counter()
        ended = self.search.told()
        self.reporter.begun(self.config, self.data, ended, engine.slots)
        records = self.search.records()
        for record in ranked(records, self.direction)[:1]:
            assert record.value is not None, "ranked trials are complete"
            self.reporter.best(record.number, record.value)
        try:
            if self.role == "trial":
                self._note_judge()
                known = self.search.recall("baselines", {})
                for name, metrics in known.items():
                    self.reporter.baseline(name, metrics)
                self.waiting += [f"baseline/{name}" for name in self._baselines() if name not in known]
            for record in records:
                if record.state == "RUNNING":
                    self._start(self.search.reopen(record.number), again=True)
            self._fill()
            self._tell_ready()
            while self.waiting or self.in_flight:
                if self.stop.is_set():
                    raise Interrupted
                self.tracking.flush()
                self._dispatch(engine)
                done = engine.wait(0.2)
                if done is not None:
                    self._take(done)
        except BaseException as error:
            try:
                self._suspend()
            except Exception as second:  # the store may be what failed; the first error is the one to show
                error.add_note(f"the runs could not be marked as suspended: {second}")
            raise
        seconds = time.perf_counter() - started
        if self.role == "trial":
            self._summarise()
        return self.outcome(seconds, engine.slots)

    def _dispatch(self, engine: Engine) -> None:
        """Hand out as many tasks as there are workers, the lowest trial first: it is the one the window waits for."""
        while self.waiting and len(self.in_flight) < engine.slots:
            key = min(self.waiting)
            self.waiting.remove(key)
            self.in_flight.add(key)
            kind, _, rest = key.partition("/")
            if kind == "baseline":
                config, data_dir = self.config, self.home.data_dir
                engine.submit(key, baseline_scores, rest, config.dataset, config.degrade, data_dir, self.judge)
            else:
                trial = self.running[int(rest)]
                before = trial.kept[-1] if trial.kept else None
                engine.submit(key, run_leg, trial.config, before, self.home.data_dir, trial.folder, self.judge)

    def _take(self, done: Done) -> None:
        self.in_flight.discard(done.key)
        kind, _, rest = done.key.partition("/")
        if isinstance(done.error, CheckpointError) and kind == "trial":
            self._fall_back(self.running[int(rest)], done.error)
        elif done.error is not None:
            raise _explained(f"trial {int(rest)}" if kind == "trial" else f"baseline {rest}", done.error)
        elif kind == "baseline":
            if done.lost:
                raise EngineError(f"the baseline {rest} could not be computed: {done.lost}")
            self._note_baseline(rest, *done.result)
        else:
            trial = self.running[int(rest)]
            leg = done.result or LegResult(None, None, None, done.lost, 0.0)
            self._leg_done(trial, leg)
            self._tell_ready()

    def _fill(self) -> None:
        """Ask trials while the window allows: trial n once trials 0 … n-L are told."""
        while len(self.search.trials()) < min(self.total, self.search.told() + self.config.budget.concurrency):
            self._start(self.search.ask(), again=self.role == "train")  # which no database says was begun before

    # --- one trial --------------------------------------------------------------------------------------------

    def _start(self, opened: OpenTrial, again: bool = False) -> None:
        """Create or find the trial's run, take up its checkpoints, and queue its next leg."""
        config = self.config.trial(opened.values, opened.number, self.device)
        uid = f"{self.search.uid}-{opened.number}"
        tags = self._tags(self.role) | {"trial.config": config.model_dump_json()}
        name = self.search.uid[: len("train-") + 8]
        if self.role == "trial":
            tags["trial.number"], name = str(opened.number), f"trial-{opened.number:04d}"
        run_id = self.tracking.run(uid, name, tags, config.params(), self.input, time.time())
        folder = self.home.checkpoints(self.search.uid, opened.number)
        figures = cost(build_model(config, self.data), input_size(self.data.image_size, config.degrade))
        trial = Running(opened, config, run_id, folder, figures)
        if again:
            trial.logged = self.tracking.epochs(run_id)
        self.running[opened.number] = trial
        self._take_up(trial)
        self._go_on(trial)

    def _take_up(self, trial: Running) -> None:
        """Replay what an earlier process finished of a trial, from its latest checkpoint that can be read."""
        for saved in checkpoints.found(trial.folder):
            try:
                epochs, picture = history(saved, trial.config)
            except CheckpointError as error:
                self.reporter.note(f"{error}; falling back to the epoch before")
                Path(saved.path).unlink(missing_ok=True)
                continue
            trial.kept = [c for c in reversed(checkpoints.found(trial.folder)) if c.epoch < saved.epoch] + [saved]
            for result in epochs:
                self._log_epoch(trial, result)
                self._note_epoch(trial, result)
            for earlier in trial.kept[:-1]:
                self._log_kept_panel(trial, earlier)
            self.tracking.log_panel(trial.run_id, picture, saved.epoch, look_first=True)
            return

    def _log_kept_panel(self, trial: Running, saved: Checkpoint) -> None:
        """The panel of an earlier checkpoint, where the process that made it could not log it any more."""
        with suppress(CheckpointError):  # should it be needed as weights, that is found out and said there
            self.tracking.log_panel(trial.run_id, history(saved, trial.config)[1], saved.epoch, look_first=True)

    def _leg_done(self, trial: Running, leg: LegResult) -> None:
        self.leg_seconds += leg.seconds
        if leg.checkpoint is None or leg.epoch is None or leg.panel is None:
            trial.ended = ("FAIL", leg.failure or "the leg returned nothing")
            return
        trial.kept.append(leg.checkpoint)
        if trial.trial.reported.get(leg.epoch.epoch) is None:
            self._log_epoch(trial, leg.epoch)
            again = leg.epoch.epoch in trial.logged
            self.tracking.log_panel(trial.run_id, leg.panel, leg.epoch.epoch, look_first=again)
            self._note_epoch(trial, leg.epoch)
            self.reporter.epoch(trial.number, leg.epoch.epoch, trial.config.epochs, leg.epoch.metrics)
        self._drop_checkpoints(trial)
        self._go_on(trial)

    def _log_epoch(self, trial: Running, result: EpochResult) -> None:
        if result.epoch not in trial.logged:
            self.tracking.log_epoch(trial.run_id, result)

    def _note_epoch(self, trial: Running, result: EpochResult) -> None:
        trial.epochs.append(result)
        value = result.metrics[self.metric]
        if not np.isfinite(value):
            trial.ended = ("FAIL", f"non-finite {self.metric} ({value}) in epoch {result.epoch}")
            return
        prune = trial.trial.report(result.epoch, value)
        if result.epoch == trial.config.epochs:
            trial.ended = ("COMPLETE", "")
        elif prune:
            trial.ended = ("PRUNED", f"{self.config.pruner.name} pruner, after epoch {result.epoch}")

    def _go_on(self, trial: Running) -> None:
        if trial.ended is None:
            self.waiting.append(f"trial/{trial.number:06d}")

    def _fall_back(self, trial: Running, error: CheckpointError) -> None:
        """A checkpoint was damaged while the study ran: train again from the one before, or from the start.

        Epochs are pure functions, so those trained again are the same; they are neither logged nor judged twice.
        """
        self.reporter.note(f"{error}; trial {trial.number} falls back to the epoch before")
        Path(trial.kept.pop().path).unlink(missing_ok=True)
        self._go_on(trial)

    def _drop_checkpoints(self, trial: Running) -> None:
        """Keep the last two, to go on from, and the best epoch's; all while the store is away and has no panels."""
        if self.tracking.behind:
            return
        best = trial.best_epoch(self.direction, self.metric).epoch
        for old in trial.kept[:-KEPT]:
            if old.epoch != best:
                Path(old.path).unlink(missing_ok=True)
                trial.kept.remove(old)

    def _tell_ready(self) -> None:
        """Tell ended trials, in number order only, and ask the ones this makes room for."""
        told = self.search.told()
        while told in self.running and self.running[told].ended is not None:
            trial = self.running.pop(told)
            self._tell(trial)
            told += 1
            self._fill()

    def _tell(self, trial: Running) -> None:
        assert trial.ended is not None
        self.tracking.settle()  # what waits for the store is in this process and, until the end, in the checkpoints
        state, reason = trial.ended
        summary, value = Summary(trial.run_id, cost=trial.cost, reason=reason), None
        if trial.trial.reported:
            best = trial.best_epoch(self.direction, self.metric)
            saved = next((c for c in reversed(trial.kept) if c.epoch == best.epoch), None)
            summary = replace(
                summary,
                epochs=len(trial.epochs),
                best_epoch=best.epoch,
                metrics=best.metrics,
                duration_s=sum(result.metrics["time/epoch_s"] for result in trial.epochs),
                checkpoint=Path(saved.path).name if saved else "",
                sha256=saved.sha256 if saved else "",
            )
            value = best.metrics[self.metric]
        self.search.tell(trial.trial, state, value if state == "COMPLETE" else None, summary)
        self.finisher.finish(self.search.records()[trial.number])
        self.reporter.trial(trial.number, state, value, reason, self.search.told())

    def _suspend(self) -> None:
        """Leave no run marked as under way; those of unfinished trials are gone on with by the next `run`."""
        for trial in self.running.values():
            self.tracking.suspend(trial.run_id)

    # --- beside the trials ------------------------------------------------------------------------------------

    def _baselines(self) -> list[str]:
        return baseline_names(self.config.degrade, self.data.image_size)

    def _note_baseline(self, name: str, metrics: dict[str, float], picture: np.ndarray) -> None:
        uid = f"{self.search.uid}-baseline-{name}"
        params = {"dataset": self.config.dataset}
        params |= {f"degrade.{key}": value for key, value in self.config.degrade.model_dump().items()}
        tags = self._tags("baseline")
        run_id = self.tracking.run(uid, f"baseline-{name}", tags, params, self.input, time.time())
        self.tracking.log_figures(run_id, metrics | {"objective": metrics[self.metric]})
        self.tracking.log_panel(run_id, picture, 0, look_first=True)
        self.tracking.end(run_id, "COMPLETE")
        self.search.remember("baselines", self.search.recall("baselines", {}) | {name: metrics})
        self.reporter.baseline(name, metrics)

    def _note_judge(self) -> None:
        """The reference classifier as a run of its own, once a study."""
        if self.judge is None or self.search.recall("judge") == self.judge.sha256:
            return
        uid, params = judge_uid(self.search.uid, self.judge.sha256), {"dataset": self.config.dataset}
        run_id = self.tracking.run(uid, "judge", self._tags("judge"), params, self.input, time.time())
        self.tracking.log_figures(run_id, judge_figures(self.judge, self.data, self.config.degrade))
        self.tracking.end(run_id, "COMPLETE")
        self.search.remember("judge", self.judge.sha256)

    def _summarise(self) -> None:
        """The study's own run: its file, its resolved form and a contact sheet of the best trials."""
        tags = self._tags("study")
        params = {"dataset": self.config.dataset}  # the total may be raised later, and params cannot be changed
        uid = f"{self.search.uid}-study"
        run_id = self.tracking.run(uid, "study", tags, params, self.input, time.time())
        self.tracking.log_text(run_id, self.file.text, "study.toml")
        self.tracking.log_text(run_id, json.dumps(self.config.canonical(), indent=2), "study.json")
        records = self.search.records()
        panels = {
            f"baseline {run.name.removeprefix('baseline-')}\n{self._figure(run.metrics)}": self.tracking.panel(
                run.run_id, 0
            )
            for run in self.tracking.runs("baseline")
            if run.name != "baseline-degraded"  # the sheet's second row is just that
        }
        for record in ranked(records, self.direction)[:SHEET_TRIALS]:
            if record.summary is not None:
                label = f"trial {record.number}\n{self._figure(record.summary.metrics)}"
                panels[label] = self.tracking.panel(record.summary.run_id, record.summary.best_epoch)
        shown = {label: picture for label, picture in panels.items() if picture is not None}
        if shown:
            self.tracking.log_picture(run_id, contact_sheet(shown), CONTACT_SHEET)
        states = [record.state for record in records]
        counts = {f"trials_{state.lower()}": float(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")}
        self.tracking.log_figures(run_id, counts)
        self.tracking.end(run_id, "COMPLETE")
        self.search.remember("summarised", self.search.told())

    def _figure(self, metrics: Mapping[str, float]) -> str:
        return f"{self.config.objective.metric} {metrics[self.metric]:.4g}"

    def _tags(self, role: str) -> dict[str, str]:
        return {
            "study.name": self.config.name,
            "study.role": role,
            "study.file_sha256": self.file.sha256,
            "study.overrides": " ".join(self.file.overrides),
            "data.sha256": self.data.digest,
            "judge.sha256": self.judge.sha256 if self.judge else "",
            "env.versions": json.dumps(versions()),
            "env.hardware": hardware(),
            **git_state(),
        }


def _device(asked: str) -> Literal["cpu", "cuda"]:
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu or auto")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def _workers(config: StudyConfig, options: Options, device: str) -> int:
    """One a GPU; on the CPU as many as the cores hold trials, but no more than the window."""
    if options.workers is not None:
        if options.workers < 0:
            raise InputError(f"--workers {options.workers}: must be 0 (in this process) or more")
        return options.workers
    if device == "cuda":
        return torch.cuda.device_count()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(1, cores // config.budget.threads_per_trial), config.budget.concurrency)


def _note_environment(search: Search, judge: Judge | None, reporter: Reporter) -> None:
    """Say what changed since the study was last run; trials from here on are recorded with what is there now."""
    now = {**versions(), **git_state(), "hardware": hardware(), "judge": judge.sha256[:12] if judge else "none"}
    before = search.recall("environment", now)
    for what in [what for what in now if before.get(what) != now[what]]:
        reporter.note(f"{what} was {before.get(what)} and is {now[what]}: numbers may differ from here on")
    search.remember("environment", now)


def _note(file: StudyFile, data: Dataset) -> str:
    config = file.config
    how = ", ".join(f"{key} {value}" for key, value in config.degrade.model_dump().items() if key != "kind")
    searched = ", ".join(f"`{key}`" for key in config.space.searched()) or "nothing"
    splits = ", ".join(f"{size:,} {name}" for name, size in data.sizes.items())
    return (
        f"**{config.name}**: {config.degrade.kind} ({how}) on {config.dataset} ({splits}).\n\n"
        f"Ranked by validation `{config.objective.metric}` ({config.objective.direction}), searching {searched} with "
        f"{config.sampler.name}, pruned by {config.pruner.name}."
    )


def _explained(what: str, error: Exception) -> StudyError:
    """A task's error as the user should see it; the project's own are clear already."""
    if isinstance(error, StudyError):
        return error
    if isinstance(error, OSError):
        reason = (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
    else:
        reason = f"{what}: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    explained = StudyError(f"{reason}; when that is repaired, {RESUME}")
    explained.__cause__ = error
    return explained


def _mend(findings: Iterator[Finding], reporter: Reporter, stop: threading.Event) -> None:
    """Repair what can be repaired, each finding before the next is asked for."""
    for finding in findings:
        if stop.is_set():
            raise Interrupted
        if finding.repair is not None:
            finding.repair()
            reporter.note(f"mended: {finding.text}")


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """Ctrl-C or SIGTERM once asks the loop to stop, twice ends the process; only the main thread can catch them."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    asked = 0

    def ask(_signum: int, _frame: Any) -> None:
        nonlocal asked
        asked += 1  # not the event: a second signal in the middle of setting it would wait for its lock for ever
        if asked > 1:
            os._exit(130)  # workers end with this process
        stop.set()

    before = {which: signal.signal(which, ask) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
