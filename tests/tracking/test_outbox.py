"""Writes to a store that comes and goes: in order, each done, waited for within bounds.

The store here is made up: a list that takes writes, and a list of how it answers its next requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.errors import Interrupted, TrackingError
from pipeline.tracking import outbox as module
from pipeline.tracking.outbox import Outbox

OK, AWAY, LOST, WRONG = "ok", "away", "reply lost", "wrong"  # how a request ends


class AwayError(Exception):
    """The store cannot be reached, or its answer did not arrive."""


class WrongError(Exception):
    """The store refuses the request."""


class Store:
    """Answers requests as planned, then always well; or always in one way, if only that one is given."""

    def __init__(self, *answers: str, always: str = OK) -> None:
        self.written: list[int] = []
        self.requests = 0
        self.answers, self.always = list(answers), always

    def write(self, what: int) -> int:
        answer = self.answers.pop(0) if self.answers else self.always
        self.requests += 1
        if answer == WRONG:
            raise WrongError(f"{what} is not allowed")
        if answer != AWAY:
            self.written.append(what)
        if answer != OK:
            raise AwayError
        return what * 10

    def putting(self, what: int) -> Callable[[], None]:
        def write() -> None:
            self.write(what)

        return write


def outbox(halted: Callable[[], bool] = lambda: False) -> Outbox:
    return Outbox("the store", lambda error: isinstance(error, AwayError), halted)


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


def test_a_write_is_done_at_once_while_the_store_is_there() -> None:
    store, box = Store(), outbox()
    box.put(store.putting(1))
    assert store.written == [1]
    assert not box.behind


@pytest.mark.usefixtures("patient")
def test_writes_wait_while_the_store_is_away_and_go_out_in_order() -> None:
    store, box = Store(always=AWAY), outbox()
    for what in range(5):
        box.put(store.putting(what))
    assert (store.written, box.behind) == ([], True)
    store.always = OK
    box.flush()
    assert (store.written, box.behind) == ([0, 1, 2, 3, 4], False)
    box.flush()
    assert store.requests == 5 + 5  # one attempt a put, then each once


@pytest.mark.usefixtures("patient")
def test_an_earlier_write_goes_before_a_later_one_that_could_be_done() -> None:
    store, box = Store(AWAY), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    assert store.written == [1, 2]


@pytest.mark.usefixtures("patient")
def test_what_was_sent_before_the_store_went_is_not_sent_again() -> None:
    store, box = Store(always=AWAY), outbox()
    for what in range(3):
        box.put(store.putting(what))
    store.always = OK
    store.answers = [OK, AWAY]
    box.flush()
    assert (store.written, box.behind) == ([0], True)
    box.flush()
    assert store.written == [0, 1, 2]


@pytest.mark.usefixtures("patient")
def test_through_waits_for_earlier_writes_and_for_the_store() -> None:
    store, box = Store(AWAY, AWAY, AWAY, OK, AWAY, AWAY), outbox()
    box.put(store.putting(1))
    assert box.through(lambda: store.write(2)) == 20
    assert store.written == [1, 2]


def test_through_returns_what_the_action_returns() -> None:
    assert outbox().through(lambda: None) is None
    assert outbox().through(lambda: "found") == "found"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("way", ["put", "flush", "through"])
def test_a_store_that_stays_away_ends_in_an_error_and_loses_nothing(way: str) -> None:
    store, box = Store(always=AWAY), outbox()
    box.put(store.putting(1))  # away for no time yet
    attempts = {
        "put": lambda: box.put(store.putting(2)),
        "flush": box.flush,
        "through": lambda: box.through(lambda: store.write(2)),
    }
    with pytest.raises(TrackingError, match=r"the store has been away for \d+ s; nothing is lost") as caught:
        attempts[way]()
    assert caught.value.exit_code == 1
    assert isinstance(caught.value.__cause__, AwayError)
    store.always = OK
    box.flush()
    assert store.written == ([1, 2] if way == "put" else [1])


@pytest.mark.usefixtures("impatient")
def test_patience_begins_anew_once_the_store_was_back() -> None:
    store, box = Store(AWAY, OK, OK, AWAY, OK, AWAY, AWAY), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    box.put(store.putting(3))
    box.flush()
    assert store.written == [1, 2, 3]
    box.put(store.putting(4))
    with pytest.raises(TrackingError):
        box.flush()


@pytest.mark.usefixtures("impatient")
def test_an_answer_to_through_ends_the_time_away() -> None:
    store, box = Store(AWAY), outbox()
    box.put(store.putting(1))
    assert box.through(lambda: store.write(2)) == 20
    store.answers = [AWAY, OK]
    box.put(store.putting(3))
    box.flush()
    assert store.written == [1, 2, 3]


class Clock:
    """Seconds that pass only when they are told to."""

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


def test_a_long_pause_between_two_attempts_is_no_long_absence(clock: Clock) -> None:
    """A leg in the driver's own process takes minutes, in which nobody asks the store."""
    store, box = Store(always=AWAY), outbox()
    for what in range(5):
        box.put(store.putting(what))
        clock.now += 600
    assert box.behind
    store.always = OK
    box.flush()
    assert store.written == [0, 1, 2, 3, 4]


