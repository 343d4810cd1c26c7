"""The window of trials alone: events in any order, lost work, damaged checkpoints and kills give the same records."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.study.window import (
    Action,
    BaselineDone,
    CheckpointDamaged,
    End,
    EpochFailed,
    EpochReported,
    EpochTrained,
    Event,
    Open,
    Opened,
    Record,
    Report,
    SlotsChanged,
    Submit,
    SubmitBaseline,
    Window,
)

TOTAL, WIDTH, EPOCHS = 9, 4, 3
BASELINES = ("bicubic", "linear")
COMPLETE, PRUNED, FAILED = End("COMPLETE"), End("PRUNED", "worse"), End("FAIL", "diverged")


def diverges(number: int, recorded: int) -> bool:
    """Training is pure: it depends on the trial, and the trial on what was recorded when it was asked."""
    return (number + recorded) % 5 == 4


def verdict(number: int, epoch: int, recorded: int) -> End | None:
    if (number + recorded) % 4 == 1 and epoch == 2:
        return PRUNED
    return COMPLETE if epoch == EPOCHS else None


@dataclass
class Stored:
    """What survives a kill: Optuna's database, MLflow and the checkpoints."""

    asked: dict[int, int] = field(default_factory=dict)  # how many trials were recorded when each was asked
    reported: dict[int, int] = field(default_factory=dict)
    checkpoints: dict[int, list[int]] = field(default_factory=dict)
    recorded: list[tuple[int, int, int, End]] = field(default_factory=list)
    baselines: list[str] = field(default_factory=list)


@dataclass
class SimulatedDriver:
    """Carries out actions as the driver does, with lists instead of workers and databases."""

    stored: Stored = field(default_factory=Stored)
    running: list[Submit | SubmitBaseline] = field(default_factory=list)

    def __post_init__(self) -> None:
        recorded = len(self.stored.recorded)
        resumed = [number for number in self.stored.asked if number >= recorded]
        missing = [name for name in BASELINES if name not in self.stored.baselines]
        self.window = Window(TOTAL, WIDTH, recorded, resumed, missing)

    def restarted(self) -> SimulatedDriver:
        return SimulatedDriver(self.stored)

    def feed(self, event: Event, kill_after: int | None = None) -> bool:
        """Feed an event and what follows from it; whether the process survived that many actions."""
        events = [event]
        while events:
            for action in self.window.feed(events.pop(0)):
                if kill_after == 0:
                    return False
                kill_after = None if kill_after is None else kill_after - 1
                events += self._carry_out(action)
        return True

    def _carry_out(self, action: Action) -> list[Event]:
        stored = self.stored
        match action:
            case Open(number, resumed=False):
                assert number == len(stored.asked), "asked out of order"
                assert len(stored.recorded) == max(0, number - WIDTH + 1), "asked too early or too late for the window"
                stored.asked[number] = len(stored.recorded)
                stored.reported[number], stored.checkpoints[number] = 0, []
                return [Opened(number, 0)]
            case Open(number, resumed=True):
                kept = stored.checkpoints[number]
                epochs = kept[-1] if kept else 0
                stored.reported[number] = epochs  # reports go to a new view, and are replayed from the checkpoint
                end = verdict(number, epochs, stored.asked[number]) if epochs else None
                return [Opened(number, epochs, end)]
            case Submit(number, epoch):
                assert epoch == (stored.checkpoints[number] or [0])[-1] + 1, "not the epoch after the latest checkpoint"
                assert not [t for t in self.running if isinstance(t, Submit) and t.number == number], "submitted twice"
                self.running.append(action)
            case SubmitBaseline():
                self.running.append(action)
            case Report(number, epoch):
                assert stored.reported[number] == epoch - 1, "an epoch was reported twice or left out"
                stored.reported[number] = epoch
                return [EpochReported(number, verdict(number, epoch, stored.asked[number]))]
            case Record(number, end):
                assert number == len(stored.recorded), "recorded out of order"
                stored.recorded.append((number, stored.asked[number], stored.reported[number], end))
        return []

    def outcome(self, task: Submit | SubmitBaseline) -> Event:
        """End a task. The outcome depends only on the task and on what is stored."""
        self.running.remove(task)
        if isinstance(task, SubmitBaseline):
            self.stored.baselines.append(task.name)
            return BaselineDone(task.name)
        if task.epoch == 2 and diverges(task.number, self.stored.asked[task.number]):
            return EpochFailed(task.number, FAILED.reason)
        self.stored.checkpoints[task.number].append(task.epoch)
        return EpochTrained(task.number, task.epoch)


def records_without_faults() -> list[tuple[int, int, int, End]]:
    """The sequence of records with one worker and no faults."""
    driver = SimulatedDriver()
    driver.feed(SlotsChanged(1))
    while driver.running:
        driver.feed(driver.outcome(driver.running[0]))
    assert driver.window.finished
    return driver.stored.recorded


