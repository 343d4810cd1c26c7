"""The time left of a study, from the epochs that trials took so far."""

from __future__ import annotations

from dataclasses import replace

import pytest
from summaries import record, summary_of

from pipeline.search.records import EndedTrial
from pipeline.study.pace import Pace, clock


def ended(number: int, epochs: int, seconds: float) -> EndedTrial:
    made = record(number, 10.0)
    return replace(made, summary=replace(made.summary, epochs=epochs, duration_s=seconds))


def pace(trials: list[EndedTrial], slots: int = 2, earlier: float = 0.0) -> Pace:
    budget = {"trials": 4, "epochs": 10}
    config = summary_of([], model={}, train={}, budget=budget).config
    return Pace(config, 1000, trials, slots, earlier)


def test_nothing_is_said_before_the_first_epoch() -> None:
    first = pace([])
    first.opened(0, 0)
    assert first.left is None
    assert str(first) == "0:00 elapsed"


def test_trials_that_were_pruned_shorten_the_time_left() -> None:
    """Two seconds per epoch on each of two slots: one second per epoch."""
    assert pace([ended(0, 10, 20.0)]).left == pytest.approx(30)
    assert pace([ended(0, 10, 20.0), ended(1, 2, 4.0)]).left == pytest.approx(12)
    assert "about 0:12 left, 1,000 images/s" in str(pace([ended(0, 10, 20.0), ended(1, 2, 4.0)]))


def test_an_open_trial_is_compared_with_those_that_came_as_far() -> None:
    running = pace([ended(0, 10, 20.0), ended(1, 2, 4.0), ended(2, 8, 16.0)])
    running.opened(3, 0)
    assert running.left == pytest.approx(20 / 3 * 2)  # alone, its epochs follow each other
    running.opened(3, 4)
    assert running.left == pytest.approx((9 - 4) * 2)
    running.opened(3, 10)
    assert running.left == 0


def test_a_cluster_without_a_worker_yet_is_taken_for_one_worker() -> None:
    assert pace([ended(0, 10, 20.0)], slots=0).left == pytest.approx(60)


def test_time_of_earlier_sessions_counts() -> None:
    assert pace([], earlier=3700).elapsed == pytest.approx(3700, abs=60)


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (125, "2:05"), (7384, "2:03:04")])
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
