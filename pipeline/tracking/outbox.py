"""Writes to a store that may be away for a while: kept in order, tried again, for a bounded time.

Comes in: writes that may be repeated, and a way to tell "away" from "wrong". Goes out: the same writes, each done once
it can be. Knows nothing of any store.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import Interrupted, TrackingError

T = TypeVar("T")
RETRY_S = 0.5
IDLE_S = 5.0  # what a pause between two attempts counts at most: nobody knows whether the store was back meanwhile


def patience_s() -> float:
    """How long a store may be away: ``$STUDY_PATIENCE_S`` seconds, 120 by default."""
    return float(os.environ.get("STUDY_PATIENCE_S", "120"))


class Outbox:
    """A queue of writes.

    Args:
        store: named in errors.
        is_away: whether an error means that the store cannot be reached just now.
        halted: whether the user wants to stop; waiting ends then.
    """

    def __init__(self, store: str, is_away: Callable[[Exception], bool], halted: Callable[[], bool]) -> None:
        self._store, self._is_away, self._halted = store, is_away, halted
        self._writes: deque[Callable[[], None]] = deque()
        self._away_since: float | None = None
        self._asked_last = self._asked_for = 0.0  # while it is away: when an attempt last failed, and seconds in all

    @property
    def behind(self) -> bool:
        """Whether writes are waiting."""
        return bool(self._writes)

    def put(self, write: Callable[[], None]) -> None:
        """Do a write, after those before it; kept for later if the store is away.

        Raises:
            TrackingError: the store has been away for longer than its patience.
        """
        self._writes.append(write)
        self.flush()

    def flush(self) -> None:
        """Do what is waiting, as far as it goes."""
        while self._writes:
            started = time.monotonic()
            try:
                self._writes[0]()
            except Exception as error:
                self._note_away(error, started)
                return
            self._writes.popleft()
            self._away_since = None

    def through(self, action: Callable[[], T]) -> T:
        """Do everything that is waiting and then this, however long the store is away within its patience.

        Raises:
            TrackingError: it did not come back in time.
            Interrupted: the user wants to stop.
        """
        while True:
            self.flush()
            if not self._writes:
                started = time.monotonic()
                try:
                    result = action()
                except Exception as error:
                    self._note_away(error, started)
                else:
                    self._away_since = None
                    return result
            if self._halted():
                raise Interrupted(f"{self._store} is away; the same command goes on with the study")
            time.sleep(RETRY_S)

    def _note_away(self, error: Exception, started: float) -> None:
        """Count an attempt that failed, begun at ``started``, and the pause before it; give up beyond the patience.

        Where legs run in the driver's process minutes may pass between two attempts; that alone is no long absence.
        """
        if not self._is_away(error):
            raise error
        now = time.monotonic()
        if self._away_since is None:
            self._away_since, self._asked_for = now, 0.0
        else:
            self._asked_for += now - started + min(started - self._asked_last, IDLE_S)
        self._asked_last = now
        if self._asked_for > patience_s():
            raise TrackingError(
                f"{self._store} has been away for {now - self._away_since:.0f} s; nothing is lost: "
                "once it is back, the same command goes on with the study"
            ) from error
