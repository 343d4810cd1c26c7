"""A study with a champion is harmed again and again, and must end with the numbers of an uninterrupted one.

    python tests/soak.py [--minutes 30] [--servers] [--seed 0]     # or --harms 12, or --only driver_killed,worker_killed

Each harm is a function of this module: a driver or a worker is killed or stopped, servers are away, somebody edits in
MLflow's UI, copies the home or restores a backup. Harms come in random order, each before the first comes again. After
each, the same `study run` must complete the study, `study doctor` must find nothing, and the champion must restore the
same image to the last bit. At the end every number is compared with an uninterrupted study on plain files. Beside the
home are a second home and a foreign folder whose paths stand in the database, and neither may change.

With ``--servers`` both homes are on one MLflow server and one PostgreSQL. Prints a table of harms and outcomes. The exit
code is 1 if anything was not as expected; the folder is then kept.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy
import torch
from mlflow.entities import Run
from servers import MlflowServer, Postgres, Served, postgres_programs, running_postgres
from studies_for_tests import SMALL, TRIALS, Command, Launcher, facts, wait_for

from pipeline.tracking.registry import find_version, load_champion

NAME = "small"
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


def expect(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def checksum(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder, except the locks, which readers may make too."""
    files = [path for path in folder.rglob("*") if path.is_file() and "locks" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- the world that is harmed -------------------------------------------------------------------------------------


class Soak:
    """A home with a study and a champion, its neighbours, and the servers, if there are any."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        launchers: tuple[Launcher, Launcher],
        servers: tuple[Postgres, MlflowServer] | None,
    ) -> None:
        self.folder, self.chance, self.servers = folder, random.Random(seed), servers
        self.launcher, self.other_launcher = launchers
        self.file = folder / "small.toml"
        self.file.write_text(SMALL)
        self.trials = TRIALS
        self.edited: set[int] = set()  # trials whose MLflow run has a longer history than its training gave it
        self.place, self.neighbour = self._at(folder / "home"), self._at(folder / "neighbour")

    def _at(self, path: Path) -> Served:
        if self.servers is None:
            return Served(path, self.file)
        postgres, server = self.servers
        if not hasattr(self, "_storage"):
            self._storage = postgres.database()
        return Served(path, self.file, server.uri, server.artifacts, self._storage)

    def begin(self) -> None:
        """Make the neighbours, and run and promote the study."""
        self.foreign = self.folder / "foreign"
        for file in ("images/holiday.png", "0000/epoch-1.safetensors", "thesis.tex"):
            (self.foreign / file).parent.mkdir(parents=True, exist_ok=True)
            (self.foreign / file).write_text("mine")
        self.ask("run", str(self.file), "--name", "other", "--trials", "2", "--workers", "0", place=self.neighbour)
        self.run()
        client = self.place.client()
        for name, path in (("somebody else's", self.foreign), ("deleted-7-theirs", self.neighbour.path / "artifacts")):
            number = client.create_experiment(name, path.as_uri())
            client.create_run(number, tags={"study.role": "trial", "trial.uid": f"../../{path.name}-0"})
            if name.startswith("deleted"):
                client.delete_experiment(number)
        self.ask("promote", NAME)
        version = find_version(self.place.home, NAME)
        assert version is not None
        self.promoted = int(version.tags["trial.number"])
        self.image = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.restored = self.restore()
        self.beside = self.neighbours()

    # What can be done: commands of the program.

    def start(self, *arguments: str, workers: int = 0) -> Command:
        """Start `study run` for one trial more."""
        self.trials += 1
        words = (*arguments, "--workers", str(workers), "--trials", str(self.trials))
        command = self.launcher.start(*self.place.arguments(*words))
        wait_for(lambda: " epoch 1/" in command.stdout or command.ended(), f"a first epoch from {command.stderr}")
        return command

    def run(self) -> Command:
        return self.ask("run", str(self.file), "--workers", "0", "--trials", str(self.trials))

    def ask(self, *arguments: str, code: tuple[int, ...] = (0,), place: Served | None = None) -> Command:
        """Call a command; it must end with one of these exit codes, and its errors must be clear lines."""
        command = self.launcher.start(*arguments, *(place or self.place).options)
        return self.ended(command, *code, what=" ".join(arguments))

    def ended(self, command: Command, *codes: int, what: str = "run") -> Command:
        """Wait for the end of a command."""
        wait_for(command.ended, f"the end of {what}", 600)
        shown = f"`study {what}` ended with {command.code()}: {command.stderr.strip() or command.stdout.strip()[-300:]}"
        expect(command.code() in codes, f"{shown}; expected was {codes}")
        expect("unexpected" not in command.stderr and "Traceback" not in command.stderr, shown)
        expect(command.code() in (0, 130) or command.stderr.startswith("error: "), shown)
        return command

    def refused(self, word: str, *commands: tuple[str, ...], place: Served | None = None) -> None:
        """These commands must be refused, with this word, and change nothing."""
        place = place or self.place
        before = checksum(place.path), checksum(self.place.path)
        for arguments in commands:
            done = self.ask(*arguments, code=(1, 2), place=place)
            expect(word in done.stdout + done.stderr, f"{arguments[0]}: no {word!r} in {done.stdout}{done.stderr}")
            expect(
                (checksum(place.path), checksum(self.place.path)) == before, f"{arguments[0]} was refused, but wrote"
            )

    @property
    def writing(self) -> tuple[tuple[str, ...], ...]:
        """Commands that would change a study."""
        run = ("run", str(self.file), "--workers", "0", "--trials", str(self.trials))
        return run, ("doctor", "--repair"), ("promote", NAME, "--trial", "1", "--force"), ("delete", NAME, "--yes")

    # What must hold.

    def settle(self, repair: bool = False, found: bool = False) -> None:
        """The study can be completed, and all is well.

        Args:
            repair: whether `doctor --repair` may be needed.
            found: whether `doctor` must find something first.
        """
        if found:
            self.ask("doctor", code=(1,))
        if repair and self.chance.random() < 0.5:  # else the run repairs its study
            self.ask("doctor", "--repair")
        self.run()
        if repair:
            self.ask("doctor", "--repair")
        done = self.ask("doctor")
        expect("all is well" in done.stdout, done.stdout)
        expect(torch.equal(self.restore(), self.restored), "the champion restores an image otherwise than before")
        expect(self.neighbours() == self.beside, "a neighbour has changed")

    def restore(self) -> torch.Tensor:
        """An image, restored by the champion."""
        with torch.inference_mode():
            restored: torch.Tensor = load_champion(self.place.home, NAME)(self.image)
        return restored

    def neighbours(self) -> Any:
        on_server = facts(self.neighbour, "other") if self.servers else None
        return checksum(self.foreign), checksum(self.neighbour.path), on_server

    def differences(self, undisturbed: Served) -> Iterator[str]:
        """What is not as in an uninterrupted study; of a run that was rebuilt MLflow has the best epoch only."""
        runs = self.place.runs("trial")
        rebuilt = {int(run.data.tags["trial.number"]) for run in runs if "reconstructed" in run.data.tags} | self.edited
        for mine, other in zip(facts(self.place), facts(undisturbed), strict=True):
            number = mine["trial"][0] if "trial" in mine else None
            for key in mine.keys() | other.keys():
                if number in rebuilt and key in ("last", "history", "panels"):
                    continue
                if mine.get(key) != other.get(key):
                    yield f"trial {number}: {key} {mine.get(key)}, not {other.get(key)}"

    # What is harmed.

    def pick(self, *roles: str) -> Run:
        """A run that has ended; half of the time the champion's."""
        runs = [run for role in roles or ("trial",) for run in self.place.runs(role) if run.info.status != "RUNNING"]
        if self.chance.random() < 0.5:
            runs = [run for run in runs if run.data.tags.get("trial.number") == str(self.promoted)] or runs
        return self.chance.choice(runs)

    def model_files(self, run: Run) -> list[Path]:
        """The files of a run's model, below the folder of MLflow's artifacts."""
        found = [path for path in self.place.artifacts.rglob("*") if run.data.tags["model.id"] in path.parts]
        return sorted(path for path in found if path.is_file())

    def complete(self) -> Run:
        """A run that has a model."""
        while "model.id" not in (run := self.pick()).data.tags:
            pass
        return run

    def a_while(self, most: float = 2.0) -> None:
        time.sleep(self.chance.uniform(0, most))


@contextlib.contextmanager
def put_back(file: Path) -> Iterator[Path]:
    """A file or folder that is as it was afterwards."""
    kept = file.with_name(f"{file.name}.kept")
    shutil.copytree(file, kept, symlinks=True) if file.is_dir() else shutil.copy2(file, kept)
    try:
        yield kept
    finally:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        kept.rename(file)


def signal_to(pid: int, which: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, which)


def worker_of(driver: int, chance: random.Random) -> int | None:
    """A worker process of a driver: a descendant that has imported torch."""
    found = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(driver).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any("libtorch" in entry.path for entry in child.memory_maps()):
                    found.append(child.pid)
    return chance.choice(found) if found else None


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
    if worker := worker_of(command.pid, soak.chance):
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
    if worker := worker_of(command.pid, soak.chance):
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
            second = soak.other_launcher.start(*soak.place.arguments("--workers", "0"))
            soak.ended(second, 2)
            expect(f"process {command.pid}" in second.stderr, second.stderr)
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
        "model.id": "m-0",
        "model.sha256": "{not JSON",
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
    soak.place.client().delete_logged_model(soak.complete().data.tags["model.id"])
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


def flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)


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
def stray_files(soak: Soak) -> None:
    """A server does not show what lies in its folder, so there `doctor` finds only those of the home."""
    checkpoints = soak.place.path / "checkpoints"
    (checkpoints / ("0" * 32)).mkdir(parents=True)
    (checkpoints / ("0" * 32) / "model.tmp").write_text("cut")
    [folder] = [p for p in soak.place.artifacts.rglob("images") if soak.complete().info.run_id in p.parts] or [None]
    if folder is not None and soak.servers is None:
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
    copy = soak._at(soak.folder / "copy")
    shutil.copytree(soak.place.path, copy.path, symlinks=True)
    soak.ask("list", place=copy)
    soak.refused(f"is a copy of {soak.place.path}", *soak.writing, place=copy)
    if soak.servers is None:
        before = checksum(soak.place.path)
        soak.ask("doctor", "--adopt", place=copy)
        soak.ask("delete", NAME, "--yes", place=copy)
        expect(checksum(soak.place.path) == before, "deleting the study of an adopted copy changed the original")
    shutil.rmtree(copy.path)
    soak.settle()


