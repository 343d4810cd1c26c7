"""Whose is it? No command changes or removes what belongs to another home, or to nobody of this program.

Copies of a home, two homes on one store, paths of other folders in the databases: each test runs the commands and
compares a checksum of what they must leave alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import ViewType
from servers import MlflowServer, Postgres, Served
from studies_for_tests import (
    Launcher,
    Place,
    Printed,
    assert_same_as,
    checksum,
    new_place,
    stop_between_transactions,
    study,
)

from pipeline.results.promote import promote

pytest_plugins = ["study_fixtures"]

SINGLE = ("--set", "model.bottleneck=16", "--set", "model.activation=relu", "--set", "train.lr=0.01")


def ask(place: Place, command: str, *arguments: str) -> Printed:
    """Call a command on a place."""
    return study(command, *arguments, *place.options)


def run(place: Place, *arguments: str) -> Printed:
    return ask(place, "run", str(place.file), "--workers", "0", *arguments)


def assert_well(place: Place) -> None:
    done = ask(place, "doctor")
    assert (done.code, "all is well" in done.stdout) == (0, True), done


# --- a copied home ------------------------------------------------------------------------------------------------


@pytest.fixture
def original(finished_copy: Place) -> Place:
    """A home with a champion, which a test copies."""
    promote(finished_copy.home, "small")
    return finished_copy


@pytest.fixture
def backup(original: Place) -> Place:
    """A copy made with `cp -r`."""
    path = original.path.with_name("backup")
    shutil.copytree(original.path, path, symlinks=True)
    return Place(path, original.file)


WRITING: dict[str, Callable[[Place], Printed]] = {
    "run": run,
    "run --trials": lambda place: run(place, "--trials", "8"),
    "run --name": lambda place: run(place, "--name", "other"),
    "train": lambda place: ask(place, "train", str(place.file), *SINGLE),
    "promote": lambda place: ask(place, "promote", "small", "--trial", "1", "--force"),
    "delete": lambda place: ask(place, "delete", "small", "--yes"),
    "doctor --repair": lambda place: ask(place, "doctor", "--repair"),
}


def test_commands_that_write_are_refused_on_a_copy(original: Place, backup: Place) -> None:
    before = checksum(original.path), checksum(backup.path)
    for name, command in WRITING.items():
        done = command(backup)
        assert (done.code, len(done.stderr.splitlines())) == (2, 1), (name, done)
        assert f"is a copy of {original.path}" in done.stderr, name
        assert "--adopt" in done.stderr, name
        assert (checksum(original.path), checksum(backup.path)) == before, name
    assert_well(original)


def test_a_copy_can_be_read(original: Place, backup: Place, tmp_path: Path) -> None:
    before = checksum(original.path), checksum(backup.path)
    for command in (["list"], ["show", "small"], ["models"], ["export", "small", "-o", str(tmp_path / "table.csv")]):
        done = ask(backup, *command)
        assert (done.code, done.stderr) == (0, ""), done
        assert "small" in done.stdout
    assert "unexpected" not in ask(backup, "doctor").stderr
    assert (checksum(original.path), checksum(backup.path)) == before


@pytest.mark.slow
def test_an_adopted_copy_and_its_original_leave_each_other_alone(original: Place, backup: Place) -> None:
    before = checksum(original.path)
    done = ask(backup, "doctor", "--adopt")
    assert (done.code, done.stderr) == (0, ""), done
    identities = [json.loads((place.path / "home.json").read_text()) for place in (original, backup)]
    assert identities[0]["id"] != identities[1]["id"]
    assert [identity["path"] for identity in identities] == [str(original.path), str(backup.path)]
    assert_well(backup)

    done = run(backup, "--trials", "7")
    assert (done.code, done.stderr) == (0, ""), done
    assert checksum(original.path) == before

    adopted = checksum(backup.path)
    assert run(original, "--trials", "8").code == 0
    assert ask(original, "delete", "small", "--yes").code == 0
    assert checksum(backup.path) == adopted
    assert_well(backup)
    assert ask(backup, "delete", "small", "--yes").code == 0
    left = [path for path in backup.path.rglob("*") if path.suffix in (".png", ".pt2", ".safetensors")]
    assert [path for path in left if "judges" not in path.parts] == []


@pytest.mark.slow
def test_a_moved_home_leaves_alone_what_now_stands_at_its_old_place(finished: Place, original: Place) -> None:
    moved = Place(original.path.with_name("moved"), original.file)
    original.path.rename(moved.path)
    shutil.copytree(moved.path / "artifacts", original.path / "artifacts")
    shutil.copytree(moved.path / "judges", original.path / "judges")
    before = checksum(original.path)
    assert run(moved).code == 0
    assert_well(moved)
    assert ask(moved, "delete", "small", "--yes").code == 0
    assert checksum(original.path) == before
    assert finished.path.is_dir()


# --- two homes on one store ---------------------------------------------------------------------------------------


def two_places(migrated: Path, tmp_path: Path, **stores: Any) -> tuple[Served, Served]:
    """Two homes, each with the study file, on the same stores."""
    places = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        place = new_place(migrated, folder)
        if "uri" in stores:
            (place.path / "mlflow.db").unlink()
        places.append(Served(place.path, place.file, **stores))
    return places[0], places[1]


@pytest.fixture(params=["sqlite", "server"])
def tracked_together(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> tuple[Served, Served]:
    """Two homes with one MLflow store: a sqlite file, or a server."""
    if request.param == "server":
        server: MlflowServer = request.getfixturevalue("server")
        return two_places(migrated, tmp_path, uri=server.uri, files=server.artifacts)
    shutil.copy(migrated / "mlflow.db", tmp_path)
    return two_places(migrated, tmp_path, uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


def in_mlflow(place: Place) -> dict[str, Any]:
    """Everything that MLflow has of every study: experiments, runs, models and versions."""
    client, found = place.client(), {}
    for experiment in client.search_experiments(ViewType.ALL):
        ids = [experiment.experiment_id]
        found[f"experiment {ids[0]}"] = dict(experiment)
        for run in client.search_runs(ids, run_view_type=ViewType.ALL):
            found[f"run {run.info.run_id}"] = run.to_dictionary()
        for model in client.search_logged_models(ids):
            found[f"model {model.model_id}"] = model.to_dictionary()
    for version in client.search_model_versions():
        found[f"version {version.name} {version.version}"] = dict(version)
    return found


@pytest.mark.slow
def test_a_study_of_a_name_that_another_home_uses_is_refused(tracked_together: tuple[Served, Served]) -> None:
    first, second = tracked_together
    assert run(first).code == 0
    assert ask(first, "promote", "small").code == 0
    before = in_mlflow(first), checksum(first.path)
    for name, command in WRITING.items():
        if name != "run --name":
            done = command(second)
            assert "unexpected" not in done.stderr, (name, done)
            assert (in_mlflow(first), checksum(first.path)) == before, name
            if name in ("run", "run --trials", "train"):
                assert (done.code, "--name OTHER" in done.stderr) == (2, True), (name, done)
            elif name != "doctor --repair":
                assert done.code == 2, (name, done)

    done = run(second, "--name", "other", "--trials", "2")
    assert (done.code, done.stderr) == (0, ""), done
    assert before[0].items() <= in_mlflow(first).items()
    assert ask(second, "delete", "other", "--yes").code == 0
    assert before[0].items() <= in_mlflow(first).items()
    assert checksum(first.path) == before[1]
    assert_well(first)


@pytest.mark.slow
def test_doctor_leaves_another_home_s_unfinished_study_alone(
    finished: Place, tracked_together: tuple[Served, Served], launcher: Launcher, tmp_path: Path
) -> None:
    """Its driver was stopped, then killed: some of its runs are RUNNING, some models are not READY."""
    first, second = tracked_together
    assert run(second, "--name", "other", "--trials", "2").code == 0
    command = launcher.start(*first.arguments("--workers", "0"))
    command.until("trial    1  epoch 2/")
    stop_between_transactions(command.pid, tmp_path)
    before = in_mlflow(first), checksum(first.path)
    for _ in range(2):
        assert ask(second, "doctor", "--repair").code == 0
        assert (in_mlflow(first), checksum(first.path)) == before
        with contextlib.suppress(ProcessLookupError):  # it is gone at the second time
            os.kill(command.pid, signal.SIGKILL)
        command.code()
    assert run(first).code == 0
    assert_same_as(finished, first)


@pytest.fixture(params=["sqlite", "postgresql"])
def stored_together(request: pytest.FixtureRequest, migrated: Path, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """Two homes with one database of Optuna's."""
    if request.param == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        yield two_places(migrated, tmp_path, storage=postgres.database())
    else:
        yield two_places(migrated, tmp_path, storage=f"sqlite:///{tmp_path / 'optuna.db'}")


