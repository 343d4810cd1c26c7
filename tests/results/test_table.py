"""The summary table: columns, order of rows, and files."""

from __future__ import annotations

import json
import os
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from studies_for_tests import Place

from pipeline.errors import InputError
from pipeline.results.table import WRITERS, summary_rows, summary_table, write_table
from pipeline.search.records import EndedTrial, EndState, Summary, ranked

pytest_plugins = ["study_fixtures"]


def record(number: int, value: float | None, state: EndState = "COMPLETE", **params: Any) -> EndedTrial:
    """A trial that ended, with two metrics."""
    metrics = {} if value is None else {"train/loss": 0.5, "val/psnr": value, "val/ssim": value / 100}
    cost = {"parameters": 1000 + number, "multiply_adds": 900}
    summary = Summary(f"run{number}", 3, 2, metrics, cost, 1.5)
    started, ended = datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 4, 9)
    return EndedTrial(number, params, params, started, ended, state, value, summary, {})


MIXED = [
    record(0, 17.5, loss="bce", lr=0.001),
    record(1, None, "FAIL", loss="mse", lr=0.1),
    record(2, 18.25, loss="l1", lr=0.01, momentum=0.9),
]


def test_columns_are_in_the_documented_order() -> None:
    table = summary_table(MIXED, "maximize")
    head = ["rank", "number", "state", "objective", "val/psnr", "val/ssim", "loss", "lr", "momentum"]
    tail = ["parameters", "multiply_adds", "best_epoch", "epochs", "duration_s", "run_id", "started"]
    assert list(table.columns) == head + tail


@pytest.mark.parametrize(("direction", "order"), [("maximize", [2, 0, 1]), ("minimize", [0, 2, 1])])
def test_complete_trials_are_sorted_by_rank_and_precede_the_others(direction: str, order: list[int]) -> None:
    table = summary_table(MIXED, direction)
    assert table["number"].tolist() == order
    assert table["rank"].tolist()[:2] == [1, 2]
    assert table["rank"].isna().tolist() == [False, False, True]


@given(st.lists(st.floats(-100, 100), max_size=12), st.sampled_from(["maximize", "minimize"]))
def test_ranks_follow_the_objective(values: list[float], direction: str) -> None:
    records = [record(number, value) for number, value in enumerate(values)]
    table = summary_table(records, direction)
    objectives = table["objective"].tolist()
    assert objectives == sorted(values, reverse=direction == "maximize")
    assert table["number"].tolist() == [r.number for r in ranked(records, direction)]


def test_rows_hold_the_values_of_the_table() -> None:
    table = summary_table(MIXED, "maximize")
    assert summary_rows(MIXED, "maximize") == table.astype(object).where(table.notna(), None).to_dict("records")


def test_a_study_without_trials_gives_an_empty_table() -> None:
    assert len(summary_table([], "maximize")) == 0


READERS = {
    ".csv": lambda text: pd.read_csv(StringIO(text)),
    ".md": lambda text: _markdown(text),
    ".html": lambda text: _html(text),
    ".json": lambda text: pd.DataFrame(json.loads(text)),
}


def _markdown(text: str) -> pd.DataFrame:
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines()]
    return pd.DataFrame(rows[2:], columns=rows[0])


def _html(text: str) -> pd.DataFrame:
    import re

    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)]
    return pd.DataFrame(rows[1:], columns=rows[0])


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_can_be_read_back(suffix: str, tmp_path: Path) -> None:
    table, file = summary_table(MIXED, "maximize"), tmp_path / f"table{suffix}"
    write_table(table, file)
    read = READERS[suffix](file.read_text())
    assert list(read.columns) == list(table.columns)
    assert [int(n) for n in read["number"]] == [2, 0, 1]
    assert [float(lr) for lr in read["lr"]] == [0.01, 0.001, 0.1]
    assert read["run_id"].tolist() == ["run2", "run0", "run1"]
    assert str(read["rank"].iloc[2]) in ("", "nan", "None")
    assert os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("suffix", [".md", ".html"])
def test_markdown_and_html_show_six_digits_of_small_numbers(suffix: str, tmp_path: Path) -> None:
    write_table(pd.DataFrame({"weight_decay": [1.1621474e-07, None], "run_id": ["a", "b"]}), tmp_path / f"t{suffix}")
    assert "1.16215e-07" in (tmp_path / f"t{suffix}").read_text()


def test_existing_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("old\n" * 1000)
    write_table(summary_table(MIXED, "maximize"), file)
    assert "old" not in file.read_text()


@pytest.mark.parametrize(
    ("name", "says"), [("table.xlsx", ".csv"), ("table", "no suffix"), ("absent/table.csv", "folder")]
)
def test_unknown_format_or_absent_folder_is_refused(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=says):
        write_table(summary_table(MIXED, "maximize"), tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_real_study_has_one_row_per_trial(finished: Place) -> None:
    records = finished.search().records()
    table = summary_table(records, "maximize")
    assert sorted(table["number"]) == [r.number for r in records]
    best = table.iloc[0]
    assert best["objective"] == best["val/psnr"] == max(r.value for r in records if r.value is not None)
    runs = {run.info.run_id: run for run in finished.runs("trial")}
    for row in table.to_dict("records"):
        assert runs[row["run_id"]].data.tags["trial.number"] == str(row["number"])
        assert runs[row["run_id"]].data.tags["trial.state"] == row["state"]


def test_numbers_keep_all_their_digits_and_integers_stay_integers(finished: Place, tmp_path: Path) -> None:
    table, file = summary_table(finished.search().records(), "maximize"), tmp_path / "table.csv"
    write_table(table, file)
    from_csv = pd.read_csv(file)
    pd.testing.assert_frame_equal(from_csv.astype(table.dtypes), table, check_exact=True)
    read = json.loads((_written(table, tmp_path / "table.json")).read_text())
    for row, record in zip(read, table.to_dict("records"), strict=True):
        for key, value in row.items():
            assert pd.isna(record[key]) if value is None else value == record[key], key
    for column in ("rank", "number", "bottleneck", "parameters", "epochs"):
        assert all(value is None or isinstance(value, int) for value in (row[column] for row in read)), column


@pytest.mark.parametrize("suffix", WRITERS)
def test_missing_values_are_empty(suffix: str, finished: Place, tmp_path: Path) -> None:
    text = _written(summary_table(finished.search().records(), "maximize"), tmp_path / f"table{suffix}").read_text()
    assert not [word for word in ("nan", "NaN", "None", "<NA>", "&lt;NA&gt;") if word in text]


def _written(table: pd.DataFrame, file: Path) -> Path:
    write_table(table, file)
    return file


def test_folder_of_that_name_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    (tmp_path / "table.csv").mkdir()
    with pytest.raises(InputError, match="cannot be written there"):
        write_table(summary_table(MIXED, "maximize"), tmp_path / "table.csv")
    assert (tmp_path / "table.csv").is_dir()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder in which no file can be created")
def test_folder_that_is_not_writable_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_table(summary_table(MIXED, "maximize"), Path("/proc/table.csv"))
