"""Tags, metrics and runs that people edited or deleted in MLflow's UI: found, said, and repaired from Optuna's summary.

No repair trains anything again, and no command ends with a traceback.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, ViewType
from studies_for_tests import (
    TRIALS,
    Place,
    Recorder,
    artifact,
    assert_sound,
    facts,
    labelled_panel,
    new_place,
    panels,
    study,
)

from pipeline.api import run_study
from pipeline.config import load_study_file
from pipeline.errors import Interrupted
from pipeline.home import open_home
from pipeline.study.driver import Options
from pipeline.study.single import Training, train_one
from pipeline.tracking.runs import metric_histories, read_run

pytest_plugins = ["study_fixtures"]

EXPERIMENT_TAGS = ("study.name", "study.uid", "study.home")
GARBAGE = "{'not json: \x1b[31m]"
TAGS = ("study.role", "trial.uid", "trial.number", "trial.state", "zz.trial.config", "study.name", "data.sha256")


def doctored(place: Place, findings: int, *said: str) -> None:
    """Check that `doctor` finds and says these, repairs all of them in one pass and without training."""
    home = ("--home", str(place.path))
    found = study("doctor", *home)
    assert (found.code, len(found.lines)) == (1, findings), found
    assert all(text in found.stdout for text in said), found.stdout
    repaired = study("doctor", "--repair", *home)
    assert (repaired.code, repaired.stderr, "training trial" in repaired.stdout) == (0, "", False), repaired
    assert [line.count("repaired: ") for line in repaired.lines] == [1] * findings, repaired
    after = study("doctor", *home)
    assert (after.code, after.lines) == (0, [f"{place.path}: all is well"]), after


def trial_run(place: Place, state: str, last: bool = False) -> Run:
    """The first or the last run of a trial that ended in this state."""
    return [run for run in place.runs("trial") if run.data.tags["trial.state"] == state][-1 if last else 0]


def retag(place: Place, run: Run, **tags: str | None) -> None:
    """Set tags of a run, or delete those that are None; ``__`` stands for a dot."""
    for key, value in tags.items():
        name = key.replace("__", ".")
        if value is None:
            place.client().delete_tag(run.info.run_id, name)
        else:
            place.client().set_tag(run.info.run_id, name, value)


# --- tags ---------------------------------------------------------------------------------------------------------


def test_edited_tags_of_trials_are_repaired(finished: Place, finished_copy: Place) -> None:
    complete, pruned, failed = (trial_run(finished_copy, state) for state in ("COMPLETE", "PRUNED", "FAIL"))
    other = trial_run(finished_copy, "COMPLETE", last=True)
    retag(finished_copy, complete, study__role="banana", zz__trial__config="{", data__sha256=None)
    retag(finished_copy, other, trial__uid=complete.data.tags["trial.uid"], trial__number="99")
    retag(finished_copy, pruned, trial__uid=GARBAGE, trial__state="COMPLETE", study__name="../..")
    retag(finished_copy, failed, **{key.replace(".", "__"): None for key in TAGS}, trial__reason="bad luck")
    doctored(
        finished_copy,
        4,
        "its tags data.sha256, study.role, zz.trial.config are not as of trial",
        "its tags trial.number, trial.uid are not as of trial",
        "its tags study.name, trial.state, trial.uid are not as of trial",
        "trial.reason",
    )
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


def test_edited_tags_of_the_other_runs_are_repaired(finished: Place, finished_copy: Place) -> None:
    bicubic, linear = finished_copy.runs("baseline")
    retag(finished_copy, bicubic, study__role="trial")
    retag(finished_copy, linear, trial__uid=None)
    retag(finished_copy, finished_copy.runs("judge")[0], study__role=None, trial__state="FAIL")
    retag(finished_copy, finished_copy.runs("study")[0], trial__uid=GARBAGE)
    of = ("baseline bicubic", "baseline linear", "the judge", "the study's own run")
    doctored(finished_copy, 4, *(f"not as of {label}" for label in of))
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


def test_run_repairs_edited_tags_with_a_note(finished: Place, finished_copy: Place) -> None:
    retag(finished_copy, trial_run(finished_copy, "COMPLETE"), study__role=GARBAGE, trial__uid=None)
    _, recorder = finished_copy.run()
    (note,) = [text for (text,) in recorder.kind("note")]
    assert note.startswith("repaired: run trial-000")
    assert facts(finished_copy) == facts(finished)


def test_a_run_that_is_nobody_s_is_reported_and_left_unchanged(finished_copy: Place) -> None:
    """A second run whose uid was destroyed may be anything; one that says whose it is, is deleted."""
    run = trial_run(finished_copy, "PRUNED")
    tags = {key: run.data.tags[key] for key in TAGS}
    client, experiment = finished_copy.client(), run.info.experiment_id
    second = client.create_run(experiment, tags=tags, run_name="second")
    nobody = client.create_run(experiment, tags=tags | {"trial.uid": GARBAGE}, run_name="nobody")
    theirs = client.create_run(experiment, tags={"note": "a run of the user's own"}, run_name="notes")
    done = study("doctor", "--repair", "--home", str(finished_copy.path))
    assert (done.code, len(done.lines)) == (1, 2), done
    assert f"has a second run ({second.info.run_id})" in done.stdout
    assert f"run nobody ({nobody.info.run_id}): its tags do not say whose it is" in done.stdout
    state = {run.info.run_id: client.get_run(run.info.run_id).info.lifecycle_stage for run in (second, nobody, theirs)}
    assert list(state.values()) == ["deleted", "active", "active"]


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 2])
def test_no_command_ends_with_a_traceback_whatever_the_tags_hold(finished_copy: Place, shift: int) -> None:
    values = [None, GARBAGE, "", "[]", "7" * 5000]
    edited = [trial_run(finished_copy, "COMPLETE"), *finished_copy.runs("baseline"), *finished_copy.runs("study")]
    trained = single(finished_copy)
    edited.append(finished_copy.client().get_run(trained.run_id))
    for run in edited:
        keys = [
            key.replace(".", "__")
            for key in sorted(run.data.tags)
            if not key.startswith(("mlflow.", "zz.model.", "zz.weights."))
        ]
        retag(finished_copy, run, **{key: values[(i + shift) % len(values)] for i, key in enumerate(keys)})
    commands: list[list[Any]] = [["list"], ["show", "small"], ["models"], ["doctor"]]
    commands += [["export", "small", "-o", finished_copy.path.parent / "table.csv"]]
    commands += [[command, run.info.run_id] for command in ("evaluate", "reproduce") for run in edited]
    commands += [["promote", "small", "--force"], ["doctor", "--repair"], ["doctor"]]
    for command in [*commands, [*finished_copy.arguments("--workers", "0")], ["delete", "small", "--yes"]]:
        done = study(*command, *([] if "--home" in command else ["--home", str(finished_copy.path)]))
        assert len(done.stderr.splitlines()) <= 2, (command, done)
        assert "unexpected" not in done.stderr, (command, done)
        if command[0] not in ("evaluate", "reproduce", "doctor"):
            assert done.code == 0, (command, done)


# --- metrics ------------------------------------------------------------------------------------------------------


def test_edited_metrics_are_repaired(finished: Place, finished_copy: Place) -> None:
    client, run = finished_copy.client(), trial_run(finished_copy, "COMPLETE")
    run_id, late = run.info.run_id, 4_000_000_000_000  # in the year 2096

    def log(key: str, value: float, step: int, stamp: int = late, of: str = run_id) -> None:
        client.log_batch(of, [Metric(key, value, stamp, step)])

    log("objective", 99.0, 0)
    log("best_epoch", 7.0, 5)  # at a later step: MLflow shows this one whatever is logged at step 0
    log("parameters", float("nan"), 0)
    log("val/psnr", 99.0, 1)  # in the history, but not the last value
    log("val/ssim", 0.99, int(run.data.metrics["best_epoch"]))
    log("val/psnr", 0.0, 1, of=trial_run(finished_copy, "PRUNED").info.run_id)
    log("objective", 99.0, 3, of=finished_copy.runs("baseline")[0].info.run_id)
    client.log_param(run_id, "mine", "1")  # params cannot be changed, and one more does no harm
    client.log_metric(run_id, "mine", 1.0)
    said = (
        "objective is 99.0, and was",
        "best_epoch is 7.0, and was",
        "parameters is nan",
        "val/psnr of epoch 1 is 99.0",
    )
    doctored(finished_copy, 3, *said, "trial-0004: its metric val/psnr is 0.0, and was")

    def last(place: Place) -> Iterator[Any]:
        for each in (*place.runs("trial"), *place.runs("baseline")):
            metrics = {k: v for k, v in each.data.metrics.items() if k != "mine"}
            histories = metric_histories(place.home, read_run(place.home, each.info.run_id))
            epochs = {
                key: {e: v for e, v in points.items() if e <= 3} for key, points in histories.items() if "/" in key
            }
            yield each.info.run_name, metrics, epochs

    assert list(last(finished_copy)) == list(last(finished))
    assert study("reproduce", run_id, "--home", str(finished_copy.path)).code == 0
    assert study("evaluate", run_id, "--home", str(finished_copy.path)).code == 0


def test_run_repairs_the_metrics_that_the_ui_shows(finished_copy: Place) -> None:
    run = trial_run(finished_copy, "COMPLETE")
    finished_copy.client().log_metric(run.info.run_id, "objective", 99.0)
    _, recorder = finished_copy.run()
    assert "its metric objective is 99.0, and was" in recorder.kind("note")[0][0]
    assert finished_copy.client().get_run(run.info.run_id).data.metrics["objective"] == run.data.metrics["objective"]


# --- deleted runs -------------------------------------------------------------------------------------------------


def test_deleted_runs_are_restored(finished: Place, finished_copy: Place) -> None:
    for run in finished_copy.runs():
        finished_copy.client().delete_run(run.info.run_id)
    labels = [*(f"trial {number}" for number in range(TRIALS)), "baseline linear", "the judge", "the study's own run"]
    doctored(finished_copy, TRIALS + 4, *(f"{label}: its run was deleted in MLflow" for label in labels))
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


@pytest.mark.slow
def test_a_deleted_run_of_an_open_trial_is_restored(finished: Place, place: Place) -> None:
    def stop(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch" and event[2] == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        place.run(reporter=Recorder(stop))
    opened = [run for run in place.runs("trial") if run.info.status == "SCHEDULED"]
    for run in opened:
        place.client().delete_run(run.info.run_id)
    doctored(place, len(opened), "its run was deleted in MLflow")
    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)
    assert {run.info.run_id for run in opened} <= {run.info.run_id for run in place.runs("trial")}


# --- single trainings ---------------------------------------------------------------------------------------------


SINGLE = ("enqueue=[]", "model.bottleneck=32", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")


def single(place: Place, name: str = "small", recorder: Recorder | None = None) -> Training:
    file = load_study_file(place.file, SINGLE, name)
    return train_one(file, place.home, Options(device="cpu"), recorder or Recorder())


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"study__role": GARBAGE}, "its tag study.role is not as of a single training"),
        ({"trial__uid": GARBAGE}, "its tag trial.uid is not as of a single training"),
    ],
    ids=["role", "uid"],
)
def test_edited_tags_of_a_single_training_are_repaired(place: Place, edit: dict[str, str], said: str) -> None:
    trained = single(place, "alone")
    retag(place, place.client().get_run(trained.run_id), **edit)
    doctored(place, 1, said)
    recorder = Recorder()
    assert single(place, "alone", recorder) == trained
    assert recorder.kind("epoch") == []


def test_a_deleted_single_training_is_restored_by_the_same_command(place: Place) -> None:
    trained, recorder = single(place, "alone"), Recorder()
    place.client().delete_run(trained.run_id)
    assert single(place, "alone", recorder) == trained
    assert recorder.kind("epoch") == []
    assert "its run was deleted in MLflow, and is restored" in recorder.kind("note")[0][0]


@pytest.mark.slow
def test_lost_pictures_of_a_single_training_are_made_again_by_the_same_command(place: Place) -> None:
    trained = single(place, "alone")
    run = place.client().get_run(trained.run_id)
    before = panels(place, run), panels(place, run, "restored"), labelled_panel(place, run)
    assert len(before[1]) == 1
    artifact(place, run, "panel.png").unlink()
    doctored(place, 1, "of its best epoch panel.png is lost; run the same `study train` again")
    assert single(place, "alone").run_id == trained.run_id
    assert (panels(place, run), panels(place, run, "restored"), labelled_panel(place, run)) == before


def test_a_tag_does_not_choose_what_delete_removes(finished_copy: Place) -> None:
    """The uid of a training becomes the path of its checkpoints, so the run's other tags must confirm it."""
    trained = single(finished_copy, "other")
    home = finished_copy.home
    victims = [
        home.checkpoints(finished_copy.search().uid),
        home.checkpoints("train-" + "0" * 16),
        home.path / "judges",
    ]
    for folder in victims:
        folder.mkdir(parents=True, exist_ok=True)
    for uid in (f"{victims[0].name}-0", f"{victims[1].name}-0", "../judges-0", f"{home.path}/judges-0"):
        finished_copy.client().set_tag(trained.run_id, "trial.uid", uid)
        study("doctor", "--repair", "--home", str(home.path))
        assert all(folder.is_dir() for folder in victims)
    finished_copy.client().set_tag(trained.run_id, "trial.uid", f"{victims[0].name}-0")
    assert study("delete", "other", "--yes", "--home", str(home.path)).code == 0
    assert all(folder.is_dir() for folder in victims)


