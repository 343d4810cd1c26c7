"""The tables of a study: columns, order of rows, choices of both, and values equal to MLflow's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies_for_tests import TRIALS, Place
from summaries import BASELINES, record, running, summary_of

from pipeline.errors import InputError
from pipeline.results.summary import StudySummary, summarise
from pipeline.results.table import Table, grouped, study_table

pytest_plugins = ["study_fixtures"]

MIXED = summary_of(
    [
        record(0, 17.5, loss="bce", lr=0.001, width="auto", batch_norm=True),
        record(1, None, "FAIL", "diverged", loss="mse", lr=0.1, width=512, batch_norm=False),
        record(2, 18.25, loss="l1", lr=0.01, width=512, batch_norm=False),
        record(3, None, "PRUNED", "median", loss="mse", lr=0.2, width="auto", batch_norm=True),
        record(4, 16.5, loss="l1", lr=0.02, width="auto", batch_norm=True),
        running(5, loss="bce", lr=0.3, width=512, batch_norm=True),
    ],
    BASELINES,
)
KEYS = ["width", "batch_norm", "loss", "lr", "batch_size"]
HEAD = ["rank", "number", "state", "objective", "val/psnr", "val/ssim", "val/sharpness"]
TAIL = ["parameters", "multiply_adds", "best_epoch", "epochs", "duration_s", "reason", "run_id", "started"]


def column(table: Table, key: str) -> list[Any]:
    return [row[key] for row in table.records]


def brief(table: Table) -> list[str]:
    return [column.key for column in table.brief]


def test_columns_for_programs_and_for_people_are_in_the_documented_order() -> None:
    table = study_table(MIXED)
    assert [column.key for column in table.columns] == HEAD + KEYS + TAIL
    assert all(list(row) == HEAD + KEYS + TAIL for row in table.records)
    figures = ["val/psnr", "val/ssim", "val/sharpness"]
    assert brief(table) == ["rank", "number", "state", *figures, *KEYS, "parameters", "epochs"]
    assert "state" not in brief(study_table(MIXED, state=["complete"], baselines=True))


def test_complete_trials_come_first_by_rank_and_the_others_by_number() -> None:
    table = study_table(MIXED)
    assert column(table, "number") == [2, 0, 4, 1, 3, 5]
    assert column(table, "rank") == [1, 2, 3, None, None, None]
    assert column(table, "reason") == ["", "", "", "diverged", "median", None]


def test_baselines_stand_at_their_places_among_the_trials() -> None:
    table = study_table(MIXED, baselines=True)
    standing = list(zip(column(table, "rank"), column(table, "number"), column(table, "baseline"), strict=True))
    assert standing[:5] == [(1, 2, None), (2, 0, None), (None, None, "linear"), (3, 4, None), (None, None, "degraded")]
    assert column(table, "state")[:5] == ["COMPLETE", "COMPLETE", "BASELINE", "COMPLETE", "BASELINE"]
    assert table.records[2]["objective"] == table.records[2]["val/psnr"] == 17.0


def test_states_and_the_number_of_trials_are_chosen() -> None:
    assert column(study_table(MIXED, top=2), "number") == [2, 0]
    assert column(study_table(MIXED, state=["failed", "unfinished"]), "number") == [1, 5]
    assert column(study_table(MIXED, state=["pruned", "failed"], top=1), "number") == [1]
    assert column(study_table(MIXED, top=1, baselines=True), "baseline") == [None, "linear", "degraded"]
    with pytest.raises(InputError, match=r"unknown state 'prund'; allowed: complete, pruned, .*did you mean 'pruned'"):
        study_table(MIXED, state=["prund"])


def test_chosen_columns_are_in_the_order_asked_for_programs_and_people() -> None:
    table = study_table(MIXED, columns=["run_id", "rank", "run_id"])
    assert [list(row) for row in table.records] == [["run_id", "rank"]] * 6
    assert brief(table) == ["run_id", "rank"]


@pytest.mark.parametrize(("key", "says"), [("val/psnt", "did you mean 'val/psnr'"), ("", "rank, number, state")])
def test_an_unknown_column_is_refused_with_those_there_are(key: str, says: str) -> None:
    with pytest.raises(InputError, match=r"unknown column .*allowed: rank, number, state, objective") as error:
        study_table(MIXED, columns=["rank", key])
    assert says in str(error.value)


def test_the_caption_names_study_numbers_split_and_data() -> None:
    caption = study_table(MIXED, state=["complete"]).caption
    for part in ("3 of 6 trials", "study small", "gaussian on mnist-5k", "psnr", "validation", "0123456789ab"):
        assert part in caption


@given(st.lists(st.floats(-100, 100), max_size=12), st.sampled_from(["psnr", "ssim"]))
def test_ranks_follow_the_objective(values: list[float], metric: str) -> None:
    table = study_table(summary_of([record(number, value) for number, value in enumerate(values)], metric=metric))
    assert column(table, "objective") == sorted(values, reverse=True)
    assert column(table, "rank") == list(range(1, len(values) + 1))


def test_the_best_of_a_column_follows_the_metrics_direction() -> None:
    """PSNR: higher; sharpness: nearest to 1, here a baseline's; a pruned trial has no part in it."""
    records = [record(0, 30.0), record(1, 22.0), record(2, 10.0), record(3, 35.0, "PRUNED")]
    table = study_table(summary_of(records, {"linear": {"val/psnr": 1.0, "val/sharpness": 0.98}}), baselines=True)
    columns = {column.key: column for column in table.columns}
    best = {
        key: [table.records[i]["number"] for i in table.best(columns[key])] for key in ("val/psnr", "val/sharpness")
    }
    assert best == {"val/psnr": [0], "val/sharpness": [None]}
    assert table.best(columns["parameters"]) == frozenset()


