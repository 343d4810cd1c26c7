"""The Python interface, as the README shows it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from PIL import Image
from studies_for_tests import TRIALS, Place, assert_sound, new_place

import pipeline
from pipeline.config.outcomes import WEIGHTS_FILE
from pipeline.errors import InputError, NotFoundError, ShapeError, TrackingError
from pipeline.home import open_home
from pipeline.search.records import ranked
from pipeline.tracking.runs import read_run, restorer_of

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


def test_the_best_trial_is_looked_at_and_restores_pictures(finished: Place) -> None:
    """With the figures of its run, and as the weights that MLflow holds restore."""
    study = pipeline.load_study("small", home=finished.path)
    best, record = study.best, ranked(finished.search().records(), "maximize")[0]
    assert (best.number, best.run_id) == (record.number, record.summary.run_id)
    assert best.configuration["optimizer"] == record.params["optimizer"]
    assert "alpha" not in best.configuration  # has no effect with these activations
    assert best.figures["val/psnr"] == record.value
    assert best.figures["parameters"] == record.summary.cost["parameters"]

    batch = torch.rand(3, 1, 4, 4)
    restored = best.restore(batch)
    assert (restored.shape, restored.dtype) == ((3, 1, 28, 28), torch.float32)
    assert not restored.requires_grad
    model = restorer_of(read_run(finished.home, best.run_id), record.summary.weights_sha256)
    with torch.inference_mode():
        torch.testing.assert_close(restored, model(batch))
    torch.testing.assert_close(best.restore(batch[1, 0]), restored[1, 0])
    array = best.restore(batch.double().numpy())
    assert (type(array), array.dtype) == (np.ndarray, np.float64)
    np.testing.assert_allclose(array, restored.numpy(), atol=1e-6)

    pixels = np.arange(0, 256, 16, dtype=np.uint8).reshape(4, 4)
    alone = best.restore(pixels)
    assert (alone.dtype, alone.shape) == (np.uint8, (28, 28))
    np.testing.assert_allclose(alone / 255, best.restore(pixels / 255), atol=0.5 / 255 + 1e-6)
    picture = best.restore(Image.fromarray(pixels))
    assert (picture.mode, picture.size) == ("L", (28, 28))
    np.testing.assert_array_equal(np.asarray(picture), alone)


WRONG: dict[str, tuple[Any, str]] = {
    "another size": (np.zeros((28, 28)), r"shape \[28, 28\].*allowed: \[4, 4\] or \[N, 1, 4, 4\]"),
    "no channel": (torch.zeros(2, 4, 4), r"shape \[2, 4, 4\]"),
    "three channels": (torch.zeros(2, 3, 4, 4), r"shape \[2, 3, 4, 4\]"),
    "whole numbers": (np.zeros((4, 4), int), "int64 cannot be restored; allowed: floats"),
    "text": (np.array([["a"]]), "array of <U1"),
    "a list": ([[0.0]], "a list cannot be restored"),
    "a picture of another size": (Image.new("RGB", (5, 4)), r"shape \[4, 5\]"),
}


def test_what_cannot_be_restored_is_refused_with_what_can(finished: Place) -> None:
    best = pipeline.load_study("small", home=finished.path).best
    for pictures, says in WRONG.values():
        with pytest.raises((ShapeError, InputError), match=says):
            best.restore(pictures)


def test_weights_that_are_not_those_of_the_record_restore_nothing(finished_copy: Place) -> None:
    study = pipeline.load_study("small", home=finished_copy.path)
    [file] = finished_copy.artifacts.glob(f"*/{study.best.run_id}/artifacts/{WEIGHTS_FILE}")
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(TrackingError, match="damaged"):
        study.best.restore(np.zeros((4, 4)))


def test_a_study_shows_its_leaderboard_and_draws_its_figures(finished: Place) -> None:
    study = pipeline.load_study("small", home=finished.path)
    for shown in (repr(study), study._repr_html_()):
        assert "bicubic" in shown
        assert f"{study.best.figures['val/psnr']:.2f}" in shown
    assert str(finished.path) not in repr(study)
    for kind in ("curves", "front", "restorations"):
        assert study.plot(kind).axes
    with pytest.raises(InputError, match=r"unknown plot 'slice'; allowed: curves, front, restorations; .*\.optuna"):
        study.plot("slice")


def test_a_study_without_a_complete_trial_says_so(place: Place) -> None:
    study = pipeline.run(place.file, trials=1, home=place.path)  # the trial that diverges
    assert "No trial is complete yet" in repr(study)
    with pytest.raises(NotFoundError, match="no complete trial"):
        _ = study.best
    with pytest.raises(InputError, match="nothing to draw as front"):
        study.plot("front")


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