# --- experiments --------------------------------------------------------------------------------------------------


def test_other_times_are_no_finding(finished_copy: Place) -> None:
    """An epoch whose checkpoint was damaged is trained again: Optuna then has other times than MLflow."""
    client = finished_copy.client()
    for run in finished_copy.runs("trial"):
        if run.data.tags["trial.state"] == "COMPLETE":
            client.log_metric(run.info.run_id, "time/epoch_s", 99.0, step=int(run.data.metrics["best_epoch"]))
    done = study("doctor", "--home", str(finished_copy.path))
    assert (done.code, done.lines) == (0, [f"{finished_copy.path}: all is well"])


def test_a_renamed_experiment_is_still_the_study_s(finished_copy: Place) -> None:
    client, home = finished_copy.client(), ("--home", str(finished_copy.path))
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "another name")
    _, recorder = finished_copy.run(trials=TRIALS + 1)
    assert {number for number, *_ in recorder.kind("trial")} == {TRIALS}  # nothing else was trained
    assert [e.name for e in client.search_experiments()] == ["another name", "Default"]
    assert study("doctor", *home).code == 0
    client.rename_experiment(experiment.experiment_id, "small")
    assert_sound(finished_copy, TRIALS + 1)
    client.rename_experiment(experiment.experiment_id, "another name")
    assert study("promote", "small", "--force", *home).code == 0
    assert study("delete", "small", "--yes", *home).code == 0
    assert [e.name for e in client.search_experiments()] == ["Default"]
    assert not list((finished_copy.path / "artifacts").glob("*"))


