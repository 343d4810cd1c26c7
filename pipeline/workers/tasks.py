"""What tasks are, how they end, and what every kind of workers does with them."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

Task = Callable[..., Any]
Note = Callable[[str], None]  # says something to the user, in one line


@dataclass(frozen=True)
class Returned:
    """A task that ended, with its result."""

    key: Hashable
    result: Any


@dataclass(frozen=True)
class Raised:
    """A task that ended with an error."""

    key: Hashable
    error: Exception


@dataclass(frozen=True)
class Lost:
    """A task that was given up because its workers died."""

    key: Hashable
    reason: str


Outcome = Returned | Raised | Lost


class TaskDropped(BaseException):
    """Raised in the middle of a task that nobody waits for any more."""


class Workers(Protocol):
    @property
    def slots(self) -> int:
        """How many tasks can run at the same time, now; `wait` may change it."""

    def submit(self, key: Hashable, task: Task, *arguments: Any) -> None:
        """Start a task, as soon as a worker is free; its outcome has this key."""

    def wait(self, timeout: float) -> Outcome | None:
        """The next outcome; None where there is none within ``timeout`` seconds, or something else happened."""

    def close(self) -> None:
        """Stop at once; running tasks are dropped. A second call has no effect."""
