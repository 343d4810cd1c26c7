"""`study doctor`: faults between Optuna, MLflow, the checkpoints and the files are found, reported and repaired."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest
import torch
from mlflow.entities import Run
from studies_for_tests import (
    TRIALS,
    Place,
    Printed,
    Recorder,
    artifact,
    assert_sound,
    facts,
    models,
    panels,
    purge,
    study,
)

from pipeline.config import load_study_file
from pipeline.errors import Interrupted, NotFoundError
from pipeline.search.lock import study_lock
from pipeline.study.driver import Options
from pipeline.study.single import train_one
from pipeline.tracking.registry import load_champion
from pipeline.tracking.runs import read_run, restorer_of

pytest_plugins = ["study_fixtures"]

ALL_WELL = "all is well"


def doctor(place: Place, *options: str) -> Printed:
    return study("doctor", "--home", place.path, *options)


def run_of(place: Place, state: str) -> Run:
    """The first run of a trial that ended in this state."""
    return next(run for run in place.runs("trial") if run.data.tags["trial.state"] == state)


def model_files(place: Place, run: Run) -> Path:
    """The folder of a run's model."""
    (location,) = [model.artifact_location for model in models(place) if model.source_run_id == run.info.run_id]
    return Path(urlparse(location).path)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


# --- faults -------------------------------------------------------------------------------------------------------


def left_running(state: str) -> Callable[[Place], None]:
    return lambda place: place.client().update_run(run_of(place, state).info.run_id, status="RUNNING")


def second_run(place: Place) -> None:
    run = run_of(place, "COMPLETE")
    place.client().create_run(run.info.experiment_id, tags=run.data.tags, run_name=run.info.run_name)


def run_of_no_trial(place: Place) -> None:
    run = run_of(place, "COMPLETE")
    tags = run.data.tags | {"trial.uid": f"{place.search().uid}-{TRIALS + 3}"}
    place.client().create_run(run.info.experiment_id, tags=tags, run_name=run.info.run_name)


def half_created_model(place: Place) -> None:
    """Leave a model as a process does that is killed between creating the model and uploading it."""
    run = run_of(place, "COMPLETE")
    place.client().create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)


def model_of_no_run(place: Place) -> None:
    run = run_of(place, "PRUNED")
    model = place.client().create_logged_model(run.info.experiment_id, name="model", source_run_id="0" * 32)
    place.client().finalize_logged_model(model.model_id, "READY")


def failed_model(place: Place) -> None:
    model_id = run_of(place, "COMPLETE").data.tags["zz.model.id"]
    place.client().finalize_logged_model(model_id, "FAILED")


def deleted_model(place: Place) -> None:
    place.client().delete_logged_model(run_of(place, "COMPLETE").data.tags["zz.model.id"])


def lost_weights(place: Place) -> None:
    """No copy of a trial's weights is left."""
    deleted_model(place)
    artifact(place, run_of(place, "COMPLETE"), "weights.safetensors").unlink()


def changed_weights(place: Place) -> None:
    flip(artifact(place, run_of(place, "COMPLETE"), "weights.safetensors"))