def test_a_lower_metric_is_better_where_it_says_so() -> None:
    trials = [record(number, 10.0) for number in range(2)]
    for trial, value in zip(trials, (0.2, 0.1), strict=True):
        trial.summary.metrics["val/mse"] = value
    table = study_table(summary_of(trials))
    [mse] = [column for column in table.columns if column.key == "val/mse"]
    assert table.best(mse) == {1}


def test_groups_have_number_mean_deviation_and_best() -> None:
    table = grouped(MIXED, "loss")
    assert table.records == [
        {"loss": "bce", "n": 1, "mean": 17.5, "sd": None, "best": 17.5},
        {"loss": "l1", "n": 2, "mean": 17.375, "sd": pytest.approx(1.2374368670764582), "best": 18.25},
    ]
    assert "3 complete trials" in table.caption
    assert [row["n"] for row in table.select(["n"]).records] == [1, 2]
    with pytest.raises(InputError, match=r"--by 'los'.*allowed: width, batch_norm, loss.*did you mean 'loss'"):
        grouped(MIXED, "los")


def test_a_study_without_trials_gives_an_empty_table() -> None:
    empty: StudySummary = summary_of([])
    assert study_table(empty).rows == grouped(empty, "loss").rows == ()


def test_a_real_study_has_one_row_per_trial_with_mlflows_values(finished: Place) -> None:
    summary, client = summarise(finished.search()), finished.client()
    table = study_table(summary)
    assert sorted(column(table, "number")) == list(range(TRIALS))
    runs = {run.info.run_id: run for run in finished.runs("trial")}
    compared = 0
    for row in table.records:
        run = runs[row["run_id"]]
        assert run.data.tags["trial.number"] == str(row["number"])
        assert run.data.tags["trial.state"] == row["state"]
        for name in (key for key in row if key.startswith("val/") and row[key] is not None):
            history = client.get_metric_history(run.info.run_id, name)
            assert [point.value for point in history if point.step == row["best_epoch"]] == [row[name]], name
            assert run.data.metrics[name.replace("val/", "best/")] == row[name]
            compared += 1
        assert run.data.params["optimizer"] == row["optimizer"]
    assert compared > TRIALS
