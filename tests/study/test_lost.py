"""A database or a run that is lost: what cannot be repaired without a question is refused, and nothing is changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies_for_tests import TRIALS, Place, Printed, Recorder, assert_sound, facts, panels, purge, study

from pipeline.errors import Interrupted
from pipeline.tracking.runs import metric_histories, read_run

pytest_plugins = ["study_fixtures"]


def contents(place: Place) -> dict[str, bytes]:
    """All files of a home but its locks."""
    files = [path for path in place.path.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {str(path.relative_to(place.path)): path.read_bytes() for path in files}


def refused(place: Place, *said: str, commands: tuple[str, ...] = ("doctor", "run", "train", "promote")) -> None:
    """Check that every command that repairs or writes ends with these words, and that none changes a file."""
    home, before = ("--home", str(place.path)), contents(place)
    for command in commands:
        if command == "doctor":
            done = study("doctor", "--repair", *home)
            text = done.stdout or done.stderr  # a finding, or the end of the command
        else:
            first = str(place.file) if command in ("run", "train") else "small"
            more = {"run": ["--workers", "0"], "promote": ["--force"], "train": SINGLE}.get(command, ["--yes"])
            done = study(command, first, *more, *home)
            text = done.stderr
        assert (done.code, len(text.splitlines())) == (1, 1), (command, done)
        assert all(part in text for part in said), (command, text)
        assert "unexpected" not in text, (command, text)
        assert contents(place) == before, command


SINGLE = [part for key in ("enqueue=[]", "model.bottleneck=32", "train.lr=1e-2") for part in ("--set", key)]
SINGLE += ["--set", "model.activation=relu", "--set", "train.optimizer=adam"]


def test_a_lost_optuna_database_is_refused_and_can_be_put_back(finished: Place, finished_copy: Place) -> None:
    database = finished_copy.path / "optuna.db"
    kept = database.rename(finished_copy.path.parent / "kept.db")
    refused(finished_copy, str(database), f"lacks trials 0 to {TRIALS - 1} of study small", "`study delete small`")
    kept.rename(database)
    assert study("doctor", "--home", str(finished_copy.path)).code == 0
    assert facts(finished_copy) == facts(finished)


def test_what_is_left_of_a_study_that_optuna_lost_can_be_deleted(place: Place) -> None:
    """Of a study that was stopped: with checkpoints, which the database's loss leaves behind."""

    def stop(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch":
            raise Interrupted

    with pytest.raises(Interrupted):
        place.run(reporter=Recorder(stop))
    (place.path / "optuna.db").unlink()
    refused(place, "optuna.db lacks trial", "of study small")
    assert study("delete", "small", "--yes", "--home", str(place.path)).code == 0
    assert not [path for folder in ("checkpoints", "artifacts") for path in (place.path / folder).glob("*")]
    assert study("doctor", "--home", str(place.path)).stdout.endswith("all is well\n")


@pytest.mark.slow
@pytest.mark.parametrize("database", ["optuna.db", "mlflow.db"])
@pytest.mark.parametrize("when", ["begun", "epoch"])
def test_a_database_restored_from_a_backup_is_refused(finished_copy: Place, database: str, when: str) -> None:
    """The backup was made before a further trial was asked, or while it was trained."""
    backup = finished_copy.path.parent / "backup.db"

    def make(event: tuple[Any, ...]) -> None:
        if event[0] == when and not backup.exists():
            shutil.copy(finished_copy.path / database, backup)

    finished_copy.run(trials=TRIALS + 2, reporter=Recorder(make))
    now = contents(finished_copy)
    shutil.copy(backup, finished_copy.path / database)
    if database == "mlflow.db" and when == "epoch":  # it has the runs of both trials, as they were when they had begun
        assert study(*finished_copy.arguments("--workers", "0", "--trials", str(TRIALS + 2))).code == 0
        assert_sound(finished_copy, TRIALS + 2)
        return
    refused(
        finished_copy, str(finished_copy.path / database), "lacks ", f"{TRIALS + 1} of study small", "the file back"
    )
    (finished_copy.path / database).write_bytes(now[database])
    assert_sound(finished_copy, TRIALS + 2)


@pytest.mark.parametrize("database", ["optuna.db", "mlflow.db"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _: b"", "is empty"),
        (lambda data: data[: len(data) // 2], "is damaged (database disk image is malformed)"),
        (lambda _: b"not a database " * 400, "is damaged (file is not a database)"),
    ],
    ids=["empty", "cut off", "something else"],
)
def test_a_damaged_database_is_named_and_left_unchanged(
    finished_copy: Place, database: str, damage: Callable[[bytes], bytes], said: str
) -> None:
    file = finished_copy.path / database
    file.write_bytes(damage(file.read_bytes()))
    commands = ("doctor", "run", "train", "promote", "delete")
    refused(finished_copy, str(file), said, "put the file back", commands=commands)
    reading = ["list"] if database == "optuna.db" else ["models"]
    before = contents(finished_copy)
    assert (study(*reading, "--home", str(finished_copy.path)).code, contents(finished_copy)) == (1, before)


def test_a_lost_mlflow_database_is_refused(finished_copy: Place) -> None:
    (finished_copy.path / "mlflow.db").unlink()
    said = (str(finished_copy.path / "mlflow.db"), f"runs of trials 0 to {TRIALS - 1} of study small", "--retrain")
    refused(finished_copy, *said)


def test_retraining_goes_with_repair_only(finished_copy: Place) -> None:
    done = study("doctor", "--retrain", "--home", str(finished_copy.path))
    assert (done.code, "goes with --repair" in done.stderr) == (2, True)


@pytest.mark.slow
def test_a_lost_run_is_made_again_from_its_checkpoints(finished_copy: Place) -> None:
    """As after a kill between the trial's end in Optuna and that of its run: nothing is lost, nothing is trained."""
    kept = finished_copy.path.parent / "kept"
    kept.mkdir()

    def keep(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch":
            folder = finished_copy.home.checkpoints(finished_copy.search().uid) / f"{event[1]:04d}"
            shutil.copytree(folder, kept / folder.name, dirs_exist_ok=True)

    finished_copy.run(trials=TRIALS + 2, reporter=Recorder(keep))
    number = min(int(folder.name) for folder in kept.iterdir())
    before = facts(finished_copy)
    (lost,) = [run for run in finished_copy.runs("trial") if run.data.tags["trial.number"] == str(number)]
    histories = metric_histories(finished_copy.home, read_run(finished_copy.home, lost.info.run_id))
    pictures = panels(finished_copy, lost)
    purge(finished_copy, lost.info.run_id)
    folder = finished_copy.home.checkpoints(finished_copy.search().uid) / f"{number:04d}"
    shutil.copytree(kept / folder.name, folder)

    done = study("doctor", "--repair", "--home", str(finished_copy.path))
    assert (done.code, "training trial" in done.stdout) == (0, False), done
    (made,) = [run for run in finished_copy.runs("trial") if run.data.tags["trial.number"] == str(number)]
    assert "reconstructed" not in made.data.tags
    assert metric_histories(finished_copy.home, read_run(finished_copy.home, made.info.run_id)) == histories
    assert panels(finished_copy, made) == pictures
    assert facts(finished_copy) == before
    assert study("doctor", "--home", str(finished_copy.path)).code == 0


def test_checkpoints_of_a_study_that_no_database_knows_are_left_unchanged(finished_copy: Place) -> None:
    folder = finished_copy.home.checkpoints("f" * 32) / "0003"
    folder.mkdir(parents=True)
    (folder / f"epoch-0001-{'0' * 64}.safetensors").write_bytes(b"weights")
    before = contents(finished_copy)
    done: Printed = study("doctor", "--repair", "--home", str(finished_copy.path))
    assert (done.code, len(done.lines)) == (1, 1)
    assert done.stdout.startswith(f"-: {folder.parent}: checkpoints of a study that neither Optuna nor MLflow knows")
    assert contents(finished_copy) == before


def test_a_deletion_that_was_interrupted_is_not_taken_for_a_loss(finished_copy: Place) -> None:
    experiment = finished_copy.client().get_experiment_by_name("small")
    assert experiment is not None
    finished_copy.client().set_experiment_tag(experiment.experiment_id, "study.deleted", "true")
    refused(finished_copy, "run `study delete small` again", commands=("doctor", "run"))
    assert study("delete", "small", "--yes", "--home", str(finished_copy.path)).code == 0


def test_a_home_that_was_never_used_has_lost_nothing(tmp_path: Path) -> None:
    done = study("doctor", "--home", str(tmp_path))
    assert (done.code, "there is no home of studies" in done.stderr) == (2, True)
