"""The command ``effects`` on a study in Optuna's database, whose trials have invented values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from studies_for_tests import study

from pipeline.config import StudyConfig
from pipeline.home import open_home
from pipeline.search.records import Summary
from pipeline.search.studies import open_search

LEVELS = {"bce": 0.0, "mse": 0.01, "l1": -0.5}
BLOCKS = 8


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the study ``losses``; its last block is not complete."""
    place = tmp_path_factory.mktemp("home")
    raw: dict[str, Any] = {
        "name": "losses",
        "dataset": "mnist-5k",
        "degrade": {"kind": "gaussian", "sigma": 0.5},
        "budget": {"epochs": 1},
        "sampler": {"name": "paired", "over": ["loss"], "blocks": BLOCKS + 1},
        "model": {"bottleneck": {"low": 8, "high": 256, "log": True}},
        "train": {"loss": list(LEVELS)},
    }
    config = StudyConfig.model_validate_json(json.dumps(raw))
    search = open_search(open_home(place), config, "0" * 32, {"data.sha256": "0" * 64, "device": "cpu"})
    search.baselines = {"degraded": {"val/psnr": 9.4}}
    for number in range(3 * BLOCKS + 1):
        trial = search.ask()
        value = 18 + LEVELS[str(trial.values["loss"])] + int(trial.values["bottleneck"]) / 100 + number % 5 / 100
        trial.report(1, value)
        search.tell(trial, "COMPLETE", value, Summary("", 1, 1, {"val/psnr": value}))
    return place


def test_it_shows_each_level_and_each_pair(home: Path) -> None:
    shown = study("effects", "losses", "--home", str(home))
    assert (shown.code, shown.stderr) == (0, "")
    assert shown.lines[0].startswith(f"{BLOCKS} blocks")
    assert any("mse has the best mean" in line and "better than l1" in line for line in shown.lines)
    assert sum(line.startswith(("mse  ", "bce  ", "l1  ")) for line in shown.lines) == 3 + 3


def test_it_prints_json(home: Path) -> None:
    [effect] = json.loads(study("effects", "losses", "--json", "--home", str(home)).stdout)["effects"]
    assert effect["key"] == "loss"
    assert {level["level"]: len(level["values"]) for level in effect["levels"]} == dict.fromkeys(LEVELS, BLOCKS)
    assert [pair["verdict"] for pair in effect["pairs"]].count("better than") == 2


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--by", "bottleneck"], 2, "not a compared key; allowed: loss"),
        (["--metric", "class_kept"], 2, "have no class_kept"),
        (["--margin", "0"], 2, "above 0"),
    ],
)
def test_it_refuses_in_a_line(home: Path, options: list[str], code: int, words: str) -> None:
    refused = study("effects", "losses", *options, "--home", str(home))
    assert (refused.code, refused.stdout) == (code, "")
    assert words in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
