"""Writes to a store that may be unreachable for a while: kept in order, tried again, for a bounded time.

Every write may be repeated. May not import anything of a particular store.
"""

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
    """How long a store may be unreachable."""
    return float(os.environ.get("STUDY_PATIENCE_S", "120"))


class Outbox:
    """A queue of writes. Every method raises TrackingError once the store has been unreachable for too long.

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
        """Do a write, after those before it; keep it for later if the store is unreachable."""
        self._writes.append(write)
        self.flush()

    def flush(self) -> None:
        """Do the waiting writes, up to the first that fails."""
        while self._writes and self._attempt(self._writes[0]):
            self._writes.popleft()

    def call(self, action: Callable[[], T]) -> T:
        """Do every waiting write and then this action; Interrupted if the user asks to stop meanwhile."""
        results: list[T] = []
        while True:
            self.flush()
            if not self._writes and self._attempt(lambda: results.append(action())):
                return results[0]
            if self._stop_asked():
                raise Interrupted(f"{self._store} is unreachable; {RESUME}")
            time.sleep(RETRY_S)

    def _attempt(self, request: Callable[[], None]) -> bool:
        """Send a request; False if the store is unreachable, an error if it has been for too long.

        Where epochs run in the driver's process, minutes may pass between two attempts: a pause counts little.
        """
        started = time.monotonic()
        try:
            request()
        except Exception as error:
            if not self._is_unreachable(error):
                raise
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
            return False
        self._unreachable_since = None
        return True
