"""`study replicate`: the best configurations trained again with other seeds, resumed, ranked, promoted, repaired."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from studies_for_tests import Launcher, Place, copied, history, labelled_panel, panels, study, untimed

from pipeline.evaluation.intervals import t_interval
from pipeline.results.promote import promote
from pipeline.results.summary import summarise
from pipeline.search.records import ranked
from pipeline.search.replicates import Replicate, stored_replicates
from pipeline.tracking.registry import load_champion, registered

pytest_plugins = ["study_fixtures"]

TOP, SEEDS, EPOCHS = 2, 3, 3
ASKED = ("--top", str(TOP), "--seeds", str(SEEDS), "--workers", "0")


def replicate(place: Place, *arguments: str) -> str:
    done = study("replicate", "small", *(arguments or ASKED), *place.options)
    assert done.code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def replicated(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The small study with its best trials replicated without interruption. Tests must not change it."""
    place = copied(finished, tmp_path_factory.mktemp("replicated"))
    replicate(place)
    return place


@pytest.fixture
def replicated_copy(replicated: Place, tmp_path: Path) -> Place:
    return copied(replicated, tmp_path)


def facts(place: Place) -> dict[Replicate, Any]:
    """Everything about the replicates that must not depend on how they were run."""
    runs = {run.data.tags["trial.uid"].partition("-")[2]: run for run in place.runs("replicate")}
    found = {}
    for key, trial in stored_replicates(place.search()).items():
        run = runs.pop(f"{key.trial}-replicate-{key.epochs}-{key.seed}")
        assert run.info.run_id == trial.summary.run_id
        steps = untimed(history(place, run))
        summary = trial.summary
        figures = (summary.epochs, summary.best_epoch, untimed(summary.metrics), summary.weights_sha256)
        pictures = (panels(place, run), panels(place, run, "restored"), labelled_panel(place, run))
        found[key] = (trial.state, trial.value, trial.reported, figures, steps, pictures, run.info.status)
    assert not runs, "a replicate has two runs, or one that Optuna does not know"
    return found


def run_of(place: Place, key: Replicate) -> Run:
    return place.client().get_run(stored_replicates(place.search())[key].summary.run_id)


def test_replicates_have_other_seeds_and_runs_under_their_trial(replicated: Place) -> None:
    search, found = replicated.search(), stored_replicates(replicated.search())
    best = ranked(search.records(), "maximize")[:TOP]
    assert set(found) == {Replicate(trial.number, EPOCHS, seed) for trial in best for seed in range(1, SEEDS + 1)}
    for trial in best:
        values = [found[Replicate(trial.number, EPOCHS, seed)].value for seed in range(1, SEEDS + 1)]
        assert len({trial.value, *values}) == SEEDS + 1
        for seed in range(1, SEEDS + 1):
            run = run_of(replicated, Replicate(trial.number, EPOCHS, seed))
            assert run.data.tags["mlflow.parentRunId"] == trial.summary.run_id
            assert run.data.tags["study.role"] == "replicate"
            assert run.info.run_name == f"trial-{trial.number:04d}-seed-{seed}"
            parent = replicated.client().get_run(trial.summary.run_id)
            own = {"replicate": str(seed)}
            assert run.data.params == parent.data.params | own
            assert run.data.tags["study.file_sha256"] == parent.data.tags["study.file_sha256"]
    assert list((replicated.path / "checkpoints").rglob("*.safetensors")) == []
    assert study("doctor", *replicated.options).code == 0


def test_the_leaderboard_ranks_by_the_mean_of_seeds(replicated: Place) -> None:
    summary = summarise(replicated.search())
    first, *_ = configurations = list(summary.configurations.values())
    assert [trial.number for trial in summary.ranked[:TOP]] == [each.trial.number for each in configurations]
    values = [trial.value for trial in first.seeds.values() if trial.value is not None]
    assert first.interval == t_interval(values)
    assert first.seeds[first.median].value == sorted(values)[1]
    assert f"{first.interval.mean:.2f}" in study("show", "small", *replicated.options).stdout
    rows = json.loads(study("show", "small", "--json", *replicated.options).stdout)["trials"]
    assert rows[0]["number"] == first.trial.number
    assert rows[0]["seeds"] == SEEDS
    assert (rows[0]["seeds_mean"], rows[0]["seeds_low"]) == (first.interval.mean, first.interval.low)
    assert "the mean of 3 seeds with its 95 % interval" in " ".join(summary.answer())


def test_the_new_ranking_is_published(replicated: Place) -> None:
    summary = summarise(replicated.search())
    assert replicated.search().published == replicated.search().told()
    [run] = replicated.runs("study")
    files = replicated.study_artifacts / run.info.run_id / "artifacts"
    table = (files / "leaderboard.csv").read_text().splitlines()
    names, first = (dict(enumerate(line.split(","))) for line in table[:2])
    row = {name: first[place] for place, name in names.items()}
    assert (row["number"], row["seeds"]) == (str(summary.ranked[0].number), str(SEEDS))
    ranks = {run.data.tags["trial.number"]: run.data.tags.get("rank") for run in replicated.runs("trial")}
    assert [ranks[str(trial.number)] for trial in summary.ranked] == [str(i + 1) for i in range(len(summary.ranked))]
    page = (files / "report.html").read_text()
    assert "Other seeds of the best configurations" in page
    assert (files / "plots" / "seeds.png").stat().st_size > 0


