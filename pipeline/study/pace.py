"""How far a running study is, and how long the rest will take, with pruning as it was so far.

Comes in: the trials of earlier sessions, then epochs and ends as they happen. Goes out: seconds and a line of text.
Imports no torch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import StudyConfig
    from pipeline.search.records import EndedTrial

RECENT = 200  # epochs whose times give the pace


class Pace:
    """The pace of one session. ``images`` are trained per epoch; ``earlier`` seconds passed in earlier sessions."""

    def __init__(
        self, config: StudyConfig, images: int, ended: Sequence[EndedTrial], slots: int, earlier: float
    ) -> None:
        self._total, self._most, self._images = config.budget.trials, config.budget.epochs, images
        self._slots = max(1, slots)  # a cluster may have no worker yet
        self._ended = len(ended)
        self._used = [trial.summary.epochs for trial in ended if trial.summary.epochs]  # epochs per ended trial
        self._open: dict[int, int] = {}  # epochs so far, by trial
        self._trained, self._seconds = sum(self._used), sum(trial.summary.duration_s for trial in ended)
        self._times: deque[float] = deque(maxlen=RECENT)
        self._zero = time.monotonic() - earlier

    def opened(self, number: int, epoch: int) -> None:
        """A trial is open, and has so many epochs."""
        self._open[number] = epoch

    def epoch(self, number: int, epoch: int, seconds: float) -> None:
        """A trial's epoch has ended; its training and validation took so long."""
        self._open[number] = epoch
        self._trained, self._seconds = self._trained + 1, self._seconds + seconds
        self._times.append(time.monotonic())

    def trial(self, number: int, ended: int) -> None:
        """A trial is the last of so many that have ended."""
        self._used.append(self._open.pop(number, 0))
        self._ended = ended

    @property
    def elapsed(self) -> float:
        """Seconds in all sessions."""
        return time.monotonic() - self._zero

    @property
    def epoch_s(self) -> float | None:
        """Seconds from one epoch's end to the next one's on any worker; None before the first."""
        if len(self._times) > 2 * self._slots:
            return (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        return self._seconds / self._trained / self._slots if self._trained else None

    @property
    def left(self) -> float | None:
        """Seconds to the end of the study, if trials go on being pruned as they were; None before the first epoch."""
        if self.epoch_s is None:
            return None
        rests = [self._rest(epoch) for epoch in list(self._open.values())]  # drawn by another thread
        unopened = max(0, self._total - self._ended - len(self._open))
        alone = max(rests, default=0.0) * self._seconds / self._trained  # one trial's epochs follow each other
        return max(alone, (sum(rests) + unopened * self._rest(0)) * self.epoch_s)

    def _rest(self, epoch: int) -> float:
        """The epochs that a trial takes after this one: the mean over the ended trials that came further."""
        further = [used for used in self._used if used > epoch]
        return (mean(further) if further else self._most) - epoch

    def __str__(self) -> str:
        parts = [f"{clock(self.elapsed)} elapsed"]
        if self.left is not None and self.epoch_s:
            parts += [f"about {clock(self.left)} left", f"{self._images / self.epoch_s:,.0f} images/s"]
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """``0:45``, ``2:03:00``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
