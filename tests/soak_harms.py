"""The harms of the soak: what may happen to a home, each with what must follow.

A harm raises if anything is not as expected. All end with `Soak.settle`.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import sqlalchemy
from soak_world import NAME, Soak, content, expect
from studies_for_tests import wait_for, workers_of

HARMS: dict[str, Callable[[Soak], None]] = {}
PLAIN_ONLY: set[str] = set()
SERVERS_ONLY: set[str] = set()


def harm(function: Callable[[Soak], None]) -> Callable[[Soak], None]:
    HARMS[function.__name__] = function
    return function


def plain_only(function: Callable[[Soak], None]) -> Callable[[Soak], None]:
    """A harm to files that servers do not have."""
    PLAIN_ONLY.add(function.__name__)
    return harm(function)


def servers_only(function: Callable[[Soak], None]) -> Callable[[Soak], None]:
    SERVERS_ONLY.add(function.__name__)
    return harm(function)


@contextlib.contextmanager
def put_back(file: Path) -> Iterator[Path]:
    """A file that is as it was afterwards; gives a copy of it."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(shutil.copy2(file, folder))
        try:
            yield kept
        finally:
            shutil.copy2(kept, file)


def flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)


def signal_to(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, which)


def worker_of(soak: Soak, driver: int) -> int | None:
    """One of a driver's workers, if there is any."""
    with contextlib.suppress(psutil.Error):  # the driver has ended
        if found := workers_of(driver):
            return soak.chance.choice(found).pid
    return None


# --- harms to processes -------------------------------------------------------------------------------------------


@harm
def driver_killed(soak: Soak) -> None:
    command = soak.start(workers=soak.chance.choice([0, 2]))
    soak.a_while(1)
    signal_to(command.pid, signal.SIGKILL)
    wait_for(command.ended, "the end of a killed driver")
    expect(command.code() in (-signal.SIGKILL, 0), f"ended with {command.code()}")
    soak.settle()


@harm
def worker_killed(soak: Soak) -> None:
    command = soak.start(workers=2)
    if worker := worker_of(soak, command.pid):
        signal_to(worker, signal.SIGKILL)
    soak.ended(command, 0)
    soak.settle()


@harm
def driver_stopped_for_a_while(soak: Soak) -> None:
    command = soak.start(workers=soak.chance.choice([0, 2]))
    signal_to(command.pid, signal.SIGSTOP)
    soak.a_while(5)
    signal_to(command.pid, signal.SIGCONT)
    soak.ended(command, 0)
    soak.settle()


@harm
def worker_stopped_for_a_while(soak: Soak) -> None:
    command = soak.start(workers=2)
    if worker := worker_of(soak, command.pid):
        signal_to(worker, signal.SIGSTOP)
        soak.a_while(5)
        signal_to(worker, signal.SIGCONT)
    soak.ended(command, 0)
    soak.settle()


@harm
def interrupted(soak: Soak) -> None:
    command = soak.start(workers=soak.chance.choice([0, 2]))
    soak.a_while(1)
    for _ in range(soak.chance.choice([1, 2])):
        signal_to(command.pid, signal.SIGINT)
    soak.ended(command, 130, 0)
    soak.settle()


@harm
def checkpoint_damaged(soak: Soak) -> None:
    command = soak.start()
    signal_to(command.pid, signal.SIGKILL)
    wait_for(command.ended, "the end of a killed driver")
    for file in (soak.place.path / "checkpoints").rglob("*.safetensors"):
        flip(file, soak.chance)
    soak.settle()


@harm
def second_driver(soak: Soak) -> None:
    command = soak.start()
    signal_to(command.pid, signal.SIGSTOP)
    try:
        if not command.ended():
            words = [sys.executable, "-m", "pipeline", *soak.place.arguments("--workers", "0")]
            second = subprocess.run(words, capture_output=True, text=True, check=False)
            expect((second.returncode, f"process {command.pid} " in second.stderr) == (2, True), second.stderr)
    finally:
        signal_to(command.pid, signal.SIGCONT)
    soak.ended(command, 0)
    soak.settle()


# --- servers and databases that are away --------------------------------------------------------------------------


