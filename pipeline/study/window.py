"""The window of trials as a pure state machine: events go in, actions come out. No I/O and no clock.

At most ``width`` trials are open. Trials are recorded in number order, and trial n is asked exactly when trials
0 … n - ``width`` are recorded. So what a trial is depends on the width and never on timing. The driver carries the
actions out, in their order, and feeds back what happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

from pipeline.search.records import EndState


@dataclass(frozen=True)
class End:
    """How a trial ended, and why, if it did not complete."""

    state: EndState
    reason: str = ""


# Events: what happened.
@dataclass(frozen=True)
class SlotsChanged:
    """From now on ``count`` tasks can run at the same time."""

    count: int


@dataclass(frozen=True)
class Opened:
    """An asked or resumed trial is ready; checkpoints hold its first ``epochs`` epochs, already reported."""

    number: int
    epochs: int
    end: End | None = None


@dataclass(frozen=True)
class EpochTrained:
    """A worker trained an epoch and saved its checkpoint."""

    number: int
    epoch: int


@dataclass(frozen=True)
class EpochReported:
    """The action `Report` was carried out; ``end`` is the verdict of the pruner and the budget, None to continue."""

    number: int
    end: End | None


@dataclass(frozen=True)
class EpochFailed:
    """The epoch diverged, ran out of memory, or killed as many workers as are tolerated."""

    number: int
    reason: str


@dataclass(frozen=True)
class CheckpointDamaged:
    """The latest checkpoint cannot be read; those that are left hold the first ``epochs`` epochs."""

    number: int
    epochs: int


@dataclass(frozen=True)
class BaselineDone:
    name: str


Event = SlotsChanged | Opened | EpochTrained | EpochReported | EpochFailed | CheckpointDamaged | BaselineDone


# Actions: what to do.
@dataclass(frozen=True)
class Open:
    """Ask the next trial, or open a resumed one, which an earlier process asked; then feed `Opened`."""

    number: int
    resumed: bool = False


@dataclass(frozen=True)
class Submit:
    """Hand an epoch to a worker."""

    number: int
    epoch: int

    def __str__(self) -> str:
        return f"trial {self.number}"


@dataclass(frozen=True)
class SubmitBaseline:
    name: str

    def __str__(self) -> str:
        return f"baseline {self.name}"


@dataclass(frozen=True)
class Report:
    """Log an epoch and report it to the pruner, then feed `EpochReported`. Once per epoch, however often trained."""

    number: int
    epoch: int


@dataclass(frozen=True)
class Record:
    """Store how a trial ended and finish its run."""

    number: int
    end: End


Action = Open | Submit | SubmitBaseline | Report | Record


@dataclass
class _Trial:
    epochs: int = 0  # in checkpoints
    reported: int = 0  # an epoch trained again is not counted twice
    end: End | None = None


@dataclass
class Window:
    """Trials 0 … ``total`` - 1, and baselines beside them."""

    total: int
    width: int  # how many trials may be open
    recorded: int = 0  # how many trials have ended and are stored
    resumed: Sequence[int] = ()  # numbers of the trials that an earlier process left open, after the recorded ones
    baselines: Sequence[str] = ()  # names of those still to be computed; workers get them first
    _slots: int = 0

    def __post_init__(self) -> None:
        self._open = {number: _Trial() for number in self.resumed}
        self._to_resume: list[Action] = [Open(number, resumed=True) for number in self.resumed]
        self._waiting = list(self.baselines)
        self._idle: list[int] = []  # a heap: numbers of the open trials whose next epoch waits for a slot
        self._busy = 0  # slots with a task

    @property
    def finished(self) -> bool:
        """Whether nothing is open and nothing is left to ask or compute."""
        return self.recorded >= self.total and not (self._open or self._waiting or self._busy)

    @property
    def all_asked(self) -> bool:
        """Whether no trial is left to ask."""
        return self.recorded + len(self._open) >= self.total

    def feed(self, event: Event) -> list[Action]:
        """Take in an event. Returns the actions that follow from it, in the order in which to carry them out."""
        actions: list[Action] = []
        match event:
            case SlotsChanged(count):
                self._slots = count
            case Opened(number, epochs, end):
                trial = self._open[number]
                trial.epochs = trial.reported = epochs
                self._settle(number, end)
            case EpochTrained(number, epoch):
                self._busy -= 1
                trial = self._open[number]
                trial.epochs = epoch
                if epoch > trial.reported:
                    trial.reported = epoch
                    actions.append(Report(number, epoch))
                else:
                    self._settle(number, None)
            case EpochReported(number, end):
                self._settle(number, end)
            case EpochFailed(number, reason):
                self._busy -= 1
                self._settle(number, End("FAIL", reason))
            case CheckpointDamaged(number, epochs):
                self._busy -= 1
                self._open[number].epochs = epochs
                self._settle(number, None)
            case BaselineDone():
                self._busy -= 1
        resuming, self._to_resume = self._to_resume, []
        return [*actions, *resuming, *self._record_and_ask(), *self._submit()]

    def _settle(self, number: int, end: End | None) -> None:
        """A trial has ended, or waits for its next epoch."""
        self._open[number].end = end
        if end is None:
            heappush(self._idle, number)

    def _record_and_ask(self) -> list[Action]:
        """Ask while the window has room, else record the oldest trial if it has ended."""
        actions: list[Action] = []
        while True:
            following, oldest = self.recorded + len(self._open), self._open.get(self.recorded)
            if following < min(self.total, self.recorded + self.width):
                self._open[following] = _Trial()
                actions.append(Open(following))
            elif oldest is not None and oldest.end is not None:
                del self._open[self.recorded]
                actions.append(Record(self.recorded, oldest.end))
                self.recorded += 1
            else:
                return actions

    def _submit(self) -> list[Action]:
        """Fill the free slots: baselines first, then the oldest trials, because the window waits for them."""
        actions: list[Action] = []
        while self._busy < self._slots and (self._waiting or self._idle):
            self._busy += 1
            if self._waiting:
                actions.append(SubmitBaseline(self._waiting.pop(0)))
            else:
                number = heappop(self._idle)
                actions.append(Submit(number, self._open[number].epochs + 1))
        return actions