def test_called_again_it_adds_only_what_is_missing(replicated_copy: Place) -> None:
    before = facts(replicated_copy)
    replicate(replicated_copy)
    assert facts(replicated_copy) == before
    replicate(replicated_copy, "--top", "1", "--seeds", str(SEEDS + 1), "--workers", "0")
    replicate(replicated_copy, "--top", "1", "--seeds", "2", "--epochs", "4", "--workers", "0")
    after = facts(replicated_copy)
    assert {key: value for key, value in after.items() if key in before} == before
    best = ranked(replicated_copy.search().records(), "maximize")[0].number
    assert set(after) - set(before) == {Replicate(best, EPOCHS, 4), Replicate(best, 4, 1), Replicate(best, 4, 2)}
    assert run_of(replicated_copy, Replicate(best, 4, 1)).info.run_name == f"trial-{best:04d}-seed-1-4-epochs"
    assert summarise(replicated_copy.search()).configurations[best].epochs == 4
    replicated_copy.run()
    assert facts(replicated_copy) == after
    reproduced = study(
        "reproduce", run_of(replicated_copy, Replicate(best, 4, 2)).info.run_id, *replicated_copy.options
    )
    assert "identical" in reproduced.stdout


def test_the_median_replicate_is_promoted(replicated_copy: Place) -> None:
    place = replicated_copy
    first, second = summarise(place.search()).configurations.values()
    done = promote(place.home, "small", second.trial.number, force=True)
    assert done.run_id == second.seeds[second.median].summary.run_id
    assert done.verdict.candidate == f"trial {second.trial.number} seed {second.median}, the median of {SEEDS} seeds"
    [version] = registered(place.home)
    assert (version.tags["replicate"], version.tags["trial.number"]) == (str(second.median), str(second.trial.number))
    assert not load_champion(place.home, "small").training
    assert study("doctor", *place.options).code == 0
    client = place.client()
    client.set_model_version_tag("small", "1", "zz.weights.sha256", "0" * 64)
    assert study("doctor", "--repair", *place.options).code == 0
    assert registered(place.home)[0].tags["zz.weights.sha256"] == version.tags["zz.weights.sha256"]

    better = promote(place.home, "small", force=True)
    assert better.run_id == first.seeds[first.median].summary.run_id
    assert better.verdict.configurations is not None
    assert better.verdict.configurations.rival == f"trial {second.trial.number} of small"
    assert "over seeds and images, this configuration against" in better.verdict.about_configurations
    assert f"the mean of {SEEDS} seeds" in place.client().get_model_version("small", "2").description


def test_lost_weights_of_a_seed_leave_the_configurations_uncompared(replicated_copy: Place) -> None:
    place = replicated_copy
    first, second = summarise(place.search()).configurations.values()
    promote(place.home, "small", second.trial.number, force=True)
    lost = next(trial for seed, trial in second.seeds.items() if seed != second.median)
    (place.study_artifacts / lost.summary.run_id / "artifacts" / "weights.safetensors").unlink()
    done = promote(place.home, "small", first.trial.number, force=True)
    assert done.verdict.configurations is None
    assert done.run_id == first.seeds[first.median].summary.run_id


def test_doctor_knows_replicates(replicated_copy: Place) -> None:
    place, before = replicated_copy, facts(replicated_copy)
    one, two, *_ = before
    client, runs = place.client(), {key: run_of(place, key).info.run_id for key in before}
    client.delete_run(runs[one])
    client.set_tag(runs[two], "trial.uid", "edited")
    client.log_metric(runs[two], "best/psnr", 99.0)
    assert study("doctor", *place.options).code == 1
    repaired = study("doctor", "--repair", *place.options)
    assert repaired.code == 0, repaired.stdout
    assert run_of(place, two).data.metrics["best/psnr"] < 99
    assert study("doctor", *place.options).code == 0
    assert {run.info.run_id for run in place.runs("replicate")} == set(runs.values())


@pytest.mark.slow
@pytest.mark.parametrize("statement", [("INSERT INTO study_user_attributes", 5), ("INSERT INTO latest_metrics", 6)])
def test_killed_and_resumed_with_workers_the_numbers_are_the_same(
    statement: tuple[str, int], replicated: Place, finished_copy: Place, launcher: Launcher
) -> None:
    command = ["replicate", "small", "--top", str(TOP), "--seeds", str(SEEDS), *finished_copy.options]
    killed = launcher.run(*command, "--workers", "2", kill_before=statement)
    assert killed.code() < 0, killed.stderr
    resumed = launcher.run(*command, "--workers", "0")
    assert resumed.code() == 0, resumed.stderr
    assert facts(finished_copy) == facts(replicated)
    assert study("doctor", *finished_copy.options).code == 0


def test_what_cannot_be_replicated_is_refused(place: Place) -> None:
    assert "there is no study" in study("replicate", "small", *place.options).stderr
    changes = ["enqueue=[]", "train.optimizer=sgd", "train.lr=1e9"]
    place.run(*changes, trials=1)
    refused = study("replicate", "small", *place.options)
    assert (refused.code, refused.stderr) == (2, "error: study small has no complete trial to replicate\n")
    assert study("replicate", "small", "--seeds", "1", *place.options).code == 2