@plain_only
def database_locked(soak: Soak) -> None:
    command = soak.start()
    file = soak.place.path / soak.chance.choice(["optuna.db", "mlflow.db"])
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as connection:
        connection.execute("begin exclusive")
        soak.a_while(5)
        connection.rollback()
    soak.ended(command, 0)
    soak.settle()


def away(soak: Soak, *which: str) -> None:
    assert soak.servers is not None
    postgres, server = soak.servers
    command = soak.start()
    if "postgres" in which:
        soak.chance.choice([postgres.stop, postgres.crash])()
    if "server" in which:
        server.kill()
    soak.a_while(10)
    if "postgres" in which:
        postgres.start()
    if "server" in which:
        server.start()
    soak.ended(command, 0)
    soak.settle()


@servers_only
def postgres_away(soak: Soak) -> None:
    away(soak, "postgres")


@servers_only
def mlflow_server_away(soak: Soak) -> None:
    away(soak, "server")


@servers_only
def both_servers_away(soak: Soak) -> None:
    away(soak, "postgres", "server")


# --- edits in MLflow's UI -----------------------------------------------------------------------------------------


@harm
def run_deleted(soak: Soak) -> None:
    soak.place.client().delete_run(soak.pick("trial", "baseline", "study").info.run_id)
    soak.settle(repair=True, found=True)


@harm
def run_deleted_while_the_study_runs(soak: Soak) -> None:
    command = soak.start()
    runs = soak.place.runs("trial")
    soak.place.client().delete_run(soak.chance.choice([runs[-1], runs[-1], soak.pick()]).info.run_id)
    soak.ended(command, 0, 1)
    soak.settle(repair=True)


@harm
def tag_changed(soak: Soak) -> None:
    run = soak.complete()
    tags = {
        "study.role": "a role",
        "study.name": "a name",
        "trial.uid": "../../foreign-0",
        "trial.number": "seven",
        "trial.state": "FAIL",
        "zz.model.id": "m-0",
        "zz.model.sha256": "{not JSON",
    }
    key = soak.chance.choice(list(tags))
    soak.place.client().set_tag(run.info.run_id, key, tags[key])
    soak.settle(repair=True)
    after = soak.place.client().get_run(run.info.run_id)
    if after.info.lifecycle_stage == "active":
        expect(after.data.tags[key] == run.data.tags[key], f"the tag {key} is {after.data.tags[key]!r}")


@harm
def wrong_metric_logged(soak: Soak) -> None:
    run = soak.complete()
    soak.edited.add(int(run.data.tags["trial.number"]))
    soak.place.client().log_metric(run.info.run_id, "objective", 99.0)
    soak.settle(repair=True, found=True)
    after = soak.place.client().get_run(run.info.run_id).data.metrics["objective"]
    expect(after == run.data.metrics["objective"], f"the objective is {after}")


@harm
def model_deleted(soak: Soak) -> None:
    soak.place.client().delete_logged_model(soak.complete().data.tags["zz.model.id"])
    soak.settle(repair=True, found=True)


@harm
def experiment_deleted_and_restored(soak: Soak) -> None:
    client = soak.place.client()
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    try:
        done = soak.ask("run", str(soak.file), "--workers", "0", "--trials", str(soak.trials), code=(1, 2))
        expect("restore" in done.stderr, done.stderr)
    finally:
        client.restore_experiment(experiment.experiment_id)
    soak.settle()


@harm
def experiment_renamed(soak: Soak) -> None:
    client = soak.place.client()
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "renamed")
    soak.trials += 1
    try:
        soak.run()
        soak.ask("doctor", "--repair")
    finally:
        again = client.get_experiment_by_name(NAME)
        if again is None:
            client.rename_experiment(experiment.experiment_id, NAME)
    expect(again is None or again.experiment_id == experiment.experiment_id, "the study has a second experiment")
    soak.settle()


# --- files --------------------------------------------------------------------------------------------------------


@harm
def model_file_deleted(soak: Soak) -> None:
    soak.chance.choice(soak.model_files(soak.complete())).unlink()
    soak.settle(repair=True, found=True)


@harm
def byte_of_a_model_flipped(soak: Soak) -> None:
    flip(soak.chance.choice(soak.model_files(soak.complete())), soak.chance)
    soak.settle(repair=True, found=True)


