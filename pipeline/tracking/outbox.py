"""Writes to a store that may be unreachable for a while: kept in order, and done once it is reachable.

Every write may be repeated. May not import anything of a particular store.
"""

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from pipeline.patience import Patience

T = TypeVar("T")


class Outbox:
    """A queue of writes. Every method raises StudyError once the store has been unreachable for too long."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._writes: deque[Callable[[], None]] = deque()

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
        while self._writes and self._patience.attempt(self._writes[0]):
            self._writes.popleft()

    def call(self, action: Callable[[], T]) -> T:
        """Do every waiting write and then this action; Interrupted if the user asks to stop meanwhile."""
        self.flush()
        while self._writes:
            self._patience.pause()
            self.flush()
        return self._patience.call(action)
