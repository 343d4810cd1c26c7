"""The driver: one loop that carries out what the window of trials decides, and feeds it what happened.

Comes in: a `Session` and workers. Goes out: as many ended trials in Optuna's database as the study asks for, an MLflow
run for each, and the baselines. A trial is written in this order: ask, epochs (checkpoints), tell; and MLflow, which
lags behind, in this one: create the run, which the trial's end names, epochs, weights, end of the run. Then its
checkpoints are removed; the best trials' models are exported when all have ended. The next process repairs what a kill
left.
"""

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.config import StudyConfig
from pipeline.config.outcomes import Failed, Trained
from pipeline.epoch import run_epoch
from pipeline.errors import RESUME, CheckpointError, EngineError, StudyError
from pipeline.evaluation.baselines import LARGEST_LINEAR, baseline_names, baseline_scores
from pipeline.evaluation.judge import Judge
from pipeline.evaluation.scores import judge_figures
from pipeline.provenance import git_state, hardware, versions
from pipeline.search.records import RunningTrial, ended
from pipeline.study import window as w
from pipeline.study.doctor.examine import examine
from pipeline.study.doctor.findings import repair
from pipeline.study.doctor.model_findings import export_models
from pipeline.study.finish import baseline_figures, log_baseline_pictures
from pipeline.study.session import Options, Session, note_window
from pipeline.study.trial_run import TrialRun, open_run
from pipeline.tracking.runs import IMAGES_TAG
from pipeline.tracking.uids import baseline_uid, judge_uid
from pipeline.tracking.writer import Writer
from pipeline.workers import Lost, Outcome, Raised, Returned, Timed, Workers

MANY = 50  # ended trials: from here on to compare them is said, since it takes seconds


@dataclass(frozen=True)
class StudyOutcome:
    """A study that has reached its total."""

    config: StudyConfig
    seconds: float = 0.0
    elapsed: float = 0.0  # seconds in all sessions
    shares: dict[str, float] = field(default_factory=dict)  # of the workers' time, as `Timed` has; empty without any
    report: Path | None = None  # None where an MLflow server keeps the files, and before it is published


def run_to_total(session: Session, options: Options) -> StudyOutcome:
    """Repair what an earlier process left half done, then run the trials and baselines that are missing.

    Raises:
        Interrupted: the user asked to stop.
        StudyError: the databases, workers or disk failed.
    """
    search, reporter = session.search, session.reporter
    _note_environment(session)
    names = baseline_names(session.config.degrade, session.data.image_size)
    if "linear" not in names:
        reporter.note(f"the baseline `linear` is left out: images have more than {LARGEST_LINEAR:,} pixels")
    recorded, total = search.told(), session.config.budget.trials
    if recorded >= MANY:
        reporter.note(f"comparing MLflow's runs of {recorded} ended trials with Optuna's database")
    repair(examine(session), reporter, session.stop)
    if recorded > total:
        reporter.note(f"the total is {total}, but {recorded} trials have ended already; all are kept")
    records, known = search.records(), search.baselines
    resumed = [record.number for record in records if isinstance(record, RunningTrial)]
    missing = [name for name in names if name not in known]
    window = w.Window(total, session.config.budget.concurrency, recorded, resumed, missing)
    new_judge = session.judge if session.judge and session.judge.sha256 != search.judge else None
    if window.finished and new_judge is None:
        export_models(session, session.workers)
        return StudyOutcome(session.config)

    workers = session.workers
    note_window(session, options)
    try:
        reporter.begun(session.config, session.data, ended(records), workers.slots, search.elapsed)
        for name, metrics in known.items():
            reporter.baseline(name, metrics)
        driver = Driver(session, workers, window)
        if new_judge is not None:
            driver.record_judge(new_judge)
        driver.run()
        export_models(session, session.workers)
        return StudyOutcome(session.config, driver.seconds, search.elapsed, driver.workers.shares)
    finally:
        workers.close()