@pytest.mark.parametrize(
    "tags",
    [{"study.uid": GARBAGE}, {"study.home": "0" * 32}, {"study.name": "../.."}, dict.fromkeys(EXPERIMENT_TAGS, "")],
    ids=["uid", "home", "name", "all"],
)
def test_edited_tags_of_an_experiment_are_restored(finished: Place, finished_copy: Place, tags: dict[str, str]) -> None:
    client, home = finished_copy.client(), ("--home", str(finished_copy.path))
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    for repair in (["doctor", "--repair", *home], finished_copy.arguments("--workers", "0")):
        for key, value in tags.items():
            client.set_experiment_tag(experiment.experiment_id, key, value)
        refused = study("promote", "small", "--force", *home)
        assert (refused.code, "were edited; `study doctor --repair`" in refused.stderr) == (1, True), refused
        done = study(*repair)
        assert (done.code, "were edited" in done.stdout) == (0, True), done
        assert client.get_experiment(experiment.experiment_id).tags == experiment.tags
        assert study("doctor", *home).lines == [f"{finished_copy.path}: all is well"]
    assert facts(finished_copy) == facts(finished)


# --- artifacts ----------------------------------------------------------------------------------------------------


def test_deleted_artifacts_are_repaired_in_one_pass(finished: Place, finished_copy: Place) -> None:
    shutil.rmtree(finished_copy.path / "artifacts")
    home = ("--home", str(finished_copy.path))
    assert study("doctor", "--repair", *home).code == 0
    assert study("doctor", *home).lines == [f"{finished_copy.path}: all is well"]
    before = [run.info.run_id for run in finished_copy.runs()]
    finished_copy.run()
    assert study("doctor", *home).lines == [f"{finished_copy.path}: all is well"]
    assert [run.info.run_id for run in finished_copy.runs()] == before
    (run,), (other,) = finished_copy.runs("study"), finished.runs("study")
    files = [
        {e.path for e in p.client().list_artifacts(r.info.run_id)} for p, r in ((finished_copy, run), (finished, other))
    ]
    assert (
        files[0] == files[1] == {"contact-sheet.png", "leaderboard.csv", "leaderboard.md", "study.json", "study.toml"}
    )


