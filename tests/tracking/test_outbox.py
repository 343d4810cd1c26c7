"""Writes to a store that is sometimes unreachable: in order, each done, waited for within bounds.

The store here is a fake: a list that takes writes, and a list of how it answers its next requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline import patience as module
from pipeline.errors import InputError, Interrupted, StudyError
from pipeline.patience import Patience
from pipeline.tracking.outbox import Outbox

OK, UNREACHABLE, LOST, WRONG = "ok", "unreachable", "reply lost", "wrong"  # how a request ends


class UnreachableError(Exception):
    """The store cannot be reached, or its reply was lost."""


class WrongError(Exception):
    """The store refuses the request."""


class Store:
    """Answers requests as planned by ``answers``, and then each as ``always`` says."""

    def __init__(self, *answers: str, always: str = OK) -> None:
        self.written: list[int] = []
        self.requests = 0
        self.answers, self.always = list(answers), always

    def write(self, what: int) -> int:
        answer = self.answers.pop(0) if self.answers else self.always
        self.requests += 1
        if answer == WRONG:
            raise WrongError(f"{what} is not allowed")
        if answer != UNREACHABLE:
            self.written.append(what)
        if answer != OK:
            raise UnreachableError
        return what * 10

    def putting(self, what: int) -> Callable[[], None]:
        def write() -> None:
            self.write(what)

        return write


def outbox(stop_asked: Callable[[], bool] = lambda: False) -> Outbox:
    return Outbox(Patience("the store", lambda error: isinstance(error, UnreachableError), stop_asked, lambda _: None))


@contextmanager
def settings(patience: str) -> Iterator[None]:
    """No pause between attempts, and this patience."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RETRY_S", 0.0)
        patch.setenv("STUDY_PATIENCE_S", patience)
        yield


@pytest.fixture
def patient() -> Iterator[None]:
    with settings("60"):
        yield


@pytest.fixture
def impatient() -> Iterator[None]:
    """Any second failure in a row is one too many."""
    with settings("0"):
        yield


def test_patience_is_two_minutes_or_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STUDY_PATIENCE_S", raising=False)
    assert module.patience_s() == 120
    monkeypatch.setenv("STUDY_PATIENCE_S", "2.5")
    assert module.patience_s() == 2.5


def test_a_write_is_done_at_once_while_the_store_is_reachable() -> None:
    store, box = Store(), outbox()
    box.put(store.putting(1))
    assert store.written == [1]
    assert not box.behind


@pytest.mark.usefixtures("patient")
def test_writes_wait_while_the_store_is_unreachable_and_are_done_in_order() -> None:
    store, box = Store(always=UNREACHABLE), outbox()
    for what in range(5):
        box.put(store.putting(what))
    assert (store.written, box.behind) == ([], True)
    store.always = OK
    box.flush()
    assert (store.written, box.behind) == ([0, 1, 2, 3, 4], False)
    box.flush()
    assert store.requests == 5 + 5  # one attempt per put, then each once


@pytest.mark.usefixtures("patient")
def test_an_earlier_write_goes_before_a_later_one_that_could_be_done() -> None:
    store, box = Store(UNREACHABLE), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    assert store.written == [1, 2]


@pytest.mark.usefixtures("patient")
def test_a_write_that_was_done_is_not_repeated() -> None:
    store, box = Store(always=UNREACHABLE), outbox()
    for what in range(3):
        box.put(store.putting(what))
    store.always = OK
    store.answers = [OK, UNREACHABLE]
    box.flush()
    assert (store.written, box.behind) == ([0], True)
    box.flush()
    assert store.written == [0, 1, 2]


@pytest.mark.usefixtures("patient")
def test_a_call_waits_for_earlier_writes_and_for_the_store() -> None:
    store, box = Store(UNREACHABLE, UNREACHABLE, UNREACHABLE, OK, UNREACHABLE, UNREACHABLE), outbox()
    box.put(store.putting(1))
    assert box.call(lambda: store.write(2)) == 20
    assert store.written == [1, 2]


def test_a_call_returns_what_the_action_returns() -> None:
    assert outbox().call(lambda: None) is None
    assert outbox().call(lambda: "found") == "found"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["put", "flush", "call"])
def test_a_store_that_stays_unreachable_ends_in_an_error_and_loses_nothing(way: str) -> None:
    store, box = Store(always=UNREACHABLE), outbox()
    box.put(store.putting(1))  # the first failure: no time has passed yet
    attempts = {
        "put": lambda: box.put(store.putting(2)),
        "flush": box.flush,
        "call": lambda: box.call(lambda: store.write(2)),
    }
    with pytest.raises(StudyError, match=r"the store has been unreachable for \d+ s; nothing is lost") as caught:
        attempts[way]()
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, UnreachableError)
    store.always = OK
    box.flush()
    assert store.written == ([1, 2] if way == "put" else [1])


@pytest.mark.usefixtures("impatient")
def test_patience_starts_again_once_the_store_was_reachable() -> None:
    store, box = Store(UNREACHABLE, OK, OK, UNREACHABLE, OK, UNREACHABLE, UNREACHABLE), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    box.put(store.putting(3))
    box.flush()
    assert store.written == [1, 2, 3]
    box.put(store.putting(4))
    with pytest.raises(StudyError):
        box.flush()


@pytest.mark.usefixtures("impatient")
def test_a_call_that_succeeds_ends_the_time_unreachable() -> None:
    store, box = Store(UNREACHABLE), outbox()
    box.put(store.putting(1))
    assert box.call(lambda: store.write(2)) == 20
    store.answers = [UNREACHABLE, OK]
    box.put(store.putting(3))
    box.flush()
    assert store.written == [1, 2, 3]