@harm
def panels_deleted(soak: Soak) -> None:
    run = soak.complete()
    soak.edited.add(int(run.data.tags["trial.number"]))
    [folder] = [path for path in soak.place.artifacts.rglob("images") if run.info.run_id in path.parts]
    shutil.rmtree(folder)
    soak.settle(repair=True, found=True)


@harm
def checkpoints_of_no_study(soak: Soak) -> None:
    """They may be all that is left of a study whose database was lost: only the user may remove them."""
    folder = soak.place.path / "checkpoints" / ("0" * 32)
    folder.mkdir(parents=True)
    try:
        soak.refused("by hand", ("doctor", "--repair"))
    finally:
        folder.rmdir()
    soak.settle()


@plain_only
def stray_file_among_images(soak: Soak) -> None:
    """Of a server, `doctor` sees no folder."""
    run = soak.complete()
    [folder] = [path for path in soak.place.artifacts.rglob("images") if run.info.run_id in path.parts]
    (folder / "notes.txt").write_text("not an image")
    soak.settle(repair=True, found=True)


@plain_only
def artifacts_deleted(soak: Soak) -> None:
    soak.edited |= set(range(soak.trials))  # their pictures, but those of the best epochs, are lost
    shutil.rmtree(soak.place.path / "artifacts")
    soak.ask("doctor", "--repair")
    soak.settle()


@harm
def home_copied(soak: Soak) -> None:
    copy = soak.at(soak.folder / "copy")
    shutil.copytree(soak.place.path, copy.path, symlinks=True)
    soak.ask("list", place=copy)
    soak.refused(f"is a copy of {soak.place.path}", *soak.writing, place=copy)
    if soak.servers is None:
        before = content(soak.place.path)
        soak.ask("doctor", "--adopt", place=copy)
        soak.ask("delete", NAME, "--yes", place=copy)
        expect(content(soak.place.path) == before, "deleting the study of an adopted copy changed the original")
    shutil.rmtree(copy.path)
    soak.settle()


@harm
def home_moved_and_back(soak: Soak) -> None:
    old, moved = soak.place, soak.at(soak.folder / "moved")
    for place in (moved, old):
        soak.place.path.rename(place.path)
        soak.place = place
        soak.trials += 1
        soak.settle()


def backup_restored(soak: Soak, name: str) -> None:
    """A database as it was before the last trial is refused; with the right one all is well."""
    database = soak.place.path / name
    backup = Path(shutil.copy2(database, soak.folder))
    soak.trials += 1
    soak.run()
    with put_back(database):
        shutil.copy2(backup, database)
        soak.refused(name, *soak.writing[:2])
    soak.settle()


@plain_only
def backup_of_optuna_restored(soak: Soak) -> None:
    backup_restored(soak, "optuna.db")


@plain_only
def database_of_optuna_lost(soak: Soak) -> None:
    with put_back(soak.place.path / "optuna.db") as kept:
        file = soak.place.path / "optuna.db"
        file.unlink()
        if soak.chance.random() < 0.5:
            file.write_bytes(kept.read_bytes()[: soak.chance.randrange(8192)])
        soak.refused("optuna.db", *soak.writing[:2])
    soak.settle()


@plain_only
def backup_of_mlflow_restored(soak: Soak) -> None:
    backup_restored(soak, "mlflow.db")


@harm
def foreign_path_in_the_database(soak: Soak) -> None:
    """A run's artifacts are said to be in the foreign folder, or in the second home."""
    run, path = soak.complete(), soak.chance.choice([soak.foreign, soak.neighbour.path / "artifacts"])
    url = f"sqlite:///{soak.place.path / 'mlflow.db'}" if soak.servers is None else soak.servers[1].backend
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    change = sqlalchemy.text("UPDATE runs SET artifact_uri = :uri WHERE run_uuid = :run")
    with engine.begin() as connection:
        connection.execute(change, {"uri": path.as_uri(), "run": run.info.run_id})
    try:
        soak.refused(str(path), *soak.writing)
    finally:
        with engine.begin() as connection:
            connection.execute(change, {"uri": run.info.artifact_uri, "run": run.info.run_id})
    soak.settle()
