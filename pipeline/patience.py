"""Requests to a store that may be unreachable for a while: tried again, for a bounded time, and said once.

Comes in: a request that may be repeated. Goes out: its result, or this project's error once patience has run out.
Imports nothing of a particular store.
"""

import math
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.errors import RESUME, InputError, Interrupted, StudyError

T = TypeVar("T")
VARIABLE, DEFAULT_S = "STUDY_PATIENCE_S", "120"
RETRY_S = 0.5
IDLE_S = 5.0  # the most that a pause between two attempts counts: the store may have been reachable meanwhile


def patience_s() -> float:
    """How long a store may be unreachable: ``$STUDY_PATIENCE_S``, else 120 s; InputError if it is not a number."""
    given = os.environ.get(VARIABLE, DEFAULT_S)
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{VARIABLE}={given!r}: allowed are seconds, 0 or more")
    return seconds


def _to_stderr(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


@dataclass
class Patience:
    """The patience with one store, of all threads together.

    It starts again whenever the store answers. A request that fails for another reason raises its own error.
    """

    store: str  # named in what is said
    is_unreachable: Callable[[Exception], bool]  # whether an error means that the store cannot be reached now
    stop_asked: Callable[[], bool] = lambda: False  # whether the user has asked to stop; waiting ends then
    say: Callable[[str], None] = _to_stderr
    _limit_s: float = field(default_factory=patience_s)
    _unreachable_since: float | None = None
    _last_failure: float = 0.0  # this and the next only while the store is unreachable
    _waited_s: float = 0.0
    _last_answer: float = -math.inf
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def call(self, request: Callable[[], T]) -> T:
        """Send a request until the store answers.

        Raises:
            StudyError: the store has been unreachable for too long.
            Interrupted: the user asked to stop meanwhile.
        """
        results: list[T] = []
        while not self.attempt(lambda: results.append(request())):
            self.pause()
        return results[0]

    def pause(self) -> None:
        """Wait before the next attempt; Interrupted if the user asks to stop."""
        if self.stop_asked():
            raise Interrupted(f"{self.store} is unreachable; {RESUME}")
        time.sleep(RETRY_S)

    def attempt(self, request: Callable[[], None]) -> bool:
        """Send a request once; False if the store is unreachable, StudyError if it has been for too long.

        Where epochs run in the driver's process, minutes may pass between two attempts: a pause counts little.
        """
        started = time.monotonic()
        try:
            request()
        except Exception as error:
            if isinstance(error, StudyError) or not self.is_unreachable(error):
                raise
            with self._lock:
                if started > self._last_answer:  # else another thread's attempt, which began later, was answered
                    self._failed(started, error)
            return False
        with self._lock:
            self._last_answer = time.monotonic()
            if self._unreachable_since is not None:
                self.say(f"{self.store} is reachable again, after {time.monotonic() - self._unreachable_since:.0f} s")
                self._unreachable_since = None
        return True

    def _failed(self, started: float, error: Exception) -> None:
        """Count the time since the failure before, also another thread's; StudyError if it is too much."""
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since, self._waited_s = now, 0.0
            self.say(f"{self.store} is unreachable; waiting up to {self._limit_s:g} s (training continues)")
        else:
            idle = max(0.0, started - self._last_failure)
            self._waited_s += now - max(started, self._last_failure) + min(idle, IDLE_S)
        self._last_failure = now
        if self._waited_s > self._limit_s:
            raise StudyError(
                f"{self.store} has been unreachable for {now - self._unreachable_since:.0f} s; nothing is lost: "
                f"once it is reachable, {RESUME}"
            ) from error