class AnyOrder(RuleBasedStateMachine):
    """Any number of slots, any order of outcomes, damaged checkpoints, and kills between any two actions."""

    @initialize(slots=st.integers(0, 5))
    def start(self, slots: int) -> None:
        self.driver = SimulatedDriver()
        self.driver.feed(SlotsChanged(slots))

    @rule(slots=st.integers(0, 5))
    def the_number_of_slots_changes(self, slots: int) -> None:
        self.driver.feed(SlotsChanged(slots))

    @precondition(lambda self: self.driver.running)
    @rule(data=st.data(), kill_after=st.none() | st.integers(0, 4))
    def a_task_ends(self, data: st.DataObject, kill_after: int | None) -> None:
        task = data.draw(st.sampled_from(self.driver.running))
        if not self.driver.feed(self.driver.outcome(task), kill_after):
            self.resume(data.draw(st.integers(1, 5)))

    @precondition(lambda self: any(isinstance(task, Submit) and task.epoch > 1 for task in self.driver.running))
    @rule(data=st.data())
    def a_checkpoint_is_damaged(self, data: st.DataObject) -> None:
        tasks = [task for task in self.driver.running if isinstance(task, Submit) and task.epoch > 1]
        task = data.draw(st.sampled_from(tasks))
        self.driver.running.remove(task)
        kept = self.driver.stored.checkpoints[task.number]
        kept.pop()
        self.driver.feed(CheckpointDamaged(task.number, kept[-1] if kept else 0))

    @rule(slots=st.integers(1, 5))
    def resume(self, slots: int) -> None:
        self.driver = self.driver.restarted()
        self.driver.feed(SlotsChanged(slots))

    @invariant()
    def at_most_width_trials_are_open(self) -> None:
        stored = self.driver.stored
        assert len(stored.asked) - len(stored.recorded) <= WIDTH

    @invariant()
    def records_do_not_depend_on_timing(self) -> None:
        recorded = self.driver.stored.recorded
        assert recorded == EXPECTED[: len(recorded)]

    def teardown(self) -> None:
        self.resume(2)
        while self.driver.running:
            self.driver.feed(self.driver.outcome(self.driver.running[0]))
        assert self.driver.window.finished
        assert self.driver.stored.recorded == EXPECTED
        assert sorted(self.driver.stored.baselines) == sorted(BASELINES)


EXPECTED = records_without_faults()
TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)


def test_the_records_have_every_kind_of_end() -> None:
    assert {end.state for *_, end in EXPECTED} == {"COMPLETE", "PRUNED", "FAIL"}


def test_baselines_and_the_oldest_trials_come_first() -> None:
    window = Window(total=3, width=3, baselines=["linear"])
    assert window.feed(SlotsChanged(0)) == [Open(0), Open(1), Open(2)]
    for number in (2, 1, 0):
        assert window.feed(Opened(number, 0)) == []
    assert window.feed(SlotsChanged(3)) == [SubmitBaseline("linear"), Submit(0, 1), Submit(1, 1)]


def test_a_resumed_trial_that_has_ended_is_recorded_at_once() -> None:
    window = Window(total=2, width=1, recorded=1, resumed=[1])
    assert window.feed(SlotsChanged(1)) == [Open(1, resumed=True)]
    assert window.feed(Opened(1, EPOCHS, COMPLETE)) == [Record(1, COMPLETE)]
    assert window.finished


def test_open_trials_are_finished_even_beyond_a_smaller_total() -> None:
    window = Window(total=1, width=2, recorded=1, resumed=[1, 2])
    assert not window.finished
    assert window.feed(SlotsChanged(1)) == [Open(1, resumed=True), Open(2, resumed=True)]
    assert window.feed(Opened(1, 2, PRUNED)) == [Record(1, PRUNED)]
    assert window.feed(Opened(2, 1)) == [Submit(2, 2)]
    assert window.feed(EpochTrained(2, 2)) == [Report(2, 2)]
    assert window.feed(EpochReported(2, COMPLETE)) == [Record(2, COMPLETE)]
    assert window.finished


def test_an_epoch_trained_again_is_not_reported_again() -> None:
    window = Window(total=1, width=1, resumed=[0])
    window.feed(SlotsChanged(1))
    assert window.feed(Opened(0, 2)) == [Submit(0, 3)]
    assert window.feed(CheckpointDamaged(0, 1)) == [Submit(0, 2)]
    assert window.feed(EpochTrained(0, 2)) == [Submit(0, 3)]
    assert window.feed(EpochTrained(0, 3)) == [Report(0, 3)]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_no_more_tasks_run_than_there_are_slots(count: int) -> None:
    driver = SimulatedDriver()
    driver.feed(SlotsChanged(count))
    assert len(driver.running) == min(count, WIDTH + len(BASELINES))
