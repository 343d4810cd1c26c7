"""The study files that come with the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import load_study_file
from pipeline.data import load
from pipeline.data.degrade import input_size
from pipeline.search.samplers import check

FOLDER = Path(__file__).parents[1] / "studies"
FILES = sorted(FOLDER.glob("*.toml"))


def test_there_are_study_files() -> None:
    names = {file.stem for file in FILES}
    assert {"quickstart", "denoise", "superres", "report-denoise", "report-superres"} <= names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_study_passes_all_checks(file: Path) -> None:
    study = load_study_file(file)
    check(study.config)
    assert study.config.name == file.stem
    input_size((28, 28), study.config.degrade)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_study_begins_with_its_question_and_its_result(file: Path) -> None:
    head = file.read_text().partition("\nname")[0].splitlines()
    assert all(line.startswith("#") for line in head if line)
    text = " ".join(line.lstrip("# ") for line in head)
    for word in ("study run studies/" + file.name, "Question:", "Result:", "Time:"):
        assert word in text, word


@pytest.mark.parametrize("file", [f for f in FILES if f.stem.startswith("report-")], ids=lambda file: file.stem)
def test_the_configurations_of_the_report_are_single_trials(file: Path) -> None:
    config = load_study_file(file).config
    assert config.budget.trials == 1
    assert config.space.searched() == []


def test_quickstart_searches_the_main_choices_on_the_embedded_digits(tmp_path: Path) -> None:
    config = load_study_file(FOLDER / "quickstart.toml").config
    assert config.dataset == "mnist-5k"
    assert config.budget.trials >= 16
    assert {"bottleneck", "activation", "loss", "optimizer"} <= set(config.space.searched())
    assert set(config.space.reachable("loss")) == {"bce", "mse", "l1"}
    assert len(load(config.dataset, tmp_path).train) == 3500
