"""What MLflow holds of a study as a whole: ranks, colours, notes, saved views, and the study's own run."""

from __future__ import annotations

import base64
import json
import signal
import zlib
from typing import Any

import numpy as np
from studies_for_tests import Launcher, Place, artifact, assert_sound, study

from pipeline.results.export import render
from pipeline.results.figures import COLOURS, GREY
from pipeline.results.pictures import WIDEST, contact_sheet
from pipeline.results.summary import summarise
from pipeline.results.table import study_table
from pipeline.search.records import EndedTrial
from pipeline.tracking.views import VIEWS, Views, view_tags

pytest_plugins = ["study_fixtures"]


def best(place: Place) -> list[EndedTrial]:
    return summarise(place.search()).ranked


def tags(place: Place, key: str) -> dict[int, str]:
    """The values of a tag by trial, of those that have it."""
    runs = {int(run.data.tags["trial.number"]): run.data.tags for run in place.runs("trial")}
    return {number: found[key] for number, found in runs.items() if key in found}


def read_view(tag: str) -> dict[str, Any]:
    """The state that a saved view's tag holds."""
    packed = json.loads(tag)["state"].removeprefix("deflate;")
    return dict(json.loads(zlib.decompress(base64.b64decode(packed))))


def state(place: Place, view: str) -> dict[str, object]:
    experiment = place.client().get_experiment_by_name("small")
    assert experiment is not None
    return read_view(experiment.tags[f"mlflow.sharedViewState.{view}"])


def test_complete_trials_have_ranks_and_the_best_have_colours_and_notes(finished: Place) -> None:
    numbers = [trial.number for trial in best(finished)]
    assert tags(finished, "rank") == {number: str(rank) for rank, number in enumerate(numbers, 1)}
    colours = tags(finished, "mlflow.runColor")
    assert [colours.pop(number) for number in numbers] == list(COLOURS[: len(numbers)])
    assert set(colours.values()) == {GREY}
    notes = tags(finished, "mlflow.note.content")
    assert sorted(notes) == sorted(numbers)
    for trial in best(finished):
        assert f"Trial {trial.number} of small" in notes[trial.number]
        assert f"/runs/{trial.summary.run_id}/artifacts/panel.png" in notes[trial.number]


def test_the_notes_hold_the_answer_the_table_and_links_to_the_views(finished: Place) -> None:
    experiment = finished.client().get_experiment_by_name("small")
    assert experiment is not None
    note = experiment.tags["mlflow.note.content"]
    summary = summarise(finished.search())
    first, _, rest = note.partition("\n")
    for view in VIEWS:
        assert f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={view}&" in first
    assert summary.answer()[0] in rest.replace("\\", "")
    assert "| rank" in rest
    assert f"study reproduce small/{best(finished)[0].number}" in rest
    (run,) = finished.runs("study")
    assert "2 complete, 2 pruned, 2 failed" in run.data.tags["mlflow.note.content"]
    assert not run.data.metrics


def test_the_views_are_of_this_study(finished: Place) -> None:
    leaderboard, charts, pictures = (state(finished, view) for view in VIEWS)
    columns = leaderboard["selectedColumns"]
    for column in ("metrics.`best/psnr`", "params.`bottleneck`", "params.`lr`", "tags.`trial.reason`"):
        assert column in columns
    drawn = {chart["type"]: chart for chart in charts["compareRunCharts"] if not chart["deleted"]}
    # `negative_slope` is of some trials only: MLflow would leave out the others
    assert drawn["PARALLEL"]["selectedParams"] == ["bottleneck", "activation", "optimizer", "lr"]
    deleted = {chart.get("metricKey") for chart in charts["compareRunCharts"] if chart["deleted"]}
    assert {"time/epoch_s", "best/psnr", "best_epoch"} <= deleted
    worst = best(finished)[-1]
    assert pictures["searchFilter"].endswith(f"metrics.`best/psnr` >= {worst.value!r}")
    assert pictures["orderByAsc"], "MLflow draws the last of the table first"


def test_where_less_is_better_the_order_is_the_other_way_round() -> None:
    made = view_tags(Views("best/mse", True, (), ("val/mse",), (), (), (), 0.5), 0)
    leaderboard, charts, pictures = (read_view(tag) for tag in made.values())
    assert leaderboard["orderByAsc"]
    assert not pictures["orderByAsc"]
    assert pictures["searchFilter"].endswith("metrics.`best/mse` <= 0.5")
    assert "PARALLEL" not in [chart["type"] for chart in charts["compareRunCharts"]], "nothing is searched"


def test_a_study_that_grows_is_published_again(finished_copy: Place) -> None:
    before = tags(finished_copy, "mlflow.note.content")
    changed = f"{before[best(finished_copy)[0].number]} My remark."
    client = finished_copy.client()
    client.set_tag(best(finished_copy)[0].summary.run_id, "mlflow.note.content", changed)
    first = best(finished_copy)[0]
    finished_copy.run(trials=8, report=True)
    numbers = [trial.number for trial in best(finished_copy)]
    assert tags(finished_copy, "rank") == {number: str(rank) for rank, number in enumerate(numbers, 1)}
    assert tags(finished_copy, "mlflow.note.content")[first.number] == changed, "a user's remark stays"
    (run,) = finished_copy.runs("study")
    summary = summarise(finished_copy.search())
    table = artifact(finished_copy, run, "leaderboard.csv").read_bytes()
    assert table == render(study_table(summary, baselines=True), "csv")
    assert "<svg" in artifact(finished_copy, run, "report.html").read_text()
    plot, *_ = artifact(finished_copy, run, "plots").glob("*.png")

    plot.unlink()
    artifact(finished_copy, run, "report.html").unlink()
    found = study("doctor", *finished_copy.options).stdout
    assert f"plots/{plot.name}, report.html are lost; the next `study run` makes it again" in found
    assert study("doctor", "--repair", *finished_copy.options).code == 0
    finished_copy.run(report=True)
    assert plot.exists()
    assert artifact(finished_copy, run, "report.html").exists()


def test_killed_while_it_is_published_and_run_again(place: Place, launcher: Launcher) -> None:
    killed = launcher.run(*place.arguments("--workers", "0"), kill_before=("UPDATE experiment_tags", 2))
    assert killed.code() == -signal.SIGKILL, killed.stderr
    assert tags(place, "rank"), "it was killed between ranks and views"
    place.run()
    assert tags(place, "rank") == {trial.number: str(rank) for rank, trial in enumerate(best(place), 1)}
    assert all(state(place, view)["searchFilter"] for view in VIEWS)
    assert_sound(place)


def test_contact_sheets_fit_a_note_whatever_the_images() -> None:
    for width, height in ((290, 30), (170, 18), (2000, 200)):
        strip = np.tile(np.arange(width, dtype=np.uint8), (height, 1))
        sheet = contact_sheet({"clean": strip, "a $x$ b\npsnr 1.00 dB": strip})
        assert sheet.shape[1] <= WIDEST
        assert sheet.shape[0] >= 80
        assert sheet.dtype == np.uint8
