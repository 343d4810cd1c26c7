"""What the soak harms: a home with a study and a champion, and its neighbours; what must hold afterwards."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mlflow.entities import Run
from servers import MlflowServer, Postgres, Served
from studies_for_tests import SMALL, TRIALS, Command, Launcher, checksum, facts, wait_for

from pipeline.tracking.registry import find_version, load_champion

NAME = "small"


def expect(condition: object, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def content(folder: Path) -> dict[str, str]:
    """The checksum of a folder without its locks, which readers may make too."""
    return {path: digest for path, digest in checksum(folder).items() if "locks" not in path.split("/")}


class Soak:
    """A home with a study and a champion, its neighbours, and the servers, if there are any."""

    def __init__(
        self, folder: Path, seed: int, launcher: Launcher, servers: tuple[Postgres, MlflowServer] | None
    ) -> None:
        self.folder, self.chance, self.launcher, self.servers = folder, random.Random(seed), launcher, servers
        self._storage = servers[0].database() if servers else None
        self.file = folder / "small.toml"
        self.file.write_text(SMALL)
        self.trials = TRIALS
        self.edited: set[int] = set()  # trials whose MLflow run has a longer history than its training gave it
        self.place, self.neighbour = self.at(folder / "home"), self.at(folder / "neighbour")

    def at(self, path: Path) -> Served:
        """A home on the same servers, if there are any."""
        if self.servers is None:
            return Served(path, self.file)
        server = self.servers[1]
        return Served(path, self.file, server.uri, server.artifacts, self._storage)

    def begin(self) -> None:
        """Make the neighbours, and run and promote the study."""
        self.foreign = self.folder / "foreign"
        for file in ("images/holiday.png", "0000/epoch-1.safetensors", "thesis.tex"):
            (self.foreign / file).parent.mkdir(parents=True, exist_ok=True)
            (self.foreign / file).write_text("mine")
        self.run()
        self.make("other", 2, self.neighbour)
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
        return self.ask("run", str(self.file), "--workers", "0", "--no-report", "--trials", str(self.trials))

    def make(self, name: str, trials: int, place: Served) -> None:
        """Run a study in a new home, which gets the judge of this one: its training takes longer than the trials."""
        shutil.copytree(self.place.path / "judges", place.path / "judges")
        self.ask(
            "run", str(self.file), "--name", name, "--trials", str(trials), "--workers", "0", "--no-report", place=place
        )

    def ask(self, *arguments: str, code: tuple[int, ...] = (0,), place: Served | None = None) -> Command:
        """Call a command; it must end with one of these exit codes, and its errors must be clear lines."""
        command = self.launcher.start(*arguments, *(place or self.place).options)
        return self.ended(command, *code, what=" ".join(arguments))

    def ended(self, command: Command, *codes: int, what: str = "run") -> Command:
        """Wait for the end of a command."""
        wait_for(command.ended, f"the end of {what}", 600)
        shown = f"`study {what}` ended with {command.code()}: {command.stderr.strip()} {command.stdout.strip()[:300]}"
        expect(command.code() in codes, f"{shown}; expected was {codes}")
        expect("unexpected" not in command.stderr and "Traceback" not in command.stderr, shown)
        expect(command.code() in (0, 130) or command.stderr.startswith("error: "), shown)
        return command

    def refused(self, word: str, *commands: tuple[str, ...], place: Served | None = None) -> None:
        """These commands must be refused, with this word, and change nothing."""
        place = place or self.place
        before = content(place.path), content(self.place.path)
        for arguments in commands:
            done = self.ask(*arguments, code=(1, 2), place=place)
            expect(word in done.stdout + done.stderr, f"{arguments[0]}: no {word!r} in {done.stdout}{done.stderr}")
            expect((content(place.path), content(self.place.path)) == before, f"{arguments[0]} was refused, but wrote")

    @property
    def writing(self) -> tuple[tuple[str, ...], ...]:
        """Commands that would change a study."""
        run = ("run", str(self.file), "--workers", "0", "--no-report", "--trials", str(self.trials))
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
        return content(self.foreign), content(self.neighbour.path), on_server

    def differences(self, undisturbed: Served) -> Iterator[str]:
        """What is not as in an uninterrupted study; of a run that was rebuilt MLflow has the best epoch only."""
        runs = self.place.runs("trial")
        rebuilt = {int(run.data.tags["trial.number"]) for run in runs if "reconstructed" in run.data.tags} | self.edited
        for mine, other in zip(facts(self.place), facts(undisturbed), strict=True):
            number = mine["trial"][0] if "trial" in mine else None
            for key in mine.keys() | other.keys():
                if number in rebuilt and key in ("last", "history", "panels", "best"):
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
        found = [path for path in self.place.artifacts.rglob("*") if run.data.tags["zz.model.id"] in path.parts]
        return sorted(path for path in found if path.is_file())

    def complete(self) -> Run:
        """A run that has a model."""
        while "zz.model.id" not in (run := self.pick()).data.tags:
            pass
        return run

    def a_while(self, most: float = 2.0) -> None:
        time.sleep(self.chance.uniform(0, most))
