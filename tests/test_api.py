"""The Python interface, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from studies_for_tests import TRIALS, Place, assert_sound, new_place

import pipeline
from pipeline.errors import InputError, NotFoundError
from pipeline.home import open_home

ROOT = Path(__file__).parents[1]
pytest_plugins = ["study_fixtures"]


def test_a_study_is_run_and_its_champion_restores_images(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    study = pipeline.run(place.file, trials=2, home=place.path)
    table = study.dataframe()
    assert len(table) == 2
    assert {"rank", "objective", "val/psnr", "optimizer", "run_id"} <= set(table.columns)
    assert len(study.optuna.trials) == 2
    assert study.optuna.trials[0].state == optuna.trial.TrialState.FAIL
    assert "trial" in capsys.readouterr().out

    from pipeline.results.promote import promote

    promote(place.home, "small", force=True)
    restore = pipeline.load_model("small", home=place.path).eval()
    assert not restore.training
    degraded = torch.rand(5, 1, 4, 4)
    with torch.inference_mode():
        restored = restore(degraded)
    assert restored.shape == (5, 1, 28, 28)
    assert 0 <= restored.min() <= restored.max() <= 1


def test_a_finished_study_is_loaded_by_name(finished: Place) -> None:
    assert len(pipeline.load_study("small", home=finished.path).dataframe()) == TRIALS
    with pytest.raises(NotFoundError, match="small"):
        pipeline.load_study("other", home=finished.path)


def test_a_study_may_be_in_another_database_than_the_homes(place: Place, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'trials.db'}"
    pipeline.run(place.file, trials=1, home=place.path, storage=storage)
    assert len(pipeline.load_study("small", home=place.path, storage=storage).dataframe()) == 1
    with pytest.raises(NotFoundError):
        pipeline.load_study("small", home=place.path)
    with pytest.raises(InputError, match="--tracking-uri ftp:"):
        pipeline.load_model("small", home=place.path, tracking_uri="ftp://nowhere")


def test_the_example_in_the_readme_runs_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    pipeline.run(ROOT / "studies" / "quickstart.toml", trials=2, overrides=["budget.epochs=1"])

    from pipeline.results.promote import promote

    promote(open_home(), "quickstart", force=True)
    names: dict[str, Any] = {}
    exec(example, names)
    assert list(names["table"]["rank"]) == [1, 2]
    assert names["restored"].shape == (4, 1, 28, 28)
    assert [path.name for path in tmp_path.iterdir()] == ["mlruns"]


def test_no_other_name_is_public() -> None:
    assert sorted(pipeline.__all__) == ["load_model", "load_study", "run"]
    with pytest.raises(AttributeError):
        _ = pipeline.anything  # type: ignore[attr-defined]


def test_a_program_may_use_more_than_one_home(migrated: Path, tmp_path: Path) -> None:
    places = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        places.append(new_place(migrated, tmp_path / name))
        pipeline.run(places[-1].file, trials=1, home=places[-1].path)
    for place in places:
        assert_sound(place, 1)
