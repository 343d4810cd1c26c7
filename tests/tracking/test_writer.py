"""Writes on the writer's threads: in order, each done, guarded; and how long an unreachable store is waited for.

The store here is a fake: a list that takes writes, and a list of how it answers its next requests.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from servers import Served
from studies_for_tests import Place

from pipeline import patience as module
from pipeline.data import load
from pipeline.errors import InputError, Interrupted, StudyError
from pipeline.home import open_home
from pipeline.patience import Patience
from pipeline.tracking import writer as writing
from pipeline.tracking.experiments import find_by_name
from pipeline.tracking.runs import open_tracking
from pipeline.tracking.store import patience_with
from pipeline.tracking.writer import Writer

pytest_plugins = ["study_fixtures"]

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


REMOTE = open_home(tracking_uri="http://127.0.0.1:1")  # several threads; nothing is sent there


def patience_of(stop_asked: Callable[[], bool] = lambda: False) -> Patience:
    return Patience("the store", lambda error: isinstance(error, UnreachableError), stop_asked, no_words)


def no_words(_: str) -> None:
    """Nothing is said."""


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


@pytest.fixture
def writer() -> Iterator[Writer]:
    writer = Writer(REMOTE, lambda: None, lambda: False)
    yield writer
    writer.close()


def test_jobs_of_a_lane_are_done_in_order_and_lanes_side_by_side(writer: Writer) -> None:
    done: list[tuple[str, int]] = []
    second_lane = threading.Event()

    def job(lane: str, number: int) -> None:
        if (lane, number) == ("a", 0):
            assert second_lane.wait(60)  # which is never set if the lanes follow one another
        done.append((lane, number))
        if (lane, number) == ("b", 2):
            second_lane.set()

    for number in range(3):
        for lane in ("a", "b"):
            writer.put(lane, partial(job, lane, number))
    writer.drain(no_words)
    assert done == [("b", 0), ("b", 1), ("b", 2), ("a", 0), ("a", 1), ("a", 2)]


def test_a_sqlite_file_has_one_writer(tmp_path: Path) -> None:
    running = 0
    most: list[int] = []

    def job() -> None:
        nonlocal running
        running += 1
        time.sleep(0.01)
        most.append(running)
        running -= 1

    with closing(Writer(open_home(tmp_path), lambda: None, lambda: False)) as writer:
        for lane in range(8):
            writer.put(lane, job)
        writer.drain(no_words)
    assert most == [1] * 8


def test_what_follows_from_a_job_is_done_on_the_driver_s_thread(writer: Writer) -> None:
    seen: list[tuple[int, bool]] = []

    def follow(result: int) -> None:
        seen.append((result, threading.current_thread() is threading.main_thread()))

    writer.put("lane", lambda: 7, follow)
    writer.drain(no_words)
    assert seen == [(7, True)]


def test_an_error_ends_the_writing_and_is_raised_at_the_next_step(writer: Writer) -> None:
    store = Store(OK, WRONG)
    for what in range(4):
        writer.put("lane", store.putting(what))
    with pytest.raises(WrongError, match="1 is not allowed"):
        writer.drain(no_words)
    writer.close()
    assert store.written == [0]
    with pytest.raises(WrongError):
        writer.step()


@pytest.mark.usefixtures("impatient")
def test_patience_that_runs_out_on_a_thread_is_the_driver_s_error(writer: Writer) -> None:
    store, patience = Store(always=UNREACHABLE), patience_of()
    writer.put("lane", lambda: patience.call(store.putting(1)))
    with pytest.raises(StudyError, match=r"the store has been unreachable for \d+ s; nothing is lost"):
        writer.drain(no_words)


@pytest.mark.usefixtures("patient")
def test_a_store_that_comes_back_gets_everything_in_order(writer: Writer) -> None:
    store, patience = Store(*[UNREACHABLE] * 5, OK, LOST, UNREACHABLE), patience_of()
    for what in range(4):
        writer.put("lane", partial(patience.call, store.putting(what)))
    writer.drain(no_words)
    assert list(dict.fromkeys(store.written)) == [0, 1, 2, 3]
    assert store.written == sorted(store.written)


@pytest.mark.parametrize(("grace_s", "done"), [(0.0, [1]), (60.0, [1, 2])])
def test_ctrl_c_ends_the_waiting_and_drops_what_takes_too_long(
    grace_s: float, done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GRACE_S", grace_s)
    begun, release, written = threading.Event(), threading.Event(), list[int]()

    def slow() -> None:
        begun.set()
        assert release.wait(60)
        written.append(1)

    writer = Writer(REMOTE, lambda: None, lambda: True)
    writer.put("lane", slow)
    writer.put("lane", lambda: written.append(2))
    assert begun.wait(60)
    threading.Timer(0.1, release.set).start()
    with pytest.raises(Interrupted):
        writer.drain(no_words)
    assert written == done


@pytest.mark.usefixtures("patient")
def test_ctrl_c_while_a_store_is_unreachable_says_which() -> None:
    store, stop = Store(always=UNREACHABLE), threading.Event()
    writer = Writer(REMOTE, lambda: None, stop.is_set)
    writer.put("lane", lambda: patience_of(stop.is_set).call(lambda: store.write(1)))
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Interrupted, match="the store is unreachable"):
        writer.drain(no_words)


def test_an_attempt_that_began_before_the_store_answered_another_is_not_counted(clock: Clock) -> None:
    said: list[str] = []
    patience = Patience("the store", lambda error: isinstance(error, UnreachableError), say=said.append)

    def overtaken() -> None:
        clock.now += 5
        patience.call(lambda: None)
        clock.now += 5
        raise UnreachableError

    assert not patience.attempt(overtaken)
    assert said == []


def test_a_process_that_lost_its_lock_sends_no_request(place: Place) -> None:
    """The guard is asked before every request, on the writer's threads."""

    def lost() -> None:
        raise StudyError("the study is now being run by another process")

    home = place.home
    tracking = open_tracking(home, "small", "f" * 32, "a note", patience_with(home))
    with closing(Writer(home, lost, lambda: False)) as writer:
        writer.put("lane", lambda: tracking.tag_experiment({"written": "yes"}))
        with pytest.raises(StudyError, match="another process"):
            writer.drain(no_words)
    assert "written" not in find_by_name(home, "small").tags


