"""The command ``plan`` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studies_for_tests import Launcher

pytest_plugins = ["study_fixtures"]
STUDIES = Path(__file__).parents[2] / "studies"


@pytest.mark.slow
def test_a_plan_fits_on_a_page_and_writes_nothing(launcher: Launcher, tmp_path: Path) -> None:
    file = str(STUDIES / "quickstart.toml")
    made = launcher.run("plan", file, "--workers", "4", "--home", str(tmp_path / "home"), cwd=tmp_path)
    assert made.code() == 0, made.stderr
    assert list(tmp_path.iterdir()) == []
    assert len(made.stdout.splitlines()) <= 40
    for words in (
        "12 parameters",
        "bottleneck@conv",
        "smallest",
        "largest",
        "without pruning",
        "with pruning",
        "4 workers",
    ):
        assert words in made.stdout, words
    assert "warning: at most 4 open trials for 4 workers" in made.stdout

    text = launcher.run("plan", file, "--set", "budget.trials=3", "--name", "other", "--json", cwd=tmp_path)
    document = json.loads(text.stdout)
    assert (document["name"], document["config"]["budget"]["trials"]) == ("other", 3)
    assert 0 < document["seconds"]["least"] < document["seconds"]["most"]
    assert list(tmp_path.iterdir()) == []


def test_absent_data_are_not_downloaded(launcher: Launcher, tmp_path: Path) -> None:
    file, data = str(STUDIES / "denoise.toml"), str(tmp_path / "data")
    refused = launcher.run("plan", file, "--data-dir", data, cwd=tmp_path)
    assert refused.code() == 2
    assert "mnist: " in refused.stderr
    assert "study prepare" in refused.stderr
    assert len(refused.stderr.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []
