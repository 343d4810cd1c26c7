"""One trial from ask to end: its MLflow run, its checkpoints, its epochs.

Comes in: a trial as Optuna asked it, then its trained epochs. Goes out: metrics and panels to MLflow, objectives to
Optuna's pruner, and the end. An epoch's checkpoint holds the results of all epochs so far, so a resumed trial replays
them from its latest checkpoint.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.config import TrialConfig
from pipeline.config.outcomes import Checkpoint, EpochResult, Trained
from pipeline.data.degrade import input_size
from pipeline.epoch import history
from pipeline.errors import RESUME, CheckpointError, StudyError
from pipeline.search.ask_tell import OpenTrial
from pipeline.search.records import EndedTrial, Summary
from pipeline.study.finish import finish, log_again
from pipeline.study.session import Session
from pipeline.study.window import End
from pipeline.tracking.runs import IMAGES_TAG, PANEL
from pipeline.tracking.uids import CONFIG_TAG
from pipeline.tracking.writer import Writer
from pipeline.training.checkpoint import found, load
from pipeline.training.model import cost_of

T = TypeVar("T")
LATEST = 2  # checkpoints kept of an open trial beside its best


@dataclass
class TrialRun:
    """An open trial. Its run in MLflow is written on a lane of the writer's, so it lags behind."""

    session: Session
    writer: Writer
    trial: OpenTrial
    config: TrialConfig
    folder: Path
    started: float  # in seconds since 1970
    results: list[EpochResult] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)  # oldest first
    panels: dict[int, np.ndarray] = field(default_factory=dict)  # of the best epoch, and of those just trained or read
    end: End | None = None
    stored: EndedTrial | None = None  # once Optuna has its end
    # Epochs that were reported and MLflow lacks, with their panels.
    waiting: deque[tuple[EpochResult, np.ndarray]] = field(default_factory=deque)
    # Set on the lane.
    new: bool = False  # whether this process created the run
    run_id: str = ""  # once the run is created
    logged: frozenset[int] = frozenset()  # epochs that MLflow had before; logged again, their times would change
    drawn: set[int] = field(default_factory=set)  # epochs whose panels MLflow has
    written: bool = False  # whether the run was brought to its end

    @property
    def latest(self) -> Checkpoint | None:
        """The checkpoint from which the next epoch starts; None before the first."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def best(self) -> EpochResult:
        """The first of the epochs with the best objective."""
        sign = 1 if self.session.config.objective.direction == "maximize" else -1
        return max(self.results, key=lambda result: (sign * result.metrics[self.session.objective], -result.epoch))

    def trained(self, epoch: Trained) -> None:
        """Take over a trained epoch's checkpoint and panel."""
        self.checkpoints.append(epoch.checkpoint)
        if epoch.result.epoch not in self.trial.reported:
            self.results.append(epoch.result)
            self.panels[epoch.result.epoch] = epoch.panel

    def report(self) -> End | None:
        """Have the latest epoch logged and report it to the pruner; drop what is not needed any more."""
        result = self.results[-1]
        self.waiting.append((result, self.panels[result.epoch]))
        self._put(self._log)
        self.end = self._verdict(result)
        self.session.reporter.epoch(self.trial.number, result.epoch, self.config.epochs, result.metrics)
        best = self.best.epoch
        self.panels = {epoch: panel for epoch, panel in self.panels.items() if epoch == best}
        for old in self.checkpoints[:-LATEST]:
            if old.epoch != best and old.epoch in self.drawn:  # until MLflow has its panel, a checkpoint is kept
                Path(old.path).unlink(missing_ok=True)
                self.checkpoints.remove(old)
        return self.end

    def fall_back(self, error: CheckpointError) -> int:
        """Remove the latest checkpoint, which is damaged. Returns how many epochs the one before it holds.

        Epochs trained again have the same numbers; they are neither logged nor reported twice.

        Raises:
            StudyError: it is not damaged here; the worker does not see this home, or its disk fails.
        """
        with suppress(CheckpointError):
            load(self.checkpoints[-1])
            raise StudyError(f"{error}, on a worker, but well on this machine; when that is repaired, {RESUME}")
        self.session.reporter.note(f"{error}; trial {self.trial.number} falls back to the checkpoint before")
        Path(self.checkpoints.pop().path).unlink(missing_ok=True)
        return self.latest.epoch if self.latest else 0

    def record(self, end: End, then: Callable[[], object]) -> None:
        """Store in Optuna how the trial ended, and have its MLflow run finished; ``then`` is called after that.

        The run is created, since the summary names it.
        """
        size = self.session.data.image_size
        cost = cost_of(self.config.model, input_size(size, self.config.degrade), size)
        summary, value = Summary(self.run_id, cost=cost, reason=end.reason), None
        if self.trial.reported:
            best = self.best
            saved = next((c for c in reversed(self.checkpoints) if c.epoch == best.epoch), None)
            summary = replace(
                summary,
                epochs=len(self.results),
                best_epoch=best.epoch,
                metrics=best.metrics,
                duration_s=sum(result.metrics["time/epoch_s"] for result in self.results),
                checkpoint=Path(saved.path).name if saved else "",
                sha256=saved.sha256 if saved else "",
                weights_sha256=best.weights_sha256,
            )
            value = best.metrics[self.session.objective]
        told = value if end.state == "COMPLETE" else None
        self.stored = stored = self.session.search.tell(self.trial, end.state, told, summary)
        panel = self.panels.get(summary.best_epoch)

        def finished(done: bool) -> None:
            if not done:
                finish(self.session, stored, panel)
            self.written = True
            then()

        self._put(partial(self._finish, stored, panel), finished)
        self.session.reporter.trial(self.trial.number, end.state, value, end.reason, self.session.search.told())

    def replay(self) -> None:
        """Log and report what an earlier process trained, from the latest checkpoint that can be read."""
        for saved in found(self.folder):
            try:
                results, panel = history(saved, self.config)
            except CheckpointError as error:
                self.session.reporter.note(f"{error}; falling back to the checkpoint before")
                Path(saved.path).unlink(missing_ok=True)
                continue
            earlier = [c for c in reversed(found(self.folder)) if c.epoch < saved.epoch]
            self.checkpoints = [*earlier, saved]
            for result in results:
                self.results.append(result)
                self.end = self._verdict(result)
            for checkpoint in earlier:  # damage matters only if `finish` needs the weights, and is noted there
                with suppress(CheckpointError):
                    self.panels[checkpoint.epoch] = history(checkpoint, self.config)[1]
            self.panels[saved.epoch] = panel
            self._put(partial(self._log_again, results, dict(self.panels)))
            return

    def _put(self, job: Callable[[], T], then: Callable[[T], object] | None = None) -> None:
        self.writer.put(self.trial.number, job, then)

    # On the lane:

    def create(self, resumed: bool) -> None:
        """Create or find the trial's MLflow run."""
        tracking, label = self.session.tracking, self.session.label(self.trial.number)
        tags = self.session.tags | label.tags | IMAGES_TAG | {CONFIG_TAG: self.config.model_dump_json()}
        params, data = self.config.params(), self.session.data
        run_id = tracking.run(label.uid, label.name, tags, params, data, self.started, look_first=resumed)
        self.logged, self.new = tracking.epochs(run_id) if resumed else frozenset(), not resumed
        self.run_id = run_id

    def _log(self) -> None:
        """Log all epochs that wait, in one request, however many there are; `_finish` logs those of an ended trial."""
        if self.stored is None:
            self._write(*self._taken())

    def _taken(self) -> tuple[list[EpochResult], dict[int, np.ndarray]]:
        """What waits: the epochs whose metrics MLflow lacks, and the panels."""
        taken = [self.waiting.popleft() for _ in range(len(self.waiting))]
        results = [result for result, _ in taken if result.epoch not in self.logged]
        return results, {result.epoch: panel for result, panel in taken}

    def _write(self, results: list[EpochResult], panels: dict[int, np.ndarray]) -> None:
        if panels:
            self.session.tracking.log_epochs(self.run_id, results)
            images = {(PANEL, epoch): panel for epoch, panel in panels.items()}
            self.session.tracking.log_images(self.run_id, images, look_first=not self.logged.isdisjoint(panels))
            self.drawn.update(panels)

    def _log_again(self, results: Iterable[EpochResult], panels: Mapping[int, np.ndarray]) -> None:
        """Log what the process before may have ended without logging."""
        log_again(self.session.tracking, self.run_id, results, panels, self.logged)
        self.drawn.update(panels)

    def _finish(self, trial: EndedTrial, panel: np.ndarray | None) -> bool:
        """Finish the run; False if that takes training or drawing, which the driver's own thread must do."""
        results, panels = self._taken()
        try:
            finish(self.session, trial, panel, results, panels, on_thread=True, new=self.new)
        except CheckpointError:
            self._write(results, panels)
            return False
        self.written = True
        return True

    def _verdict(self, result: EpochResult) -> End | None:
        """Whether the trial ends with this epoch."""
        value = result.metrics[self.session.objective]
        if not np.isfinite(value):
            return End("FAIL", f"non-finite {self.session.objective} ({value}) in epoch {result.epoch}")
        prune = self.trial.report(result.epoch, value)
        if result.epoch == self.config.epochs:
            return End("COMPLETE")
        if prune:
            return End("PRUNED", f"{self.session.config.pruner.name} pruner, after epoch {result.epoch}")
        return None


def open_run(session: Session, writer: Writer, trial: OpenTrial, resumed: bool) -> TrialRun:
    """Have a trial's MLflow run created or found, and replay what an earlier process trained."""
    folder = session.checkpoints(trial.number)
    run = TrialRun(session, writer, trial, session.trial(trial), folder, time.time())
    writer.put(trial.number, partial(run.create, resumed))
    run.replay()
    return run
