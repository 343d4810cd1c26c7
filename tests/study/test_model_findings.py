"""A champion that was harmed: `doctor` finds it, and one repair restores or replaces it; what it names is kept."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import MlflowServer, Served
from studies_for_tests import Launcher, Place, Printed, Recorder, assert_sound, facts, models, purge, study

import pipeline
from pipeline.config import load_study_file
from pipeline.errors import StudyError, TrackingError
from pipeline.results.promote import promote
from pipeline.study.session import Options
from pipeline.study.single import train_one
from pipeline.tracking.models import load_restorer
from pipeline.tracking.registry import load_champion, registered

pytest_plugins = ["study_fixtures"]

ALL_WELL = "all is well"


def doctor(place: Place, *options: str) -> Printed:
    return study("doctor", *place.options, *options)


@pytest.fixture
def promoted(finished_copy: Place) -> Place:
    """A finished study whose best trial is champion."""
    promote(finished_copy.home, "small")
    return finished_copy


def champion_model(place: Place) -> str:
    [champion] = [version for version in registered(place.home) if "champion" in version.aliases]
    return champion.model_id


def folder(place: Place) -> Path:
    [found] = place.artifacts.glob(f"*/models/{champion_model(place)}")  # it may be there without files
    return found / "artifacts"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def run_id(place: Place) -> str:
    [champion] = [version for version in registered(place.home) if "champion" in version.aliases]
    return champion.run_id


def edit_run(place: Place, **tags: str) -> None:
    for key, value in tags.items():
        place.client().set_tag(run_id(place), key.replace("_", "."), value)


def edit_version(place: Place, **tags: str) -> None:
    for key, value in tags.items():
        place.client().set_model_version_tag("small", "1", key.replace("_", "."), value)


def change_export(place: Place) -> None:
    flip(folder(place) / "data" / "model.pt2")
    (folder(place) / "data" / "code.py").write_text("print('run me')\n")


def everything(place: Place) -> None:
    """The run deleted, the files damaged, and tags edited."""
    flip(folder(place) / "weights.safetensors")
    change_export(place)
    edit_version(place, zz_model_sha256="[1]")
    edit_run(place, zz_model_id="m-0")
    place.client().delete_run(run_id(place))


IN_PLACE: dict[str, Callable[[Place], Any]] = {
    "the run deleted": lambda place: place.client().delete_run(run_id(place)),
    "the weights changed": lambda place: flip(folder(place) / "weights.safetensors"),
    "the export changed": change_export,
    "the folder removed": lambda place: shutil.rmtree(folder(place)),
    "the model marked as failed": lambda place: place.client().finalize_logged_model(champion_model(place), "FAILED"),
    "the run's tags edited": partial(
        edit_run, zz_model_sha256="no JSON", zz_weights_sha256="0" * 64, zz_model_id="m-0"
    ),
    "the version's digests edited": partial(edit_version, zz_model_sha256="no JSON", zz_weights_sha256="0" * 64),
    "the version's origin edited": partial(edit_version, study_uid="f" * 32, trial_number="x"),
    "everything": everything,
}
LOST: dict[str, Callable[[Place], Any]] = {
    "the logged model deleted": lambda place: place.client().delete_logged_model(champion_model(place)),
    "the logged model and the run deleted": lambda place: (
        place.client().delete_logged_model(champion_model(place)),
        place.client().delete_run(run_id(place)),
    ),
}
NOT_SLOW = ("the weights changed", "everything", "the logged model deleted")  # the others take as long


@pytest.mark.parametrize(
    ("harm", "lost"),
    [
        pytest.param(harm, name in LOST, id=name, marks=[] if name in NOT_SLOW else pytest.mark.slow)
        for name, harm in (IN_PLACE | LOST).items()
    ],
)
def test_one_repair_restores_the_champion(harm: Callable[[Place], Any], lost: bool, promoted: Place) -> None:
    [before] = registered(promoted.home)
    weights = pipeline.load_model("small", home=promoted.path).state_dict()
    harm(promoted)
    found = doctor(promoted)
    assert found.code == 1
    assert "Traceback" not in found.stderr

    repaired = doctor(promoted, "--repair")
    assert (repaired.code, repaired.stderr) == (0, ""), repaired
    assert doctor(promoted).lines == [f"{promoted.path}: {ALL_WELL}"]

    versions = registered(promoted.home)
    if lost:
        assert "the model of small version 1 (champion) is lost: version 2, with the same weights" in repaired.stdout
        assert [(v.version, v.aliases) for v in versions] == [("2", ("champion",)), ("1", ())]
        assert (versions[0].tags["replaces"], versions[1].tags["replaced_by"]) == ("1", "2")
        assert versions[0].tags["test.psnr"] == before.tags["test.psnr"]
    else:
        assert [(v.version, v.aliases, v.model_id) for v in versions] == [("1", ("champion",), before.model_id)]
    assert versions[0].tags["zz.weights.sha256"] == before.tags["zz.weights.sha256"]
    restored = pipeline.load_model("small", home=promoted.path).state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in weights.items())
    assert "champion already" in study("promote", "small", "--home", promoted.path).stderr
    assert_sound(promoted)
    _, recorder = promoted.run()
    assert recorder.kind("note") == []


@pytest.mark.parametrize("command", ["run", pytest.param("doctor", marks=pytest.mark.slow)])
def test_weights_that_cannot_be_trained_again_to_the_bit_become_a_new_version(promoted: Place, command: str) -> None:
    """As on other hardware: what is recorded everywhere is the digest of weights that this machine does not make."""
    [lost] = registered(promoted.home)
    number, other = int(lost.tags["trial.number"]), "0" * 64
    promoted.search().replace_weights(number, other)
    manifest = json.dumps(json.loads(lost.tags["zz.model.sha256"]) | {"weights.safetensors": other})
    edit_run(promoted, zz_weights_sha256=other, zz_model_sha256=manifest)
    edit_version(promoted, zz_weights_sha256=other, zz_model_sha256=manifest)

    if command == "run":
        _, recorder = promoted.run()
        said = "\n".join(text for (text,) in recorder.kind("note"))
    else:
        said = doctor(promoted, "--repair").stdout
    assert f"trial {number} was trained again and has other weights than before" in said
    assert "the model of small version 1 (champion) is lost: version 2, with other weights, replaces it" in said
    assert doctor(promoted).lines == [f"{promoted.path}: {ALL_WELL}"]

    new, old = registered(promoted.home)
    assert (new.aliases, old.aliases, old.model_id) == (("champion",), (), lost.model_id)
    assert (new.tags["zz.weights.sha256"], old.tags["zz.weights.sha256"]) == (lost.tags["zz.weights.sha256"], other)
    assert promoted.search().ended(number).summary.weights_sha256 == new.tags["zz.weights.sha256"]
    pipeline.load_model("small", home=promoted.path)
    assert study("evaluate", new.run_id, "--home", promoted.path).code == 0
    assert "champion already" in study("promote", "small", "--home", promoted.path).stderr
    assert lost.model_id in [model.model_id for model in models(promoted)], "the old version names it"


@contextlib.contextmanager
def without(server: MlflowServer) -> Iterator[None]:
    """With the server stopped, and a client that does not repeat requests."""
    server.kill()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        try:
            yield
        finally:
            server.start()


@pytest.mark.slow
def test_a_champion_on_an_ordinary_server_is_verified_and_restored_there(served: Served, server: MlflowServer) -> None:
    """Its files can be read and written through the server only; `run` does not download them, `doctor` does."""
    served.run()
    promote(served.home, "small")
    [before] = registered(served.home)
    weights = load_champion(served.home, "small").state_dict()
    ready = {model.source_run_id: model.model_id for model in models(served)}

    _, recorder = served.run()
    assert recorder.kind("note") == []
    assert doctor(served).lines == [f"{served.path}: {ALL_WELL}"]
    assert {model.source_run_id: model.model_id for model in models(served)} == ready
    assert registered(served.home) == [before]

    for name in ("the weights changed", "the export changed", "the folder removed"):
        IN_PLACE[name](served)
        found = doctor(served)
        assert (found.code, len(found.lines)) == (1, 1), (name, found)
        assert found.lines[0].startswith("small: small version 1 (champion) (trial-"), (name, found)
        assert doctor(served, "--repair").code == 0
        assert doctor(served).lines == [f"{served.path}: {ALL_WELL}"], name
        [after] = registered(served.home)
        assert (after.model_id, after.aliases) == (before.model_id, before.aliases)
    with pytest.raises(StudyError, match="is unreachable") as caught, without(server):
        load_restorer(before.model_id, before.tags["zz.weights.sha256"])
    assert not isinstance(caught.value, TrackingError), "nothing is known of the model, so it is not repaired"
    everything(served)
    LOST["the logged model deleted"](served)
    assert "version 2, with the same weights" in doctor(served, "--repair").stdout
    assert doctor(served).lines == [f"{served.path}: {ALL_WELL}"]
    restored = load_champion(served.home, "small").state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in weights.items())
    assert "champion already" in study("promote", "small", *served.options).stderr
    assert_sound(served)


@pytest.mark.long
def test_a_repair_that_is_killed_is_completed_by_the_next(promoted: Place, launcher: Launcher) -> None:
    weights = pipeline.load_model("small", home=promoted.path).state_dict()
    flip(folder(promoted) / "weights.safetensors")
    LOST["the logged model deleted"](promoted)
    moments = (
        *(("INSERT INTO logged_models", 1), ("UPDATE logged_models", 1), ("INSERT INTO model_versions", 1)),
        *(("UPDATE registered_model_aliases", 1), ("INSERT INTO model_version_tags", 1)),
    )
    killed = [launcher.run("doctor", "--repair", *promoted.options, kill_before=moment).code() for moment in moments]
    assert killed == [-9] * len(moments)
    done = launcher.run("doctor", "--repair", *promoted.options)
    assert done.code() == 0, done.stdout + done.stderr
    assert doctor(promoted).lines == [f"{promoted.path}: {ALL_WELL}"]
    assert [(v.version, v.aliases) for v in registered(promoted.home)] == [("2", ("champion",)), ("1", ())]
    restored = pipeline.load_model("small", home=promoted.path).state_dict()
    assert all(torch.equal(value, restored[name]) for name, value in weights.items())
    assert_sound(promoted)


def test_a_version_whose_run_is_gone_for_good_keeps_its_model(promoted: Place) -> None:
    [before] = registered(promoted.home)
    purge(promoted, before.run_id)
    assert "lacks the runs of trial" in doctor(promoted, "--repair").stdout
    repaired = doctor(promoted, "--repair", "--retrain")
    assert "training trial" not in repaired.stdout, "the version's weights are used"
    assert doctor(promoted).lines == [f"{promoted.path}: {ALL_WELL}"]
    assert registered(promoted.home) == [before]
    pipeline.load_model("small", home=promoted.path)
    assert "champion already" in study("promote", "small", "--home", promoted.path).stderr


def test_what_a_version_names_that_someone_else_registered_is_kept(finished_copy: Place) -> None:
    client = finished_copy.client()
    run = next(run for run in finished_copy.runs("trial") if run.data.tags["trial.state"] == "PRUNED")
    model = client.create_logged_model(run.info.experiment_id, name="model", source_run_id=run.info.run_id)
    client.create_registered_model("theirs")
    client.create_model_version("theirs", f"models:/{model.model_id}", run.info.run_id, model_id=model.model_id)
    assert doctor(finished_copy, "--repair").lines == [f"{finished_copy.path}: {ALL_WELL}"]
    assert model.model_id in [kept.model_id for kept in models(finished_copy)]
    refused = study("promote", "small", "--trial", run.data.tags["trial.number"], "--home", finished_copy.path)
    assert refused.code == 2
    [version] = registered(finished_copy.home)
    assert version.tags == {}


def test_a_sound_model_of_a_run_left_running_is_neither_trained_nor_logged_again(finished_copy: Place) -> None:
    run = next(run for run in finished_copy.runs("trial") if run.data.tags["trial.state"] == "COMPLETE")
    finished_copy.client().update_run(run.info.run_id, status="RUNNING")
    assert "training trial" not in doctor(finished_copy, "--repair").stdout
    after = finished_copy.client().get_run(run.info.run_id)
    assert json.loads(after.data.tags["zz.model.sha256"]) == json.loads(run.data.tags["zz.model.sha256"])


def test_a_model_whose_location_was_edited_in_the_database_is_left_alone(
    finished: Place, finished_copy: Place, tmp_path: Path
) -> None:
    """Its files would be written, and those that are not a model's deleted, wherever the location says."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.txt").write_text("years of work\n")
    run = next(run for run in finished_copy.runs("trial") if run.data.tags["trial.state"] == "COMPLETE")
    with contextlib.closing(sqlite3.connect(finished_copy.path / "mlflow.db")) as database, database:
        change = "update logged_models set artifact_location = ? where model_id = ?"
        database.execute(change, (theirs.as_uri(), run.data.tags["zz.model.id"]))
    assert "which is not in its experiment" in doctor(finished_copy).stdout
    assert doctor(finished_copy, "--repair").code == 0
    assert doctor(finished_copy).lines == [f"{finished_copy.path}: {ALL_WELL}"]
    assert [path.name for path in theirs.iterdir()] == ["thesis.txt"]
    assert facts(finished_copy) == facts(finished)


def test_a_registered_single_training_is_trained_again_in_place(place: Place) -> None:
    overrides = ("enqueue=[]", "model.bottleneck=32", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")
    file = load_study_file(place.file, overrides, "alone")
    train_one(file, place.home, Options(device="cpu"), Recorder())
    (run,) = place.runs("train", "alone")
    model_id, client = run.data.tags["zz.model.id"], place.client()
    client.create_registered_model("by-hand")
    client.create_model_version("by-hand", f"models:/{model_id}", run.info.run_id, model_id=model_id)
    [artifacts] = (place.path / "artifacts").glob(f"alone-*/models/{model_id}/artifacts")
    flip(artifacts / "weights.safetensors")
    assert "run the same `study train` again" in doctor(place, "--repair").stdout
    train_one(file, place.home, Options(device="cpu"), Recorder())
    (again,) = place.runs("train", "alone")
    assert again.data.tags["zz.model.id"] == model_id
    assert again.data.tags["zz.weights.sha256"] == run.data.tags["zz.weights.sha256"]
    assert doctor(place).lines == [f"{place.path}: {ALL_WELL}"]
    assert study("evaluate", again.info.run_id, "--home", place.path).code == 0
