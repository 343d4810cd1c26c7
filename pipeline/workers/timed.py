"""How the workers' time is spent: the parts are measured here, where tasks go out and come back.

Comes in: workers, and whether trials are left to ask. Goes out: the same workers, and their seconds by what took them.
"""

import time
from collections.abc import Callable, Hashable
from typing import Any

from pipeline.config.outcomes import Failed, Trained
from pipeline.workers.tasks import Outcome, Returned, Task, Workers

TRAINING, BASELINES, DRIVER, WINDOW, END = "training", "baselines", "driver", "window", "end"


class Timed:
    """Workers whose time is counted, from now on.

    ``seconds`` has training with validation; baselines; waiting for the driver, with a task or for one; idle because
    the window of trials has no epoch to train; and idle at the end, when every trial has been asked.
    """

    def __init__(self, workers: Workers, trials_left: Callable[[], bool]) -> None:
        self._workers, self._trials_left = workers, trials_left
        self._submitted: dict[Hashable, float] = {}
        self._now = time.perf_counter()
        self.seconds = dict.fromkeys((TRAINING, BASELINES, DRIVER, WINDOW, END), 0.0)

    @property
    def slots(self) -> int:
        return self._workers.slots

    @property
    def shares(self) -> dict[str, float]:
        """The parts of ``seconds`` as shares of their sum."""
        total = sum(self.seconds.values()) or 1.0
        return {part: seconds / total for part, seconds in self.seconds.items()}

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        self._idle(DRIVER)
        self._submitted[key] = self._now
        self._workers.submit(key, task, *arguments)

    def wait(self, timeout: float) -> Outcome | None:
        self._idle(DRIVER)
        outcome = self._workers.wait(timeout)
        self._idle(WINDOW if self._trials_left() else END)
        if outcome is not None:
            held = self._now - self._submitted.pop(outcome.key)
            if isinstance(outcome, Returned) and isinstance(outcome.result, Trained | Failed):
                self.seconds[TRAINING] += outcome.result.seconds
                self.seconds[DRIVER] += max(0.0, held - outcome.result.seconds)
            else:
                self.seconds[BASELINES] += held
        return outcome

    def close(self) -> None:
        self._workers.close()

    def _idle(self, part: str) -> None:
        """Count the time of the workers without a task since the last call."""
        before, self._now = self._now, time.perf_counter()
        self.seconds[part] += max(0, self.slots - len(self._submitted)) * (self._now - before)
