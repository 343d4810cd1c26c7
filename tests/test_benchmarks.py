"""The benchmarks start, and those that train compare the same work. Nothing is timed here."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import load_study_file
from pipeline.data import load
from pipeline.epoch import build_model

BENCHMARKS = Path(__file__).parent / "benchmarks"
COMMANDS = sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "measure")


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(BENCHMARKS / "rivals")


def names(path: str) -> dict[str, Any]:
    return runpy.run_path(str(BENCHMARKS / path))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_benchmark_explains_itself(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(BENCHMARKS / f"{command}.py"), run_name="__main__")
    assert f"python tests/benchmarks/{command}.py" in capsys.readouterr().out


def test_a_loaded_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    measure = names("measure.py")
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0))
    parser = measure["options"]("", runs=1)
    with pytest.raises(SystemExit, match="--loaded"):
        measure["begin"](parser.parse_args([]))
    measure["begin"](parser.parse_args(["--loaded"]))


def test_results_are_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure = names("measure.py")
    arguments = measure["options"]("", runs=2).parse_args(["--json", str(tmp_path / "found.json")])
    values = iter([9.0, 9.0, 1.0, 4.0, 6.0, 2.0])  # both warm-ups; then a, b; then b, a
    times = measure["in_turn"]({"a": lambda: next(values), "b": lambda: next(values)}, arguments.runs)
    measure["report"]("Two variants", measure["compared"](times, "seconds"), arguments, images=128)
    stored = json.loads((tmp_path / "found.json").read_text())
    (table,) = stored["tables"]
    assert [row["seconds"]["median"] for row in table["rows"]] == [1.5, 5.0]
    assert table["rows"][1]["ratio"] == {"n": 2, "median": 3.5, "least": 3.0, "greatest": 4.0}
    assert stored["machine"]["torch"] == torch.__version__.partition("+")[0]
    assert "3.5 (3 to 4)" in capsys.readouterr().out


def test_fit_compares_the_same_training(tmp_path: Path) -> None:
    fit = names("fit.py")
    data = fit["shortened"](load("mnist-5k", tmp_path), 256)
    config = fit["trial"](data.name, "linear", "float32", 64, "cpu")
    _, own = fit["this_project"](config, data, False)
    _, bare = fit["bare"](config, data, False)
    assert own == pytest.approx(bare, abs=0.02)  # other noise, another order


def test_study_gives_every_program_the_same_network(tmp_path: Path) -> None:
    study, denoiser = names("study.py"), names("rivals/denoiser.py")
    (tmp_path / "bench.toml").write_text(study["study_file"](trials=3, epochs=1))
    config = load_study_file(tmp_path / "bench.toml").config
    wanted = study["configurations"](3)
    assert [{key: entry[key] for key in ("bottleneck", "lr")} for entry in config.enqueue] == wanted
    fit = names("fit.py")
    data = fit["shortened"](load("mnist-5k", tmp_path), 64)
    for entry in wanted:
        trial = fit["trial"](data.name, "linear", "float32", 64, "cpu")
        trial = trial.model_copy(update={"model": trial.model.model_copy(update={"bottleneck": entry["bottleneck"]})})
        own, rival = build_model(trial, data), denoiser["build_model"](entry["bottleneck"])
        assert [p.shape for p in own.parameters()] == [p.shape for p in rival.parameters()]