def changed_model(place: Place) -> None:
    folder = model_files(place, run_of(place, "COMPLETE"))
    flip(max((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size))


def changed_model_of_a_running_run(place: Place) -> None:
    changed_model(place)
    left_running("COMPLETE")(place)


def model_with_a_file_missing(place: Place) -> None:
    (model_files(place, run_of(place, "COMPLETE")) / "MLmodel").unlink()


def model_with_a_file_added(place: Place) -> None:
    (model_files(place, run_of(place, "COMPLETE")) / "sitecustomize.py").write_text("print('hello')\n")


def model_without_files(place: Place) -> None:
    shutil.rmtree(model_files(place, run_of(place, "COMPLETE")))


def unexpected_file_among_images(place: Place) -> None:
    (artifact(place, run_of(place, "PRUNED"), "images") / "notes.txt").write_text("a note\n")


def old_checkpoints(place: Place) -> None:
    folder = place.home.checkpoints(place.search().uid) / "0000"
    folder.mkdir(parents=True)
    (folder / f"epoch-0001-{'0' * 64}.safetensors").write_bytes(b"weights")


def interrupted_write(place: Place) -> None:
    folder = place.home.checkpoints(place.search().uid) / f"{TRIALS:04d}"  # of a trial that does not exist yet
    folder.mkdir(parents=True)
    (folder / f"epoch-0001-{'0' * 64}.safetensors.4711.tmp").write_bytes(b"wei")


def lost_panel(place: Place) -> None:
    run = run_of(place, "COMPLETE")
    for file in artifact(place, run, "images").glob(f"*step*{run.data.metrics['best_epoch']:.0f}*timestamp*"):
        file.unlink()


def lost_restored(place: Place) -> None:
    for file in artifact(place, run_of(place, "PRUNED"), "images").glob("restored*"):
        file.unlink()


def half_a_panel(place: Place) -> None:
    """As a power failure leaves it: the file's name and the beginning of its content."""
    for file in artifact(place, run_of(place, "PRUNED"), "images").glob("panel*.png"):
        file.write_bytes(file.read_bytes()[:-30])


def lost_labelled_panel(place: Place) -> None:
    artifact(place, run_of(place, "PRUNED"), "panel.png").unlink()


def lost_pictures_of_a_baseline(place: Place) -> None:
    [run, *_] = place.runs("baseline")
    shutil.rmtree(artifact(place, run, "images"))
    artifact(place, run, "panel.png").unlink()


def lost_pictures(place: Place) -> None:
    """One of each kind, of a trial without a model, of one with a model, and all of a baseline."""
    lost_restored(place)
    lost_panel(place)
    artifact(place, run_of(place, "COMPLETE"), "panel.png").unlink()
    lost_pictures_of_a_baseline(place)


def several(place: Place) -> None:
    """Nearly every kind of fault at once, on different runs where one would hide another."""
    for damage in (
        changed_model,
        left_running("PRUNED"),
        left_running("FAIL"),
        second_run,
        run_of_no_trial,
        model_of_no_run,
        unexpected_file_among_images,
        old_checkpoints,
        interrupted_write,
    ):
        damage(place)


@dataclass(frozen=True)
class Fault:
    """A damage to a home, and what `doctor` must report about it."""

    damage: Callable[[Place], Any]
    report: str
    findings: int = 1


FAULTS = {
    "a complete trial's run left running": Fault(left_running("COMPLETE"), "it is RUNNING, its trial COMPLETE"),
    "a pruned trial's run left running": Fault(left_running("PRUNED"), "it is RUNNING, its trial PRUNED"),
    "a failed trial's run left running": Fault(left_running("FAIL"), "it is RUNNING, its trial FAIL"),
    "a second run": Fault(second_run, "has a second run"),
    "a run of no trial": Fault(run_of_no_trial, "belongs to no trial"),
    "a half-created model": Fault(half_created_model, "is PENDING"),
    "a model of no run": Fault(model_of_no_run, "belongs to no finished run"),
    "a failed model": Fault(failed_model, "its model is missing or not READY", 2),
    "a deleted model": Fault(deleted_model, "its model is missing or not READY"),
    "a changed model": Fault(changed_model, "was changed"),
    "a changed model of a run left running": Fault(changed_model_of_a_running_run, "its model's ", 2),
    "changed weights": Fault(changed_weights, "its weights.safetensors was changed"),
    "lost weights": Fault(lost_weights, "its weights.safetensors is missing", 2),
    "a model's file missing": Fault(model_with_a_file_missing, "MLmodel is missing"),
    "a file added to a model": Fault(model_with_a_file_added, "sitecustomize.py was added"),
    "a model's files missing": Fault(model_without_files, "the files of its model are not at"),
    "a lost panel": Fault(lost_panel, "of its best epoch panel is lost"),
    "half a panel": Fault(half_a_panel, "of its best epoch panel is lost", 2),
    "a lost image of the restored": Fault(lost_restored, "of its best epoch restored is lost"),
    "a lost labelled panel": Fault(lost_labelled_panel, "of its best epoch panel.png is lost"),
    "lost pictures": Fault(lost_pictures, "its panel, restored, panel.png are lost", 3),
    "an unexpected file among images": Fault(unexpected_file_among_images, "is not one of the run's images"),
    "checkpoints of an ended trial": Fault(old_checkpoints, "checkpoints of an ended trial"),
    "an interrupted write": Fault(interrupted_write, "left by an interrupted write"),
    "several at once": Fault(several, "is not one of the run's images", 9),
}


NOT_SLOW = (
    "several at once",
    "a deleted model",
    "lost pictures",
)  # every case takes seconds, so the others are marked slow


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(fault, id=name, marks=[] if name in NOT_SLOW else pytest.mark.slow)
        for name, fault in FAULTS.items()
    ],
)
def test_a_fault_is_found_and_repaired(finished: Place, finished_copy: Place, fault: Fault) -> None:
    fault.damage(finished_copy)

    found = doctor(finished_copy)
    assert (found.code, len(found.lines)) == (1, fault.findings), found
    assert fault.report in found.stdout
    counted = "1 finding" if fault.findings == 1 else f"{fault.findings} findings"
    assert found.stderr == f"error: {counted}; `study doctor --repair` repairs them\n"
    assert doctor(finished_copy).lines == found.lines  # reporting changes nothing

    repaired = doctor(finished_copy, "--repair")
    assert (repaired.code, repaired.stderr) == (0, ""), repaired
    reported = [line for line in repaired.lines if "note: " not in line]
    assert 1 <= len(reported) <= fault.findings  # one repair may repair a second fault
    assert all(": repaired: " in line for line in reported)

    after = doctor(finished_copy)
    assert (after.code, after.lines) == (0, [f"{finished_copy.path}: {ALL_WELL}"]), after
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