@pytest.mark.slow
def test_runs_are_created_side_by_side_on_a_server(served: Served) -> None:
    """All name the same data set, which the server must not be asked to add twice at once."""
    home, data = served.home, load("mnist-5k", served.home.data_dir)
    opened = [open_tracking(home, f"study-{i}", f"{i}" * 32, "a note", patience_with(home)) for i in range(8)]
    with closing(Writer(home, lambda: None, lambda: False)) as writer:
        for tracking in opened:
            for number in range(4):
                create = partial(tracking.run, f"uid-{number}", f"run-{number}", {}, {}, data, 1.0, look_first=False)
                writer.put((tracking.experiment_id, number), create)
        writer.drain(no_words)
    for tracking in opened:
        runs = served.client().search_runs([tracking.experiment_id])
        assert [[used.dataset.name for used in run.inputs.dataset_inputs] for run in runs] == [["mnist-5k"]] * 4


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
    store, patience = Store(always=UNREACHABLE), patience_of()
    for _ in range(5):
        assert not patience.attempt(store.putting(1))
        clock.now += 600
    store.always = OK
    assert patience.attempt(store.putting(1))


def test_a_store_that_is_tried_all_the_time_is_given_up_when_patience_runs_out(clock: Clock) -> None:
    store, patience = Store(always=UNREACHABLE), patience_of()
    with pytest.raises(StudyError, match=r"has been unreachable for 6[01] s"):
        patience.call(lambda: store.write(1))
    assert 60 < clock.now - 1000 <= 61


def test_attempts_that_take_long_count_in_full(clock: Clock) -> None:
    """A server that accepts requests and never answers makes each take the client's whole timeout."""

    def unanswered() -> None:
        clock.now += 20
        raise UnreachableError

    with pytest.raises(StudyError):
        patience_of().call(unanswered)
    assert clock.now - 1000 <= 60 + 2 * 21


@pytest.mark.usefixtures("patient")
def test_the_error_of_a_wrong_request_is_raised_unchanged() -> None:
    store = Store(WRONG)
    with pytest.raises(WrongError, match="7 is not allowed"):
        patience_of().call(store.putting(7))
    assert store.requests == 1


@pytest.mark.usefixtures("patient")
def test_a_user_who_asks_to_stop_does_not_wait_for_the_store() -> None:
    store = Store(always=UNREACHABLE)
    with pytest.raises(Interrupted, match="run the same command again to resume") as caught:
        patience_of(lambda: store.requests > 3).call(lambda: store.write(2))
    assert caught.value.exit_code == 130


def test_a_request_to_stop_does_not_prevent_what_can_be_done_at_once() -> None:
    assert patience_of(lambda: True).call(lambda: Store().write(2)) == 20


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