class Clock:
    """A clock that only moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setenv("STUDY_PATIENCE_S", "60")
    return clock


def test_a_long_pause_between_two_attempts_counts_little(clock: Clock) -> None:
    """An epoch in the driver's own process takes minutes, in which no request is sent."""
    store, box = Store(always=UNREACHABLE), outbox()
    for what in range(5):
        box.put(store.putting(what))
        clock.now += 600
    assert box.behind
    store.always = OK
    box.flush()
    assert store.written == [0, 1, 2, 3, 4]


def test_a_store_that_is_tried_all_the_time_is_given_up_when_patience_runs_out(clock: Clock) -> None:
    store, box = Store(always=UNREACHABLE), outbox()
    with pytest.raises(StudyError, match=r"has been unreachable for 6[01] s"):
        box.call(lambda: store.write(1))
    assert 60 < clock.now - 1000 <= 61


def test_attempts_that_take_long_count_in_full(clock: Clock) -> None:
    """A server that accepts requests and never answers makes each take the client's whole timeout."""

    def unanswered() -> None:
        clock.now += 20
        raise UnreachableError

    with pytest.raises(StudyError):
        outbox().call(unanswered)
    assert clock.now - 1000 <= 60 + 2 * 21


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", ["put", "call"])
def test_the_error_of_a_wrong_request_is_raised_unchanged(way: str) -> None:
    store, box = Store(WRONG), outbox()
    action = box.put if way == "put" else box.call
    with pytest.raises(WrongError, match="7 is not allowed"):
        action(store.putting(7))
    assert store.requests == 1


@pytest.mark.usefixtures("patient")
def test_the_error_of_a_wrong_write_that_waited_is_raised_when_its_turn_comes() -> None:
    store, box = Store(UNREACHABLE, UNREACHABLE, WRONG), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    with pytest.raises(WrongError, match="1 is not allowed"):
        box.call(lambda: store.write(3))
    assert store.written == []


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("waiting", [True, False])
def test_a_user_who_asks_to_stop_does_not_wait_for_the_store(waiting: bool) -> None:
    store, box = Store(always=UNREACHABLE), outbox(lambda: store.requests > 3)
    if waiting:
        box.put(store.putting(1))
    with pytest.raises(Interrupted, match="run the same command again to resume") as caught:
        box.call(lambda: store.write(2))
    assert caught.value.exit_code == 130
    assert box.behind == waiting


def test_a_request_to_stop_does_not_prevent_what_can_be_done_at_once() -> None:
    store, box = Store(), outbox(lambda: True)
    assert box.call(lambda: store.write(2)) == 20


@pytest.mark.usefixtures("patient")
def test_a_keyboard_interrupt_is_not_held_back() -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox().put(stopped)


untimed = hypothesis_settings(deadline=None)
ACTIONS = st.lists(st.sampled_from(["put", "put", "flush", "call"]), max_size=30)
ANSWERS = st.lists(st.sampled_from([OK, UNREACHABLE, LOST]), max_size=60)


@untimed
@given(actions=ACTIONS, answers=ANSWERS)
def test_whatever_the_store_does_everything_is_written_in_order(actions: list[str], answers: list[str]) -> None:
    """A lost reply makes a write happen twice in a row, which every write must allow; never out of order."""
    store, box = Store(*answers), outbox()
    with settings("60"):
        for what, action in enumerate(actions):
            if action == "put":
                box.put(store.putting(what))
            elif action == "flush":
                box.flush()
            else:
                assert box.call(lambda what=what: store.write(what)) == what * 10
                assert not box.behind
                assert store.written[-1] == what
        box.call(lambda: None)
    distinct = list(dict.fromkeys(store.written))
    assert distinct == [what for what, action in enumerate(actions) if action != "flush"]
    assert store.written == sorted(store.written)
    assert len(store.written) - len(distinct) <= answers.count(LOST)


@untimed
@given(answers=st.lists(st.sampled_from([OK, UNREACHABLE]), max_size=40), writes=st.integers(0, 20))
def test_a_write_whose_reply_arrived_is_not_done_twice(answers: list[str], writes: int) -> None:
    store, box = Store(*answers), outbox()
    with settings("60"):
        for what in range(writes):
            box.put(store.putting(what))
            assert box.behind == (store.written != list(range(what + 1)))
        box.call(lambda: None)
    assert store.written == list(range(writes))


@untimed
@given(before=st.lists(st.sampled_from([OK, UNREACHABLE, LOST]), max_size=20), writes=st.integers(1, 20))
def test_giving_up_keeps_every_write(before: list[str], writes: int) -> None:
    """However often patience ran out, every write is done once the store is reachable."""
    store, box = Store(*before, always=UNREACHABLE), outbox()
    with settings("0"):
        for what in range(writes):
            try:
                box.put(store.putting(what))
            except StudyError:
                assert box.behind
        store.answers, store.always = [], OK
        box.flush()
    assert list(dict.fromkeys(store.written)) == list(range(writes))


@pytest.mark.usefixtures("patient")
def test_a_store_that_goes_and_comes_back_is_said_once_each() -> None:
    said: list[str] = []
    patience = Patience("the store", lambda error: isinstance(error, UnreachableError), say=said.append)
    store = Store(UNREACHABLE, UNREACHABLE, LOST, OK, OK, UNREACHABLE)
    assert [patience.call(partial(store.write, what)) for what in (1, 2, 3)] == [10, 20, 30]
    away = "the store is unreachable; waiting up to 60 s (training continues)"
    back = "the store is reachable again, after 0 s"
    assert said == [away, back, away, back]


@pytest.mark.parametrize("given", ["abc", "-1", "nan", "inf", ""])
def test_patience_that_is_no_number_of_seconds_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_PATIENCE_S", given)
    with pytest.raises(InputError, match="allowed are seconds, 0 or more"):
        module.patience_s()