@harm
def home_moved_and_back(soak: Soak) -> None:
    old, moved = soak.place, soak._at(soak.folder / "moved")
    for place in (moved, old):
        soak.place.path.rename(place.path)
        soak.place = place
        soak.trials += 1
        soak.settle()


@plain_only
def backup_of_optuna_restored(soak: Soak) -> None:
    shutil.copy2(soak.place.path / "optuna.db", soak.folder / "backup.db")
    soak.trials += 1
    soak.run()
    with put_back(soak.place.path / "optuna.db"):
        shutil.copy2(soak.folder / "backup.db", soak.place.path / "optuna.db")
        soak.refused("optuna.db", *soak.writing[:2])
    soak.settle()


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
    shutil.copy2(soak.place.path / "mlflow.db", soak.folder / "backup.db")
    soak.trials += 1
    soak.run()
    with put_back(soak.place.path / "mlflow.db"):
        shutil.copy2(soak.folder / "backup.db", soak.place.path / "mlflow.db")
        soak.refused("mlflow.db", *soak.writing[:2])
    soak.settle()


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


# --- the soak -----------------------------------------------------------------------------------------------------


def chosen(arguments: argparse.Namespace, chance: random.Random) -> Iterator[str]:
    """The names of harms: all in random order, then all in another order, until the time is over."""
    started, count = time.monotonic(), 0
    unfit = PLAIN_ONLY if arguments.servers else SERVERS_ONLY
    names = arguments.only or [name for name in HARMS if name not in unfit]
    while True:
        for name in chance.sample(names, len(names)):
            over = count >= arguments.harms if arguments.harms else time.monotonic() - started > 60 * arguments.minutes
            if over:
                return
            count += 1
            yield name
        if arguments.only and not arguments.harms:
            return


