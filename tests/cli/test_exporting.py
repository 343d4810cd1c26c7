"""The command ``export``: where the table goes, in which format, and what is refused before anything is written."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from studies_for_tests import TRIALS, Place
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.results.export import FORMATS

pytest_plugins = ["study_fixtures"]
Export = Callable[..., Result]


@pytest.fixture
def export(finished: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Run the command on the finished study, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, ["export", "small", *words, *finished.options])


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("form", FORMATS)
def test_a_file_has_the_bytes_that_standard_output_gets(form: str, export: Export, tmp_path: Path) -> None:
    assert export("-o", f"table.{form}").exit_code == 0
    assert export("--format", form).stdout_bytes == (tmp_path / f"table.{form}").read_bytes()
    assert export("-o", f"AGAIN.{form.upper()}", "--format", form).exit_code == 0
    assert (tmp_path / f"AGAIN.{form.upper()}").read_bytes() == (tmp_path / f"table.{form}").read_bytes()
    assert export("-o", "plain", "--format", form).exit_code == 0
    assert (tmp_path / "plain").read_bytes() == (tmp_path / f"table.{form}").read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([f"table.{form}", f"AGAIN.{form.upper()}", "plain"])


def test_standard_output_gets_csv_and_nothing_else(export: Export) -> None:
    done = export()
    assert (done.exit_code, done.stderr) == (0, "")
    assert [row["rank"] for row in rows(done.stdout)][:2] == ["1", "2"]
    assert len(rows(done.stdout)) == TRIALS


def test_options_choose_rows_and_columns(export: Export) -> None:
    assert [list(row) for row in rows(export("--columns", "number, val/psnr", "--top", "2").stdout)] == [
        ["number", "val/psnr"],
        ["number", "val/psnr"],
    ]
    states = {row["state"] for row in rows(export("--state", "failed,pruned").stdout)}
    assert states
    assert states <= {"FAIL", "PRUNED"}
    named = [row["baseline"] for row in rows(export("--baselines").stdout) if row["state"] == "BASELINE"]
    assert "linear" in named
    assert "linear" in export("--format", "md").stdout
    assert "linear" not in export("--format", "md", "--no-baselines").stdout
    groups = json.loads(export("--by", "optimizer", "--format", "json").stdout)
    assert list(groups[0]) == ["optimizer", "n", "mean", "sd", "best"]
    assert list(json.loads(export("--by", "optimizer", "--columns", "n", "--format", "json").stdout)[0]) == ["n"]


REFUSED = {
    "an unknown suffix": (("-o", "table.xlsx"), ".csv, .md, .tex, .html, .json, .parquet"),
    "no suffix": (("-o", "table"), "no suffix"),
    "a contradiction": (("-o", "table.md", "--format", "csv"), "contradicts --format csv; allowed: .csv, or no suffix"),
    "an unknown format": (("--format", "xlsx"), "'parquet'"),
    "an absent folder": (("-o", "absent/table.csv"), "folder that exists"),
    "nearly a column": (("--columns", "val/psn"), "did you mean 'val/psnr'?"),
    "an unknown column": (("-o", "table.csv", "--columns", "rank,val/psn"), "allowed: rank, number, state"),
    "an unknown state": (("-o", "table.csv", "--state", "done"), "allowed: complete, pruned, failed, unfinished"),
    "a key that is not searched": (("-o", "table.csv", "--by", "depth"), "allowed: "),
    "a key and a number of trials": (("-o", "table.csv", "--by", "lr", "--top", "3"), "leave out --top"),
    "no trial": (("--top", "0"), "greater than or equal to 1"),
    "a device": (("-o", "/dev/null", "--format", "csv"), "cannot be written there"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_written(case: str, export: Export, tmp_path: Path) -> None:
    words, says = REFUSED[case]
    done = export(*words)
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stdout == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_parquet_is_refused_on_a_terminal_and_written_to_a_pipe(finished: Place, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline", "export", "small", "--format", "parquet", *finished.options]
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2
    assert "write it to a file with -o" in done.stderr.decode()
    piped = subprocess.run(command, stdout=subprocess.PIPE, cwd=tmp_path, check=True)
    assert len(pd.read_parquet(io.BytesIO(piped.stdout))) == TRIALS
