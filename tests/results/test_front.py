"""The front: the trials that no other one beats both in the objective and in a cost."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from summaries import record, summary_of

from pipeline.results.front import COSTS, SHARPNESS, costed, front
from pipeline.results.summary import StudySummary
from pipeline.search.records import EndedTrial


def sized(number: int, value: float, parameters: int, multiply_adds: int) -> EndedTrial:
    trial = record(number, value)
    cost = {"parameters": parameters, "multiply_adds": multiply_adds}
    return replace(trial, summary=replace(trial.summary, cost=cost))


def numbers(summary: StudySummary, name: str) -> list[int]:
    return [trial.number for trial, *_ in front(summary, name)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("metric", ["psnr", "mse"])
def test_the_front_is_what_a_comparison_of_all_pairs_leaves(seed: int, metric: str) -> None:
    draw = random.Random(seed)  # few different figures, so that many are equal
    trials = [sized(n, draw.randint(10, 20), draw.randint(1, 6), draw.randint(1, 6)) for n in range(15)]
    trials = [replace(t, summary=replace(t.summary, metrics={**t.summary.metrics, "val/mse": t.value})) for t in trials]
    summary = summary_of([*trials, record(15, 99.0, "PRUNED"), record(16, None, "FAIL")], metric=metric)
    for name in COSTS:
        found = front(summary, name)
        points = {(cost, value) for _, cost, value in found}
        everyone = {(t.summary.cost[name], summary.sign * summary.value(t)) for t in trials}
        best = {(c, v) for c, v in everyone if not any(a <= c and b >= v and (a, b) != (c, v) for a, b in everyone)}
        assert {(cost, summary.sign * value) for cost, value in points} == best
        assert len(found) == len(points), "two of the same cost and objective"


def test_of_sharpness_the_distance_from_1_counts_in_both_directions() -> None:
    summary = summary_of([record(0, 18.0), record(1, 19.0), record(2, 22.2), record(3, 30.0)])  # 0.9, 0.95, 1.11, 1.5
    assert [round(cost, 2) for _, cost, _ in costed(summary, SHARPNESS)] == [1.5, 1.11, 0.95, 0.9]
    assert numbers(summary, SHARPNESS) == [1, 2, 3]