@pytest.mark.slow
def test_one_storage_admits_one_driver_of_a_study(
    finished: Place, stored_together: tuple[Served, Served], launcher: Launcher, tmp_path: Path
) -> None:
    first, second = stored_together
    command = launcher.start(*first.arguments("--workers", "0"))
    command.until("epoch 1/")
    stop_between_transactions(command.pid, tmp_path)
    untouched = checksum(second.path / "artifacts")
    try:
        done = run(second)
    finally:
        os.kill(command.pid, signal.SIGCONT)
    assert (done.code, len(done.stderr.splitlines())) == (2, 1), done
    assert f"process {command.pid} on {socket.gethostname()}" in done.stderr
    assert command.code() == 0, command.stderr

    before = checksum(first.path)
    for name in ("run", "run --trials", "delete"):  # it has ended, and still belongs to the first home
        done = WRITING[name](second)
        assert (done.code, str(first.path) in done.stderr) == (2, True), (name, done)
    assert ask(second, "doctor", "--repair").code in (0, 1)
    assert checksum(first.path) == before
    assert checksum(second.path / "artifacts") == untouched
    assert_same_as(finished, first)
    assert_well(first)


@pytest.mark.slow
def test_the_lock_of_a_storage_ends_with_its_driver(stored_together: tuple[Served, Served], launcher: Launcher) -> None:
    first, _ = stored_together
    command = launcher.start(*first.arguments("--workers", "0"))
    command.until("epoch 1/")
    os.kill(command.pid, signal.SIGKILL)
    assert command.code() == -signal.SIGKILL
    for _ in range(50):  # PostgreSQL notices a closed connection in a moment
        done = run(first)
        if "is being run" not in done.stderr:
            break
        time.sleep(0.1)
    assert (done.code, done.stderr) == (0, ""), done