def test_a_healthy_home_is_left_unchanged(finished_copy: Place) -> None:
    def contents() -> dict[str, bytes]:
        files = [path for path in finished_copy.path.rglob("*") if path.is_file() and path.suffix != ".lock"]
        return {str(path): path.read_bytes() for path in files}

    before = contents()
    for options in ([], ["--repair"]):
        done = doctor(finished_copy, *options)
        assert (done.code, done.lines) == (0, [f"{finished_copy.path}: {ALL_WELL}"])
        assert contents() == before


def test_a_missing_home_is_refused_and_not_created(tmp_path: Path) -> None:
    done = study("doctor", "--home", str(tmp_path / "nowhere"))
    assert (done.code, done.stdout) == (2, "")
    assert "there is no home of studies" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["doctor"], 1),
        (["models"], 0),
        (["promote", "small"], 1),
        (["reproduce", "0" * 32], 2),
        (["ui", "small", "--no-browser"], 2),
        (["show", "small"], 0),
        (["list"], 0),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_that_only_read_create_no_database(finished_copy: Place, command: list[str], code: int) -> None:
    (finished_copy.path / "mlflow.db").unlink()
    done = study(*command, "--home", str(finished_copy.path))
    assert (done.code, len(done.stderr.splitlines())) == (code, 1 if code else 0), done
    assert not (finished_copy.path / "mlflow.db").exists()


def test_loading_a_champion_without_a_database_is_refused(finished_copy: Place) -> None:
    (finished_copy.path / "mlflow.db").unlink()
    with pytest.raises(NotFoundError, match="there is no MLflow database at sqlite:///"):
        load_champion(finished_copy.home, "small")
    assert not (finished_copy.path / "mlflow.db").exists()


@pytest.mark.slow
def test_a_lost_mlflow_database_is_created_again_if_asked(finished: Place, finished_copy: Place) -> None:
    (finished_copy.path / "mlflow.db").unlink()
    assert study(*finished_copy.arguments("--workers", "0")).code == 1
    assert doctor(finished_copy, "--repair", "--retrain").code == 0
    assert study(*finished_copy.arguments("--workers", "0")).code == 0
    assert doctor(finished_copy).lines == [f"{finished_copy.path}: {ALL_WELL}"]
    roles = [run.data.tags["study.role"] for run in finished_copy.runs()]
    assert sorted(roles) == ["baseline", "baseline", "judge", "study", *["trial"] * TRIALS]
    assert finished_copy.search().baselines == finished.search().baselines
    for created, lost in zip(finished_copy.runs("trial"), finished.runs("trial"), strict=True):
        assert created.data.params == lost.data.params
        assert created.data.tags["trial.state"] == lost.data.tags["trial.state"]
        assert created.data.metrics.get("objective") == lost.data.metrics.get("objective")


