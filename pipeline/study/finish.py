"""The end of a trial: its figures, its model, its run's status, its checkpoints.

Comes in: a trial that Optuna's database has as ended. Goes out: an MLflow run that says the same. Every step may be
repeated, so whoever finds the work half done does it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from pipeline.config import StudyConfig
from pipeline.config.results import Checkpoint
from pipeline.data import Dataset
from pipeline.epoch import run_leg, trained_restorer
from pipeline.errors import CheckpointError, Interrupted, StudyError
from pipeline.evaluation.batches import fixed_batches
from pipeline.home import Home
from pipeline.search.records import Record, Summary
from pipeline.tracking.runs import Tracking
from pipeline.workers import InProcess


@dataclass(frozen=True)
class Finisher:
    """What is needed to finish any trial of one study."""

    config: StudyConfig
    data: Dataset
    home: Home
    device: Literal["cpu", "cuda"]
    study_uid: str
    tracking: Tracking
    note: Callable[[str], None]
    halted: Callable[[], bool]  # whether the user has asked to stop

    def finish(self, record: Record) -> None:
        """Bring an ended trial's run to its end and remove its checkpoints.

        Raises:
            StudyError: the weights are gone and training them again failed.
            Interrupted: Ctrl-C or SIGTERM while they were trained again; finishing again does it anew.
        """
        summary = record.summary
        assert summary is not None, "only ended trials can be finished"
        folder = self.home.checkpoints(self.study_uid, record.number)
        if summary.metrics:
            objective = summary.metrics[f"val/{self.config.objective.metric}"]
            figures = {"objective": objective, "best_epoch": float(summary.best_epoch)}
            self.tracking.log_figures(summary.run_id, figures | {k: float(v) for k, v in summary.cost.items()})
        if record.state == "COMPLETE":
            model = self._best_model(record, summary, folder)
            self.tracking.models.log(summary.run_id, model, self._example(), summary.best_epoch)
        self.tracking.end(summary.run_id, record.state, summary.reason)
        shutil.rmtree(folder, ignore_errors=True)

    def _best_model(self, record: Record, summary: Summary, folder: Path) -> nn.Module:
        """The weights of a trial's best epoch; trained again, here, if their checkpoint is damaged or gone."""
        config = self.config.trial(record.values, record.number, self.device)
        saved = Checkpoint(str(folder / summary.checkpoint), summary.sha256, summary.best_epoch)
        try:
            return trained_restorer(config, self.data, saved)
        except CheckpointError as error:
            self.note(f"{error}; training trial {record.number} again up to epoch {summary.best_epoch}")
        before: Checkpoint | None = None
        engine = InProcess()  # which Ctrl-C leaves at once, and not at the end of the leg
        for epoch in range(1, summary.best_epoch + 1):
            engine.submit(f"epoch {epoch}", run_leg, config, before, self.home.data_dir, folder)
            done = None if self.halted() else engine.wait(0)
            if done is None:
                raise Interrupted
            if done.error is not None:
                raise done.error
            if done.result.checkpoint is None:
                raise StudyError(f"trial {record.number} could not be trained again: {done.result.failure}")
            before = done.result.checkpoint
        assert before is not None, "epochs count from 1"
        return trained_restorer(config, self.data, before)

    def _example(self) -> np.ndarray:
        degraded, _ = next(fixed_batches(self.data.val.take(np.arange(2)), self.config.degrade, "example"))
        return degraded.numpy()