# --- other homes --------------------------------------------------------------------------------------------------


def test_doctor_leaves_the_studies_of_other_homes_alone(migrated: Path, tmp_path: Path) -> None:
    """Two homes in one MLflow database; the other's study is running, stopped half way, and finished."""
    database = tmp_path / "mlflow.db"
    shutil.copy(migrated / "mlflow.db", database)
    uri = f"sqlite:///{database}"
    places = {}
    for name in ("mine", "theirs"):
        (tmp_path / name).mkdir()
        places[name] = new_place(migrated, tmp_path / name)
    client = MlflowClient(uri)

    def run(name: str, act: Callable[[tuple[Any, ...]], None] = lambda _: None) -> None:
        file = load_study_file(places[name].file, ["budget.epochs=1"], name, 3)
        home = open_home(places[name].path, tracking_uri=uri)
        run_study(file, home, Options(workers=0), Recorder(act))

    def state(name: str) -> Any:
        files = [file for file in places[name].path.rglob("*") if file.is_file()]
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], "", ViewType.ALL)
        return {str(f): f.read_bytes() for f in files}, dict(experiment), [run.to_dictionary() for run in runs]

    def settled(name: str) -> Any:
        """The state once the driver's writer is idle: its run is stopped here, at an epoch's report."""
        before = None
        while before != (now := state(name)):
            before = now
            time.sleep(1)
        return now

    checked = []

    def repair_mine() -> None:
        experiment = client.get_experiment_by_name("mine")
        assert experiment is not None
        first, *_, last = client.search_runs([experiment.experiment_id])
        client.delete_run(first.info.run_id)
        client.set_tag(last.info.run_id, "study.role", "banana")
        before = settled("theirs")
        done = study("doctor", "--repair", "--home", str(places["mine"].path), "--tracking-uri", uri)
        assert (done.code, done.stdout.count("mine: repaired: ")) == (0, 2), done
        assert state("theirs") == before
        checked.append(len(before[2]))

    def stop_half_way(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch":
            repair_mine()
            raise Interrupted

    run("mine")
    with pytest.raises(Interrupted):
        run("theirs", stop_half_way)
    repair_mine()
    run("theirs")
    repair_mine()
    assert len(checked) == 3
    for name in places:
        done = study("doctor", "--home", str(places[name].path), "--tracking-uri", uri)
        assert done.lines == [f"{places[name].path}: all is well"]