def test_a_store_that_is_asked_all_the_time_is_given_up_after_its_patience(clock: Clock) -> None:
    store, box = Store(always=AWAY), outbox()
    with pytest.raises(TrackingError, match=r"has been away for 6[01] s"):
        box.through(lambda: store.write(1))
    assert 60 < clock.now - 1000 <= 61


def test_attempts_that_take_long_count_whole(clock: Clock) -> None:
    """A server that takes requests and never answers makes each take the client's whole timeout."""

    def unanswered() -> None:
        clock.now += 20
        raise AwayError

    with pytest.raises(TrackingError):
        outbox().through(unanswered)
    assert clock.now - 1000 <= 60 + 2 * 21


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("way", ["put", "through"])
def test_a_wrong_request_is_no_absence_and_raised_as_it_is(way: str) -> None:
    store, box = Store(WRONG), outbox()
    action = box.put if way == "put" else box.through
    with pytest.raises(WrongError, match="7 is not allowed"):
        action(store.putting(7))
    assert store.requests == 1


@pytest.mark.usefixtures("patient")
def test_a_wrong_write_that_waited_is_raised_when_its_turn_comes() -> None:
    store, box = Store(AWAY, AWAY, WRONG), outbox()
    box.put(store.putting(1))
    box.put(store.putting(2))
    with pytest.raises(WrongError, match="1 is not allowed"):
        box.through(lambda: store.write(3))
    assert store.written == []


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("waiting", [True, False])
def test_a_user_who_wants_to_stop_does_not_wait_for_the_store(waiting: bool) -> None:
    store, box = Store(always=AWAY), outbox(lambda: store.requests > 3)
    if waiting:
        box.put(store.putting(1))
    with pytest.raises(Interrupted, match="the same command goes on") as caught:
        box.through(lambda: store.write(2))
    assert caught.value.exit_code == 130
    assert box.behind == waiting


def test_stopping_does_not_keep_from_what_can_be_done_at_once() -> None:
    store, box = Store(), outbox(lambda: True)
    assert box.through(lambda: store.write(2)) == 20


@pytest.mark.usefixtures("patient")
def test_nothing_but_exceptions_is_held_back() -> None:
    def stopped() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outbox().put(stopped)


untimed = hypothesis_settings(deadline=None)
ACTIONS = st.lists(st.sampled_from(["put", "put", "flush", "through"]), max_size=30)
ANSWERS = st.lists(st.sampled_from([OK, AWAY, LOST]), max_size=60)


@untimed
@given(actions=ACTIONS, answers=ANSWERS)
def test_whatever_the_store_does_everything_is_written_in_order(actions: list[str], answers: list[str]) -> None:
    """A reply that was lost makes a write happen twice in a row, which every write must bear; never out of order."""
    store, box = Store(*answers), outbox()
    with settings("60"):
        for what, action in enumerate(actions):
            if action == "put":
                box.put(store.putting(what))
            elif action == "flush":
                box.flush()
            else:
                assert box.through(lambda what=what: store.write(what)) == what * 10
                assert not box.behind
                assert store.written[-1] == what
        box.through(lambda: None)
    distinct = list(dict.fromkeys(store.written))
    assert distinct == [what for what, action in enumerate(actions) if action != "flush"]
    assert store.written == sorted(store.written)
    assert len(store.written) - len(distinct) <= answers.count(LOST)


@untimed
@given(answers=st.lists(st.sampled_from([OK, AWAY]), max_size=40), writes=st.integers(0, 20))
def test_no_write_is_done_twice_whose_reply_arrived(answers: list[str], writes: int) -> None:
    store, box = Store(*answers), outbox()
    with settings("60"):
        for what in range(writes):
            box.put(store.putting(what))
            assert box.behind == (store.written != list(range(what + 1)))
        box.through(lambda: None)
    assert store.written == list(range(writes))


@untimed
@given(before=st.lists(st.sampled_from([OK, AWAY, LOST]), max_size=20), writes=st.integers(1, 20))
def test_giving_up_keeps_every_write(before: list[str], writes: int) -> None:
    """However often patience ran out, what was put is there once the store is back."""
    store, box = Store(*before, always=AWAY), outbox()
    with settings("0"):
        for what in range(writes):
            try:
                box.put(store.putting(what))
            except TrackingError:
                assert box.behind
        store.answers, store.always = [], OK
        box.flush()
    assert list(dict.fromkeys(store.written)) == list(range(writes))
