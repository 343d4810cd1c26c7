"""Which trials' models are exported: the best ``keep_models``, and what a registered version names."""

from __future__ import annotations

import numpy as np
import pytest
from studies_for_tests import Place, assert_same_as, models, study

import pipeline
from pipeline.search.records import ranked
from pipeline.tracking.registry import registered

pytest_plugins = ["study_fixtures"]


def exported(place: Place) -> set[str]:
    """The trials that have an exported model, of which the files are there."""
    found = models(place)
    folders = {folder.name for folder in (place.study_artifacts / "models").glob("*")}
    assert folders == {model.model_id for model in found}
    return {place.client().get_run(model.source_run_id).data.tags["trial.number"] for model in found}


def assert_well(place: Place) -> None:
    assert study("doctor", *place.options).lines == [f"{place.path}: all is well"]


def test_the_models_of_the_best_are_exported_and_others_removed(finished: Place, finished_copy: Place) -> None:
    place = finished_copy
    best, other = (str(trial.number) for trial in ranked(place.search().records(), "maximize"))
    place.run("budget.keep_models=1")
    assert exported(place) == {best}
    assert_well(place)

    place.run("budget.keep_models=0")
    assert exported(place) == set()
    assert_well(place)
    loaded = pipeline.load_study("small", home=place.path)
    assert loaded.best.restore(np.zeros((4, 4), np.float32)).shape == (28, 28)
    assert study("evaluate", f"small/{other}", *place.options).code == 0

    assert study("promote", "small", "--trial", other, "--force", *place.options).code == 0
    place.run("budget.keep_models=0")
    assert exported(place) == {other}
    pipeline.load_model("small", home=place.path)
    assert_well(place)

    place.run("budget.keep_models=2")
    assert exported(place) == {best, other}
    assert [version.aliases for version in registered(place.home)] == [("champion",)]
    assert_same_as(finished, place)


@pytest.mark.parametrize("value", ["-1", "1.5", "'some'"])
def test_a_wrong_number_of_models_is_refused(place: Place, value: str) -> None:
    done = study(*place.arguments("--set", f"budget.keep_models={value}"))
    assert (done.code, "keep_models" in done.stderr) == (2, True), done
