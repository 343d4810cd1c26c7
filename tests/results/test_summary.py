"""What replicates do to a study's ranking, with made-up trials."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from summaries import BASELINES, record, summary_of

from pipeline.results.summary import Baseline, StudySummary
from pipeline.results.table import study_table
from pipeline.search.records import EndedTrial
from pipeline.search.replicates import Replicate


def replicates(trial: int, values: list[float | None], epochs: int = 3) -> dict[Replicate, EndedTrial]:
    states = {seed: record(trial, value, "COMPLETE" if value else "FAIL") for seed, value in enumerate(values, 1)}
    return {Replicate(trial, epochs, seed): each for seed, each in states.items()}


@pytest.fixture
def summary() -> StudySummary:
    """The best single value is of trial 0; of the replicated ones trial 2 is better than trial 1 on average."""
    made = summary_of([record(0, 17.9), record(1, 17.5), record(2, 17.4), record(3, 16.0)], BASELINES)
    found = replicates(1, [17.0, 17.1, 16.8, 17.2]) | replicates(2, [17.4, 17.2, None, 17.3])
    return replace(made, replicates=found | replicates(3, [16.5]) | replicates(2, [17.9, 18.1], epochs=2))


def test_replicated_trials_come_first_by_their_mean(summary: StudySummary) -> None:
    assert [trial.number for trial in summary.ranked] == [2, 1, 0, 3]
    assert list(summary.configurations) == [2, 1], "one seed alone is no replication"
    names = [entry.name if isinstance(entry, Baseline) else entry.number for entry in summary.standing]
    assert names == [2, 1, 0, "linear", 3, "degraded"]
    assert summary.beating == {"degraded": 4, "linear": 3}


def test_the_figures_of_a_replicated_configuration(summary: StudySummary) -> None:
    found = summary.configurations[2]
    assert (found.epochs, sorted(found.seeds), found.failed) == (3, [1, 2, 4], 1)
    assert found.interval.mean == pytest.approx(17.3)
    assert found.sd == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.interval.low, found.interval.high) == pytest.approx((17.3 - half, 17.3 + half), abs=1e-5)
    assert found.median == 4
    assert summary.configurations[1].seeds[summary.configurations[1].median].value == 17.0
    row = next(row for row in study_table(summary).records if row["number"] == 2)
    assert (row["rank"], row["seeds"], row["seeds_mean"]) == (1, 3, pytest.approx(17.3))
    assert (
        "Trial 2 is best: psnr 17.30 dB [17.05, 17.55] on validation, the mean of 3 of 4 seeds" in summary.answer()[0]
    )
    assert (row["seeds_failed"], summary.configurations[1].counted) == (1, "4")