# --- paths in the databases ---------------------------------------------------------------------------------------


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder of somebody else's, with names such as ours."""
    folder = tmp_path / "foreign"
    for file in ("images/holiday.png", "artifacts/images/holiday.png", "0000/epoch-1.safetensors", "thesis.tex"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("mine")
    return folder


def execute(database: Path, statement: str, *values: str) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        assert connection.execute(statement, values).rowcount > 0, statement


DELETED = "insert into experiments (name, artifact_location, lifecycle_stage) values (?, ?, 'deleted')"
LOCATIONS = {
    "an experiment's": "update experiments set artifact_location = ? where name = 'small'",
    "the runs'": "update runs set artifact_uri = ?",
    "the models'": "update logged_models set artifact_location = ?",
}
FORMS: dict[str, Callable[[Place, Path], str]] = {
    "a URI": lambda _, foreign: foreign.as_uri(),
    "a path": lambda _, foreign: str(foreign),
    "a URI with dots": lambda place, foreign: f"{place.path.as_uri()}/artifacts/../../{foreign.name}",
}
DESTRUCTIVE = {name: WRITING[name] for name in ("run", "run --trials", "promote", "doctor --repair", "delete")}


@pytest.mark.parametrize(
    ("whose", "form"),
    [*(("an experiment's", form) for form in FORMS), ("the runs'", "a URI"), ("the models'", "a URI")],
)
def test_a_foreign_path_in_mlflow_s_database_is_left_alone(
    finished_copy: Place, foreign: Path, whose: str, form: str
) -> None:
    execute(finished_copy.path / "mlflow.db", LOCATIONS[whose], FORMS[form](finished_copy, foreign))
    before = checksum(foreign)
    doctor = ask(finished_copy, "doctor")
    assert (doctor.code, foreign.name in doctor.stdout + doctor.stderr) == (1, True), doctor
    for name, command in DESTRUCTIVE.items():
        done = command(finished_copy)
        assert checksum(foreign) == before, name
        assert "unexpected" not in done.stderr, (name, done)
        if whose != "the models'":  # a model that is not where it must be is made again, as one that is lost
            assert (done.code in (1, 2), foreign.name in done.stdout + done.stderr) == (True, True), (name, done)


UIDS: dict[str, Callable[[Place, str], None]] = {
    "of the study, in Optuna": lambda place, uid: execute(
        place.path / "optuna.db", "update study_user_attributes set value_json = ? where key = 'uid'", json.dumps(uid)
    ),
    "of the study, in MLflow": lambda place, uid: execute(
        place.path / "mlflow.db", "update experiment_tags set value = ? where key = 'study.uid'", uid
    ),
    "of the runs": lambda place, uid: execute(
        place.path / "mlflow.db", "update tags set value = ? where key = 'trial.uid'", f"{uid}-0"
    ),
    "of a single training": lambda place, uid: _single_training(place, uid),
}


def _single_training(place: Place, uid: str) -> None:
    client = place.client()
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    tags = {"study.role": "train", "trial.uid": f"{uid}-0", "study.name": "small"}
    client.set_terminated(client.create_run(experiment.experiment_id, tags=tags).info.run_id)


@pytest.mark.parametrize(
    ("whose", "form"), [*((whose, "absolute") for whose in UIDS), ("of the study, in Optuna", "relative")]
)
def test_a_uid_that_is_a_path_removes_nothing(finished_copy: Place, foreign: Path, whose: str, form: str) -> None:
    """Checkpoints lie in a folder named by the uid."""
    UIDS[whose](finished_copy, str(foreign) if form == "absolute" else f"../../{foreign.name}")
    before = checksum(foreign)
    for name in ("doctor --repair", "run", "delete"):
        done = WRITING[name](finished_copy)
        assert checksum(foreign) == before, name
        assert "unexpected" not in done.stderr, (name, done)


def test_an_experiment_that_somebody_else_deleted_is_not_purged(finished_copy: Place, foreign: Path) -> None:
    execute(finished_copy.path / "mlflow.db", DELETED, "deleted-1-small", foreign.as_uri())
    before = checksum(foreign)
    for name in ("doctor --repair", "run", "delete"):
        WRITING[name](finished_copy)
        assert checksum(foreign) == before, name


def test_a_folder_of_checkpoints_that_is_a_link_is_not_followed(finished_copy: Place, foreign: Path) -> None:
    checkpoints = finished_copy.path / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    (checkpoints / ("0" * 32)).symlink_to(foreign)
    before = checksum(foreign)
    for name in ("run", "doctor --repair", "delete"):
        done = WRITING[name](finished_copy)
        assert "unexpected" not in done.stderr, (name, done)
        assert checksum(foreign) == before, name