@pytest.mark.parametrize("role", ["baseline", "study", "judge"])
def test_a_lost_run_that_is_not_a_trial_s_is_created_again(finished: Place, finished_copy: Place, role: str) -> None:
    lost = finished_copy.runs(role)[0]
    purge(finished_copy, lost.info.run_id)
    found = doctor(finished_copy)
    assert (found.code, found.stdout.count("makes it again")) == (1, 1), found
    assert doctor(finished_copy, "--repair").code == 0
    assert doctor(finished_copy).lines == [f"{finished_copy.path}: {ALL_WELL}"]
    finished_copy.run()
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


def test_a_lost_contact_sheet_is_drawn_again(finished: Place, finished_copy: Place) -> None:
    (run,) = finished_copy.runs("study")
    artifact(finished_copy, run, "contact-sheet.png").unlink()
    assert "the contact sheet is lost" in doctor(finished_copy).stdout
    assert doctor(finished_copy, "--repair").code == 0
    finished_copy.run()
    sheet = artifact(finished_copy, run, "contact-sheet.png")
    assert sheet.read_bytes() == artifact(finished, run, "contact-sheet.png").read_bytes()


# --- single trainings ---------------------------------------------------------------------------------------------


def trained(place: Place) -> Run:
    """Train once, in an experiment of its own, and return the run."""
    train_one(load_study_file(place.file, SINGLE, "alone"), place.home, Options(device="cpu"), Recorder())
    (run,) = place.runs("train", "alone")
    return run