def soaked(soak: Soak, arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Each harm's name and what went wrong, if anything; then the checks at the end."""
    soak.begin()
    for name in chosen(arguments, soak.chance):
        started = time.monotonic()
        problem = ""
        try:
            HARMS[name](soak)
        except (AssertionError, Exception) as error:
            problem = f"{type(error).__name__}: {error}".removeprefix("AssertionError: ")
        print(f"{name:34s} {time.monotonic() - started:4.0f} s  {problem or 'as expected'}", flush=True)
        yield name, problem
    try:
        soak.settle()
        plain = Served(soak.folder / "undisturbed", soak.file)
        soak.ask("run", str(soak.file), "--workers", "0", "--trials", str(soak.trials), place=plain)
        soak.ask("promote", NAME, "--trial", str(soak.promoted), place=plain)
        yield "numbers differ", "\n".join(soak.differences(plain))
    except (AssertionError, Exception) as error:
        yield "the end", f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def opened(folder: Path, arguments: argparse.Namespace) -> Iterator[Soak]:
    with contextlib.ExitStack() as stack:
        launchers = []
        for name in ("commands", "others"):
            (folder / name).mkdir()
            launchers.append(stack.enter_context(contextlib.closing(Launcher(folder / name))))
        servers = None
        if arguments.servers:
            programs = postgres_programs()
            if programs is None:
                sys.exit("--servers: no PostgreSQL in /usr/lib/postgresql")
            postgres = stack.enter_context(running_postgres(programs))
            (folder / "server").mkdir()
            server = MlflowServer(folder / "server", postgres.database())
            stack.callback(server.kill)
            server.start()
            servers = postgres, server
        yield Soak(folder, arguments.seed, (launchers[0], launchers[1]), servers)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--harms", type=int, help="this many harms instead")
    parser.add_argument("--only", type=lambda text: text.split(","), help="only these harms, once each")
    parser.add_argument("--servers", action="store_true", help="on PostgreSQL and an MLflow server")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    if unknown := set(arguments.only or ()) - set(HARMS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; harms: {', '.join(HARMS)}")
    folder, started = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    with opened(folder, arguments) as soak:
        outcomes = list(soaked(soak, arguments))
        trials = soak.trials
    failed = [(name, problem) for name, problem in outcomes if problem]
    counts = {name: [n for n, _ in outcomes].count(name) for name in HARMS}
    print(f"\n{'harm':34s} times  not as expected")
    for name, count in counts.items():
        if count:
            wrong = sum(1 for other, _ in failed if other == name)
            print(f"{name:34s} {count:5d}  {wrong or ''}")
    where = "servers" if arguments.servers else "plain files"
    print(
        f"\n{sum(counts.values())} harms in {time.monotonic() - started:.0f} s on {where}, {trials} trials, seed {arguments.seed}"
    )
    if failed:
        print(f"the folder is kept: {folder}")
        for name, problem in failed:
            print(f"{name}: {problem[:2000]}")
        return 1
    shutil.rmtree(folder)
    print(
        "numbers identical to an uninterrupted study's; the champion loads; doctor: all is well; neighbours unchanged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