class Driver:
    """Carries out the window's actions against workers, search and tracking."""

    def __init__(self, session: Session, workers: Workers, window: w.Window) -> None:
        self._session, self._window = session, window
        self.workers = Timed(workers, lambda: not window.all_asked)
        guard = partial(session.search.request, session.search.before_write)
        self._writer = Writer(session.home, guard, session.stop.is_set)
        self._runs: dict[int, TrialRun] = {}
        self._recorded: dict[int, TrialRun] = {}  # trials that have ended, but not yet their MLflow runs
        self._next: deque[w.Open | w.Record] = deque()  # in the window's order
        self.seconds = 0.0

    def run(self) -> None:
        """Run until the window is finished. Raises as `run_to_total`, with open trials' runs marked as suspended."""
        started = time.perf_counter()
        self._zero = started - self._session.search.elapsed
        slots = 0
        try:
            while not self._finished:
                if self._session.stop.is_set():
                    self._writer.interrupt()
                if slots != self.workers.slots:
                    slots = self.workers.slots
                    self._handle(w.SlotsChanged(slots))
                self._writer.step()
                self._record_and_open()
                outcome = self.workers.wait(0.0 if self._finished or self._possible() else 0.2)
                if outcome is not None:
                    self._handle(self._event(outcome))
            self._writer.drain(self._session.reporter.note)
            self._writer.close()
        except BaseException as error:
            self._session.stop.set()  # whatever waits for a store ends
            self._writer.close()
            try:
                self._suspend_all()
            except Exception as second:  # MLflow may be what failed; the first error is the one to show
                error.add_note(f"the runs could not be marked as suspended: {second}")
            raise
        self.seconds = time.perf_counter() - started

    def _suspend_all(self) -> None:
        """Mark the runs that were not brought to their end as suspended."""
        try:
            self._session.search.before_write()
        except StudyError:  # another driver has the study by now
            return
        except Exception:  # the storage is unreachable, so nothing says that
            pass
        for run in [*self._runs.values(), *self._recorded.values()]:
            if run.run_id and not run.written:
                self._session.tracking.suspend(run.run_id)

    def _handle(self, event: w.Event) -> None:
        events = deque([event])
        while events:
            for action in self._window.feed(events.popleft()):
                if isinstance(action, w.Open | w.Record):
                    self._next.append(action)
                else:
                    events.extend(self._carry_out(action))

    @property
    def _finished(self) -> bool:
        return self._window.finished and not self._next

    def _possible(self) -> bool:
        """Whether the next trial can be opened or recorded now: a trial's end names its run, so that is created first.

        While MLflow is unreachable that may take long, and the trials that are open are trained meanwhile. Where MLflow
        is slower than the workers, new trials wait for it: as many may wait to be written as may be open.
        """
        action = self._next[0] if self._next else None
        if isinstance(action, w.Record):
            return bool(self._runs[action.number].run_id)
        return action is not None and len(self._recorded) <= self._session.config.budget.concurrency

    def _record_and_open(self) -> None:
        """Record one trial and open one: not more between two looks at the workers, which wait for their epochs."""
        for kind in (w.Record, w.Open):
            if not self._possible() or not isinstance(self._next[0], kind):
                continue
            action = self._next.popleft()
            if isinstance(action, w.Open):
                self._handle(self._open(action))
            else:
                self._record(action)

    def _record(self, action: w.Record) -> None:
        run = self._runs[action.number]
        run.record(action.end, partial(self._recorded.pop, action.number, None))
        self._recorded[action.number] = self._runs.pop(action.number)
        self._session.search.elapsed = time.perf_counter() - self._zero

    def _open(self, action: w.Open) -> w.Event:
        session, number = self._session, action.number
        trial = session.search.reopen(number) if action.resumed else session.search.ask()
        run = self._runs[number] = open_run(session, self._writer, trial, action.resumed)
        epoch = run.latest.epoch if run.latest else 0
        session.reporter.opened(number, run.config, epoch)
        return w.Opened(number, epoch, run.end)

    def _carry_out(self, action: w.Action) -> list[w.Event]:
        """Carry out one action. Returns the events that it caused."""
        session, runs = self._session, self._runs
        match action:
            case w.Submit(number):
                run, data_dir = runs[number], session.home.data_dir
                self.workers.submit(action, run_epoch, run.config, run.latest, data_dir, run.folder, session.judge)
            case w.SubmitBaseline(name):
                config, data_dir = session.config, session.home.data_dir
                self.workers.submit(
                    action, baseline_scores, name, config.dataset, config.degrade, data_dir, session.judge
                )
            case w.Report(number):
                return [w.EpochReported(number, runs[number].report())]
        return []

    def _event(self, outcome: Outcome) -> w.Event:
        """Take in a task's outcome. Returns what it means for the window."""
        match outcome:
            case Returned(w.Submit(number), Trained() as epoch):
                self._runs[number].trained(epoch)
                return w.EpochTrained(number, epoch.result.epoch)
            case Returned(w.Submit(number), Failed(reason)):
                return w.EpochFailed(number, reason)
            case Returned(w.SubmitBaseline(name), (metrics, panel)):
                self._record_baseline(name, metrics, panel)
                return w.BaselineDone(name)
            case Raised(w.Submit(number), CheckpointError() as error):
                return w.CheckpointDamaged(number, self._runs[number].fall_back(error))
            case Lost(w.Submit(number), reason):
                return w.EpochFailed(number, reason)
            case Raised(key, error):
                raise _explained(str(key), error)
            case Lost(key, reason):
                raise EngineError(f"the {key} could not be computed: {reason}")
        raise StudyError(f"unexpected outcome of {outcome.key}: {outcome}")

    def record_judge(self, judge: Judge) -> None:
        """Have a run of its own made for the judge."""
        session, started = self._session, time.time()
        uid, tags = judge_uid(session.search.uid, judge.sha256), session.tags | {"study.role": "judge"}
        params = {"dataset": session.config.dataset}
        figures = judge_figures(judge, session.data, session.config.degrade)  # not on a thread, since torch computes it

        def write() -> None:
            run_id = session.tracking.run(uid, "judge", tags, params, session.data, started)
            session.tracking.log_figures(run_id, figures)
            session.tracking.end(run_id, "COMPLETE")

        def written(_: None) -> None:
            session.search.judge = judge.sha256

        self._writer.put(uid, write, written)

    def _record_baseline(self, name: str, metrics: dict[str, float], panel: np.ndarray) -> None:
        session = self._session
        params = {"dataset": session.config.dataset}
        params |= {f"degrade.{key}": value for key, value in session.config.degrade.model_dump().items()}
        tags = session.tags | IMAGES_TAG | {"study.role": "baseline"}
        uid = baseline_uid(session.search.uid, name)
        started = time.time()

        def write() -> None:
            run_id = session.tracking.run(uid, f"baseline-{name}", tags, params, session.data, started)
            session.tracking.log_figures(run_id, baseline_figures(session, metrics))
            log_baseline_pictures(session, run_id, name, panel, metrics)
            session.tracking.end(run_id, "COMPLETE")

        def written(_: None) -> None:
            session.search.baselines = session.search.baselines | {name: metrics}

        self._writer.put(uid, write, written)
        session.reporter.baseline(name, metrics)


def _note_environment(session: Session) -> None:
    """Say what changed since the study was last run; new runs are tagged with the new environment."""
    judge = session.judge.sha256[:12] if session.judge else "none"
    now = {**versions(), **git_state(), "hardware": hardware(), "judge": judge}
    before = session.search.environment or now
    for what in [what for what in now if before.get(what) != now[what]]:
        session.reporter.note(f"{what} was {before.get(what)} and is {now[what]}: results of new epochs may differ")
    session.search.environment = now


def _explained(what: str, error: Exception) -> StudyError:
    """A task's error as the user should see it; the project's own errors are clear already."""
    if isinstance(error, StudyError):
        return error
    if isinstance(error, OSError):
        reason = (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))
    else:
        reason = f"{what}: {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
    explained = StudyError(f"{reason}; when that is repaired, {RESUME}")
    explained.__cause__ = error
    return explained