SINGLE = ("enqueue=[]", "model.bottleneck=32", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")


def test_a_damaged_model_of_a_single_training_is_found_and_trained_again(place: Place) -> None:
    run = trained(place)
    folder = Path(urlparse(place.client().get_logged_model(run.data.tags["zz.model.id"]).artifact_location).path)
    flip(next(folder.rglob("*.pt2")))
    assert f"run {run.info.run_name}: its model's " in doctor(place).stdout
    assert doctor(place, "--repair").code == 0
    assert doctor(place).lines == [f"{place.path}: {ALL_WELL}"]
    again = trained(place)
    assert again.info.run_id == run.info.run_id
    assert again.data.metrics["objective"] == run.data.metrics["objective"]
    assert study("evaluate", run.info.run_id, "--home", place.path).code == 0
    assert doctor(place).lines == [f"{place.path}: {ALL_WELL}"]


def test_an_experiment_whose_name_is_a_path_is_left_unchanged(finished_copy: Place) -> None:
    finished_copy.client().create_experiment(
        "any", tags={"study.name": "../../elsewhere", "study.home": finished_copy.home.id}
    )
    done = doctor(finished_copy, "--repair")
    assert (done.code, len(done.lines)) == (1, 1)
    assert "'../../elsewhere' is not allowed" in done.stdout
    assert not list(finished_copy.path.parent.rglob("elsewhere*"))


def test_a_moved_home_of_single_trainings_is_repaired_by_doctor_and_by_the_next_training(place: Place) -> None:
    run = trained(place)
    for name, repair in (("once", lambda moved: doctor(moved, "--repair")), ("twice", trained)):
        moved = Place(place.path.with_name(name), place.file)
        place.path.rename(moved.path)
        assert "the home was moved" in doctor(moved).stdout
        repair(moved)
        assert doctor(moved).lines == [f"{moved.path}: {ALL_WELL}"]
        assert study("evaluate", run.info.run_id, "--home", moved.path).code == 0
        assert not place.path.exists()
        place = moved


def test_a_training_in_a_moved_home_leaves_nothing_at_the_old_place(finished_copy: Place) -> None:
    moved = Place(finished_copy.path.with_name("moved"), finished_copy.file)
    finished_copy.path.rename(moved.path)
    reporter = Recorder()
    train_one(load_study_file(moved.file, SINGLE), moved.home, Options(device="cpu"), reporter)
    assert any("the home was moved" in text for (text,) in reporter.kind("note"))
    assert not finished_copy.path.exists()
    assert doctor(moved).lines == [f"{moved.path}: {ALL_WELL}"]


# --- deleted runs are restored, and lost ones created again ----------------------------------------------------------


def test_a_run_that_was_deleted_in_the_ui_is_restored_with_all_it_had(finished: Place, finished_copy: Place) -> None:
    for run in finished_copy.runs("trial"):
        finished_copy.client().delete_run(run.info.run_id)
    assert doctor(finished_copy).stdout.count("its run was deleted in MLflow") == TRIALS
    assert "training trial" not in doctor(finished_copy, "--repair").stdout
    assert doctor(finished_copy).lines == [f"{finished_copy.path}: {ALL_WELL}"]
    assert facts(finished_copy) == facts(finished)
    assert [run.info.run_id for run in finished_copy.runs()] == [run.info.run_id for run in finished.runs()]


@pytest.mark.parametrize(
    "state", ["COMPLETE", *(pytest.param(state, marks=pytest.mark.slow) for state in ("PRUNED", "FAIL"))]
)
def test_a_lost_run_is_created_again_from_optuna_s_database(finished: Place, finished_copy: Place, state: str) -> None:
    """What only MLflow stored is lost: all metrics except the objective, and the panels except the best epoch's."""
    lost = run_of(finished_copy, state)
    best = [panel for panel in panels(finished, lost) if panel[0] == lost.data.metrics["best_epoch"]]
    number = int(lost.data.tags["trial.number"])
    purge(finished_copy, lost.info.run_id)

    refused = doctor(finished_copy, "--repair")
    assert refused.code == 1
    assert f"mlflow.db lacks the runs of trial {number} of study small" in refused.stdout
    repaired = doctor(finished_copy, "--repair", "--retrain")
    assert (repaired.code, repaired.stderr) == (0, ""), repaired
    assert f"trial {number} ({state}) has no run" in repaired.stdout
    after = doctor(finished_copy)
    assert (after.code, after.lines) == (0, [f"{finished_copy.path}: {ALL_WELL}"]), after

    created = next(run for run in finished_copy.runs("trial") if run.data.tags["trial.number"] == str(number))
    assert created.info.run_id != lost.info.run_id
    assert created.data.tags["reconstructed"] == "true"
    same = ("trial.uid", "trial.state", "zz.trial.config", "study.name", "data.sha256")
    assert {key: created.data.tags[key] for key in same} == {key: lost.data.tags[key] for key in same}
    assert (created.info.run_name, created.info.status) == (lost.info.run_name, lost.info.status)
    assert created.info.start_time == pytest.approx(lost.info.start_time, abs=60_000)
    assert created.data.params == lost.data.params
    assert created.data.metrics.get("objective") == lost.data.metrics.get("objective")
    assert panels(finished_copy, created) == (best if state == "COMPLETE" else [])
    owners = sorted(model.source_run_id for model in models(finished_copy))
    complete = [run for run in finished_copy.runs("trial") if run.data.tags["trial.state"] == "COMPLETE"]
    assert owners == sorted(run.info.run_id for run in complete)

    for fact, before in zip(facts(finished_copy)[:TRIALS], facts(finished)[:TRIALS], strict=True):
        if fact["trial"][0] == number:
            assert fact["history"].get("val/psnr") == before["history"].get("val/psnr")
            not_restored = {"history", "panels", "last"} | (
                {"best"} if state == "PRUNED" else set()
            )  # no model draws it
            fact, before = ({k: v for k, v in f.items() if k not in not_restored} for f in (fact, before))
        assert fact == before

    assert study(*finished_copy.arguments("--workers", "0")).code == 0  # adds nothing and repairs nothing
    assert len(finished_copy.runs("trial")) == TRIALS


@pytest.mark.slow
def test_the_best_trial_can_be_promoted_after_its_run_was_lost(finished_copy: Place) -> None:
    best = max(finished_copy.search().records(), key=lambda record: record.value or 0)
    purge(finished_copy, best.summary.run_id)
    assert doctor(finished_copy, "--repair", "--retrain").code == 0
    done = study("promote", "small", "--home", str(finished_copy.path), "--force")
    assert done.code == 0, done


# --- a study that is running or was stopped -----------------------------------------------------------------------


def stopped(place: Place, after: str) -> None:
    """Run the study in this process, and stop at the first event of a kind."""

    def act(event: tuple[Any, ...]) -> None:
        if event[0] == after:
            raise Interrupted("stopped by the test")

    with pytest.raises(Interrupted):
        place.run(reporter=Recorder(act))


@pytest.mark.parametrize("after", ["epoch", pytest.param("trial", marks=pytest.mark.slow)])
def test_a_killed_study_is_repaired_and_resumed_with_the_same_results(
    finished: Place, place: Place, after: str
) -> None:
    stopped(place, after)
    open_runs = [run for run in place.runs("trial") if run.info.status == "SCHEDULED"]
    assert open_runs
    for run in open_runs:  # as a killed process would have left them
        place.client().update_run(run.info.run_id, status="RUNNING")
    folder = place.home.checkpoints(place.search().uid) / f"{int(open_runs[-1].data.tags['trial.number']):04d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "epoch-0001.safetensors.4711.tmp").write_bytes(b"wei")

    found = doctor(place)
    assert found.code == 1
    left = ("was left RUNNING; its trial is not finished", "it is RUNNING, its trial")  # the second: just recorded
    assert sum(map(found.stdout.count, left)) == len(open_runs)
    assert "left by an interrupted write" in found.stdout
    assert doctor(place, "--repair").code == 0
    assert doctor(place).lines == [f"{place.path}: {ALL_WELL}"]
    assert {run.info.status for run in place.runs("trial")} <= {"SCHEDULED", "FAILED", "FINISHED", "KILLED"}

    place.run()
    assert_sound(place)
    assert facts(place) == facts(finished)


def test_a_study_that_is_being_run_is_left_unchanged(finished_copy: Place) -> None:
    left_running("COMPLETE")(finished_copy)
    with study_lock(finished_copy.home, "small"):
        found = doctor(finished_copy, "--repair")
    assert found.code == 1
    assert "small: study 'small' is being run by process" in found.stdout
    assert [run.info.status for run in finished_copy.runs("trial")].count("RUNNING") == 1
    assert doctor(finished_copy, "--repair").code == 0
    assert_sound(finished_copy)


@pytest.mark.slow
def test_run_repairs_the_faults_it_finds_before_it_trains(finished: Place, finished_copy: Place) -> None:
    several(finished_copy)
    _, recorder = finished_copy.run()
    notes = [text for (text,) in recorder.kind("note")]
    assert len([note for note in notes if note.startswith("repaired: ")]) == 8, (
        notes
    )  # completing a trial's run repairs two faults
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


def test_lost_weights_are_trained_again_and_are_bit_identical(finished_copy: Place) -> None:
    """The checkpoints were deleted when the model was stored. Trained again, the weights are bit-identical."""
    run_id = run_of(finished_copy, "COMPLETE").info.run_id
    degraded = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def restored() -> torch.Tensor:
        run = read_run(finished_copy.home, run_id)
        with torch.inference_mode():
            return restorer_of(run, run.tags["zz.weights.sha256"])(degraded)

    before = restored()
    lost_weights(finished_copy)
    assert "training trial" in doctor(finished_copy, "--repair").stdout
    assert torch.equal(restored(), before)


def test_training_again_can_be_interrupted(finished: Place, finished_copy: Place) -> None:
    lost_weights(finished_copy)

    def interrupt(event: tuple[Any, ...]) -> None:
        if event[0] == "note" and "training trial" in event[1]:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        finished_copy.run(reporter=Recorder(interrupt))
    finished_copy.run()
    assert_sound(finished_copy)
    assert facts(finished_copy) == facts(finished)


# --- a home that was moved ----------------------------------------------------------------------------------------


def moved(place: Place, folder: Path) -> Place:
    folder.mkdir()
    shutil.move(place.path, folder / "moved home")
    return Place(folder / "moved home", place.file)


def test_a_moved_home_is_found_and_repaired(finished: Place, finished_copy: Place, tmp_path: Path) -> None:
    there = moved(finished_copy, tmp_path / "new")
    found = doctor(there)
    assert found.code == 1
    assert found.lines[0].startswith(f"-: the home was moved here from {finished_copy.path};")
    assert (doctor(there, "--repair").code, doctor(there).lines) == (0, [f"{there.path}: {ALL_WELL}"])
    assert_sound(there)
    assert facts(there) == facts(finished)

    assert study(*there.arguments("--workers", "0", "--trials", str(TRIALS + 1))).code == 0
    assert_sound(there, TRIALS + 1)
    assert study("promote", "small", "--home", str(there.path), "--force").code == 0
    assert not finished_copy.path.exists()  # nothing was written at the old place


@pytest.mark.slow
def test_run_also_repairs_a_moved_home(finished: Place, finished_copy: Place, tmp_path: Path) -> None:
    there = moved(finished_copy, tmp_path / "new")
    done = study(*there.arguments("--workers", "0"))
    assert (done.code, done.stderr) == (0, "")
    assert "note: the home was moved here from" in done.stdout
    assert all(run.info.artifact_uri.startswith(there.artifacts.as_uri()) for run in there.runs())
    assert_sound(there)
    assert facts(there) == facts(finished)
    assert not finished_copy.path.exists()


def test_a_promoted_model_can_be_loaded_after_a_move(finished_copy: Place, tmp_path: Path) -> None:
    from pipeline.tracking.registry import load_champion

    assert study("promote", "small", "--home", str(finished_copy.path), "--force").code == 0
    name = finished_copy.search().config.model_name
    there = moved(finished_copy, tmp_path / "new")
    assert doctor(there, "--repair").code == 0
    assert load_champion(there.home, name) is not None


@pytest.mark.parametrize("command", ["promote", "delete"])
def test_commands_that_write_settle_a_move_first(finished_copy: Place, tmp_path: Path, command: str) -> None:
    there = moved(finished_copy, tmp_path / "new")
    option = "--force" if command == "promote" else "--yes"
    assert study(command, "small", "--home", str(there.path), option).code == 0
    assert not finished_copy.path.exists()
    assert doctor(there).lines == [f"{there.path}: {ALL_WELL}"]


def test_artifacts_that_were_left_behind_by_a_move_are_named(finished_copy: Place, tmp_path: Path) -> None:
    there = moved(finished_copy, tmp_path / "new")
    shutil.move(there.path / "artifacts", finished_copy.path / "artifacts")
    done = doctor(there, "--repair")
    assert (done.code, done.lines) == (1, [])
    assert str(finished_copy.path / "artifacts") in done.stderr


# --- more than one study ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_study_of_a_home_is_checked(finished_copy: Place) -> None:
    finished_copy.run("budget.trials=1", "budget.epochs=1", name="second")
    run = finished_copy.runs("trial", "second")[0]
    finished_copy.client().update_run(run.info.run_id, status="RUNNING")
    unexpected_file_among_images(finished_copy)
    found = doctor(finished_copy)
    assert [line.partition(":")[0] for line in found.lines] == ["second", "small"]
    assert doctor(finished_copy, "--repair").code == 0
    assert doctor(finished_copy).lines == [f"{finished_copy.path}: {ALL_WELL}"]
    assert_sound(finished_copy, 1, 1, "second")
    assert_sound(finished_copy)


def test_a_study_whose_experiment_was_deleted_is_reported(finished_copy: Place) -> None:
    experiment = finished_copy.client().get_experiment_by_name("small")
    assert experiment is not None
    finished_copy.client().delete_experiment(experiment.experiment_id)
    done = doctor(finished_copy, "--repair")
    assert done.code == 1
    assert "small" in done.stdout + done.stderr
    assert "unexpected" not in done.stderr, done.stderr
