"""What is done to a store in MLflow's UI while a study runs."""

from __future__ import annotations

import pytest
from studies_for_tests import Place, Recorder, assert_sound, facts, study

from pipeline.tracking.experiments import experiment_names

pytest_plugins = ["study_fixtures"]


@pytest.mark.parametrize(("kind", "count"), [("epoch", 2), ("epoch", 6)])
def test_runs_that_are_deleted_are_restored(finished: Place, place: Place, kind: str, count: int) -> None:
    def delete(event: tuple[object, ...]) -> None:
        if event[0] == kind and len(recorder.kind(kind)) == count:
            for run in place.runs("trial"):
                if run.info.status == "RUNNING":
                    deleted.append(run.info.run_id)
                    place.client().delete_run(run.info.run_id)

    deleted: list[str] = []
    recorder = Recorder(delete)
    place.run(reporter=recorder)
    notes = [text for (text,) in recorder.kind("note") if "restored" in text]
    assert deleted
    assert sorted(notes) == sorted(
        f"run {run} was deleted in MLflow while its study runs; it is restored" for run in deleted
    )
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_a_study_may_be_named_as_what_was_deleted(place: Place) -> None:
    name = "deleted-1-small"  # 1 is the number of its experiment
    home = ("--home", str(place.path))
    chosen = ("enqueue=[]", "model.bottleneck=16", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")
    place.run(*chosen, "budget.epochs=1", name=name, trials=1)
    assert experiment_names(place.home) == {name}
    assert study("delete", "small", *home, "--yes").code == 2
    assert study("delete", name, *home, "--yes").code == 0
    assert experiment_names(place.home) == set()
