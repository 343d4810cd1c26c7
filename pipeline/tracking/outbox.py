"""Writes to a store that may be unreachable for a while: kept in order, tried again, for a bounded time.

Comes in: writes that may be repeated, and a function that tells "unreachable" from "wrong". Goes out: the same writes,
each done as soon as the store can be reached. May not import anything of a particular store.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import RESUME, Interrupted, TrackingError

T = TypeVar("T")
RETRY_S = 0.5
IDLE_S = 5.0  # the most that a pause between two attempts counts: the store may have been reachable meanwhile


def patience_s() -> float:
    """How long a store may be unreachable: ``$STUDY_PATIENCE_S`` seconds, 120 by default."""
    return float(os.environ.get("STUDY_PATIENCE_S", "120"))


class Outbox:
    """A queue of writes.

    Args:
        store: named in errors.
        is_unreachable: whether an error means that the store cannot be reached at the moment.
        stop_asked: whether the user has asked to stop; waiting ends then.
    """

    def __init__(self, store: str, is_unreachable: Callable[[Exception], bool], stop_asked: Callable[[], bool]) -> None:
        self._store, self._is_unreachable, self._stop_asked = store, is_unreachable, stop_asked
        self._writes: deque[Callable[[], None]] = deque()
        self._unreachable_since: float | None = None
        self._last_failure = self._waited_s = 0.0  # both only while the store is unreachable

    @property
    def behind(self) -> bool:
        """Whether writes are waiting."""
        return bool(self._writes)

    def put(self, write: Callable[[], None]) -> None:
        """Do a write, after those before it; keep it for later if the store is unreachable.

        Raises:
            TrackingError: the store has been unreachable for too long.
        """
        self._writes.append(write)
        self.flush()

    def flush(self) -> None:
        """Do the waiting writes, up to the first that fails."""
        while self._writes:
            started = time.monotonic()
            try:
                self._writes[0]()
            except Exception as error:
                self._note_failure(error, started)
                return
            self._writes.popleft()
            self._unreachable_since = None

    def call(self, action: Callable[[], T]) -> T:
        """Do every waiting write and then this action; wait while the store is unreachable.

        Raises:
            TrackingError: the store has been unreachable for too long.
            Interrupted: the user has asked to stop.
        """
        while True:
            self.flush()
            if not self._writes:
                started = time.monotonic()
                try:
                    result = action()
                except Exception as error:
                    self._note_failure(error, started)
                else:
                    self._unreachable_since = None
                    return result
            if self._stop_asked():
                raise Interrupted(f"{self._store} is unreachable; {RESUME}")
            time.sleep(RETRY_S)

    def _note_failure(self, error: Exception, started: float) -> None:
        """Count a failed attempt and the pause before it; give up when that is too long.

        Where epochs run in the driver's process, minutes may pass between two attempts: a pause counts little.

        Args:
            error: of the attempt; raised again if the request was wrong.
            started: when the attempt began.
        """
        if not self._is_unreachable(error):
            raise error
        now = time.monotonic()
        if self._unreachable_since is None:
            self._unreachable_since, self._waited_s = now, 0.0
        else:
            self._waited_s += now - started + min(started - self._last_failure, IDLE_S)
        self._last_failure = now
        if self._waited_s > patience_s():
            raise TrackingError(
                f"{self._store} has been unreachable for {now - self._unreachable_since:.0f} s; nothing is lost: "
                f"once it is reachable, {RESUME}"
            ) from error
