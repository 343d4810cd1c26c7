"""A small, real study; helpers that run, kill and resume it; checks that every finished study must pass.

These are plain functions and classes; `study_fixtures` makes fixtures of them. Asserts here carry their own messages,
because pytest explains failed asserts in test modules only.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache
from PIL import Image

from pipeline.api import run_study
from pipeline.config import load_study_file
from pipeline.home import Home, open_home
from pipeline.search.ask_tell import Search
from pipeline.search.studies import load_search
from pipeline.study.driver import StudyOutcome
from pipeline.study.session import Options
from pipeline.tracking.store import connect

STUDY = Path(sys.executable).with_name("study")  # the installed command
TRIALS, EPOCHS = 6, 3
RUN_STATUS = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}

# Restores digits of 4 x 4 pixels to 28 x 28. An epoch takes 0.1 s, and three epochs beat the best linear map.
# One trial is enqueued with a learning rate that makes it diverge; the pruner stops some of the others.
SMALL = f"""\
# A study for tests.
name = "small"
dataset = "mnist-5k"

[degrade]
kind = "downscale"
factor = 7

[budget]
trials = {TRIALS}
epochs = {EPOCHS}
concurrency = 3

[pruner]
name = "median"
n_startup_trials = 1
n_warmup_steps = 0

[[enqueue]]
optimizer = "sgd"
lr = 1e9

[model]
depth = 1
bottleneck = [16, 32, 128]
activation = ["relu", "leaky_relu"]
negative_slope = {{ low = 0.01, high = 0.3 }}

[train]
optimizer = ["adam", "sgd"]
lr = {{ by = "optimizer", sgd = [0.3, 1e9], default = {{ low = 1e-3, high = 2e-2, log = true }} }}
batch_size = 32
"""


class Recorder:
    """A reporter that stores every event and calls ``act(event)`` with it."""

    def __init__(self, act: Callable[[tuple[Any, ...]], None] = lambda _: None) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._act = act

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._act(event)

    def begun(self, config: Any, data: Any, ended: Any, slots: int, earlier: float) -> None:  # noqa: ARG002
        self._note("begun", len(ended), slots, earlier)

    def opened(self, number: int, trial: Any, epoch: int) -> None:
        self._note("opened", number, trial, epoch)

    def baseline(self, name: str, metrics: dict[str, float]) -> None:
        self._note("baseline", name, metrics)

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:
        self._note("epoch", number, epoch, epochs, metrics)

    def trial(self, number: int, state: str, value: float | None, reason: str, ended: int) -> None:
        self._note("trial", number, state, value, reason, ended)

    def note(self, text: str) -> None:
        self._note("note", text)

    def kind(self, kind: str) -> list[tuple[Any, ...]]:
        return [event[1:] for event in self.events if event[0] == kind]


@dataclass
class Place:
    """A home and the study file next to it."""

    path: Path
    file: Path

    @property
    def home(self) -> Home:
        # MLflow caches where a run's artifacts are by the run's id, and the runs of a copied place have the same ids.
        _artifact_repos_cache.clear()
        return open_home(self.path)

    def run(
        self, *overrides: str, name: str | None = None, trials: int | None = None, workers: int = 0, **rest: Any
    ) -> tuple[StudyOutcome, Recorder]:
        """Run the study in this process, as the command does; the page only where it is asked for, since it is slow."""
        rest = {"report": False} | rest
        reporter = rest.pop("reporter", None) or Recorder()
        file = load_study_file(self.file, overrides, name, trials)
        return run_study(file, self.home, Options(workers=workers, **rest), reporter), reporter

    def search(self, name: str = "small") -> Search:
        return load_search(self.home, name)

    def client(self) -> MlflowClient:
        return connect(self.home)

    @property
    def study_artifacts(self) -> Path:
        """The folder of the study's artifacts."""
        return self.path / "artifacts" / f"small-{self.search().uid[:8]}"

    def runs(self, role: str | None = None, name: str = "small") -> list[Run]:
        """The study's runs sorted by name, those of one role or all of them."""
        experiment = self.client().get_experiment_by_name(name)
        assert experiment is not None
        query = f"tags.`study.role` = '{role}'" if role else ""
        found = list(self.client().search_runs([experiment.experiment_id], query))
        return sorted(found, key=lambda run: run.info.run_name)

    def arguments(self, *more: str) -> list[str]:
        """The arguments of a `study run` command in this place, without the report, which takes seconds."""
        return ["run", str(self.file), *self.options, "--no-report", *more]

    @property
    def artifacts(self) -> Path:
        """The folder that holds the files of MLflow."""
        return self.path / "artifacts"

    @property
    def options(self) -> list[str]:
        """The options that name this place, for every command."""
        return ["--home", str(self.path)]


def new_place(migrated: Path, folder: Path) -> Place:
    shutil.copytree(migrated, folder / "home")
    identify(folder / "home", uuid.uuid4().hex)
    file = folder / "small.toml"
    file.write_text(SMALL)
    return Place(folder / "home", file)


def identify(home: Path, home_id: str | None = None) -> None:
    """Make a copied folder a home of its own, at its own path."""
    file = home / "home.json"
    changed = {"path": str(home.resolve())} | ({"id": home_id} if home_id else {})
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def copied(place: Place, folder: Path) -> Place:
    """Copy a place. MLflow stores the artifacts' locations as absolute paths, so these are replaced in the copy."""
    path = folder / "home"
    shutil.copytree(place.path, path)
    identify(path)
    file = shutil.copy(place.file, folder)
    columns = {"experiments": "artifact_location", "runs": "artifact_uri", "logged_models": "artifact_location"}
    with contextlib.closing(sqlite3.connect(path / "mlflow.db")) as database, database:
        for table, column in columns.items():
            change = f"update {table} set {column} = replace({column}, ?, ?)"
            database.execute(change, (place.path.as_uri(), path.as_uri()))
    return Place(path, Path(file))


# --- commands in separate processes -------------------------------------------------------------------------------


@dataclass
class Command:
    """A command started by a `Launcher`."""

    pid: int
    folder: Path

    @property
    def stdout(self) -> str:
        return (self.folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self.folder / "stderr").read_text()

    def until(self, text: str) -> None:
        """Wait until the command has printed a text."""
        wait_for(lambda: text in self.stdout or self.ended(), f"{text!r} from {self}")
        assert text in self.stdout, f"ended without {text!r}: {self.stdout}{self.stderr}"

    def ended(self) -> bool:
        status = self.folder / "status"
        return status.exists() and bool(status.read_text())

    def code(self) -> int:
        """Wait for the command to end. Returns its exit code, or minus the number of the signal that killed it."""
        wait_for(self.ended, f"the end of {self}")
        return int((self.folder / "status").read_text())


class Launcher:
    """Starts commands, one at a time, by forking a process that has already imported the program."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        script = Path(__file__).with_name("launcher.py")
        self._process = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._answer() == {"ready": True}
        self._last: Command | None = None

    def start(self, *arguments: str, cwd: Path | None = None, kill_before: tuple[str, int] | None = None) -> Command:
        """Start `study` with these arguments.

        Args:
            arguments: the arguments of the command line.
            cwd: the command's working directory; a new, empty one by default.
            kill_before: a text and a number n: the command dies before the n-th database statement with that text.
        """
        if self._last is not None:
            self._last.code()
            assert "ended" in self._answer()
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir()
        files = {name: str(folder / name) for name in ("stdout", "stderr", "status")}
        directory = cwd or folder / "cwd"
        directory.mkdir(exist_ok=True)
        request = {"arguments": arguments, "cwd": str(directory), "kill_before": kill_before, **files}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        for name in ("stdout", "stderr"):
            (folder / name).touch()
        self._last = Command(self._answer()["pid"], folder)
        return self._last

    def run(self, *arguments: str, **rest: Any) -> Command:
        """Start a command and wait until it has ended."""
        command = self.start(*arguments, **rest)
        command.code()
        return command

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds} s"
        time.sleep(0.02)


def workers_of(pid: int) -> list[psutil.Process]:
    """The worker processes of a driver: its descendants that have imported torch, but not what they are forked from."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            forks = child.ppid() == pid and "forkserver" in " ".join(child.cmdline())
            if not forks and any("libtorch" in entry.path for entry in child.memory_maps()):
                found.append(child)
    return found


def checksum(folder: Path) -> dict[str, str]:
    """The digest of every file below a folder; of a link, where it leads."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = f"to {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[str(path.relative_to(folder))] = "a folder"
    return found


# --- what every finished study must satisfy -----------------------------------------------------------------------


def facts(place: Place, name: str = "small") -> list[Any]:
    """Everything about a study that must not depend on how it was run: all but ids, paths and times."""
    trials = {t.number: t for t in place.search(name).trials()}
    runs = {run.data.tags["trial.number"]: run for run in place.runs("trial", name)}
    found: list[Any] = []
    for record in place.search(name).records():
        run = runs[str(record.number)]
        found.append(
            {
                "trial": (record.number, record.state, record.value, record.params, record.values),
                "optuna": (trials[record.number].params, trials[record.number].intermediate_values),
                "noted": {k: v for k, v in trials[record.number].system_attrs.items() if "rung" in k},
                "epochs": (record.summary.epochs, record.summary.best_epoch, record.summary.reason),
                "figures": untimed(record.summary.metrics) | record.summary.cost,
                "params": run.data.params,
                "last": untimed(run.data.metrics),
                "history": {key: [v for _, v in steps] for key, steps in untimed(history(place, run)).items()},
                "panels": panels(place, run),
                "best": [panels(place, run, "restored"), labelled_panel(place, run)],
                "state": (run.info.status, run.data.tags["trial.state"], run.data.tags.get("trial.reason")),
            }
        )
    baselines = {
        run.info.run_name: (run.data.metrics, panels(place, run, "restored"), labelled_panel(place, run))
        for run in place.runs("baseline", name)
    }
    return [*found, baselines, place.search(name).baselines]


def untimed(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if not key.startswith("time/")}


def history(place: Place, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every metric's (step, value) pairs in the order they were written."""
    client = place.client()
    return {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }


def panels(place: Place, run: Run, key: str = "panel") -> list[tuple[int, str]]:
    """The (step, SHA-256 of the pixels) pairs of a run's images under a key, sorted."""
    found = []
    for entry in place.client().list_artifacts(run.info.run_id, "images"):
        file = Path(entry.path).name.replace("%", "+")
        if file.endswith(".png"):
            name, step, number, *_ = file.split("+")
            assert name in ("panel", "restored"), file
            assert step == "step", file
            if name != key:
                continue
            with Image.open(artifact(place, run, entry.path)) as image:
                found.append((int(number), hashlib.sha256(image.tobytes()).hexdigest()))
    return sorted(found)


def labelled_panel(place: Place, run: Run) -> str | None:
    """The SHA-256 of a run's ``panel.png``; None if it has none."""
    file = artifact(place, run, "panel.png")
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else None


def artifact(place: Place, run: Run, path: str) -> Path:
    """The path of a run's artifact."""
    uri = run.info.artifact_uri
    folder = uri.removeprefix("mlflow-artifacts:/") if uri.startswith("mlflow") else uri.rsplit("/artifacts/", 1)[1]
    return place.artifacts / folder / path


def purge(place: Place, run_id: str) -> None:
    """Delete a run for good, as `mlflow gc` does."""
    client = place.client()
    run = client.get_run(run_id)
    client.delete_run(run_id)
    client._tracking_client.store._hard_delete_run(run_id)
    shutil.rmtree(artifact(place, run, "").parent, ignore_errors=True)


def models(place: Place, name: str = "small") -> list[Any]:
    experiment = place.client().get_experiment_by_name(name)
    assert experiment is not None
    return list(place.client().search_logged_models([experiment.experiment_id]))


def assert_sound(place: Place, trials: int = TRIALS, epochs: int = EPOCHS, name: str = "small") -> None:
    """Check what every finished study must satisfy, whatever happened while it ran."""
    problems = list(failed_checks(place, trials, epochs, name))
    if problems:
        raise AssertionError("\n".join(problems))


def stop_between_transactions(pid: int, folder: Path) -> None:
    """Stop a process while it has no lock on the folder's databases, which would keep everybody else out."""
    while True:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.1)
        try:
            for database in folder.glob("*.db"):
                with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
                    connection.execute("begin immediate")
            return
        except sqlite3.OperationalError:
            os.kill(pid, signal.SIGCONT)


def assert_same_as(finished: Place, place: Place) -> None:
    """Check that a study is sound and has the results of another that ran without interruption."""
    assert_sound(place)
    found, expected = facts(place), facts(finished)
    for mine, other in zip(found, expected, strict=True):
        assert mine == other, f"{mine}\nis not\n{other}"


def failed_checks(place: Place, trials: int, epochs: int, name: str) -> Iterator[str]:
    """Yield one line of text for every check that fails."""

    def compare(what: str, found: Any, expected: Any) -> Iterator[str]:
        if found != expected:
            yield f"{what}: {found}, not {expected}"

    search, runs = place.search(name), place.runs(name=name)
    records, by_id = search.records(), {run.info.run_id: run for run in runs}
    yield from compare("trials", [record.number for record in records], list(range(trials)))
    yield from compare("run uids", len({run.data.tags["trial.uid"] for run in runs}), len(runs))
    roles = Counter(run.data.tags["study.role"] for run in runs)
    yield from compare("runs", dict(sorted(roles.items())), {"baseline": 2, "judge": 1, "study": 1, "trial": trials})

    for record in records:
        label, summary = f"trial {record.number}", record.summary
        if summary is None or record.state not in RUN_STATUS:
            yield f"{label} is {record.state}, summary {summary}"
            continue
        run = by_id.pop(summary.run_id)
        name_and_uid = (run.info.run_name, run.data.tags["trial.uid"])
        yield from compare(label, name_and_uid, (f"trial-{record.number:04d}", f"{search.uid}-{record.number}"))
        yield from compare(f"status of {label}", run.info.status, RUN_STATUS[record.state])
        steps = list(range(1, summary.epochs + 1))
        if record.state == "COMPLETE":
            yield from compare(f"epochs of {label}", summary.epochs, epochs)
        yield from compare(f"values of {label}", list(search.trials()[record.number].intermediate_values), steps)
        written = history(place, run)
        yield from compare(f"{label} has epochs' metrics", "val/psnr" in written, bool(steps))
        for key, values in written.items():
            expected = steps if key.startswith(("train/", "val/", "time/")) else [0]
            yield from compare(f"{key} of {label}", [step for step, _ in values], expected)
        yield from compare(f"panels of {label}", [step for step, _ in panels(place, run)], steps)
        best = {f"best/{k.removeprefix('val/')}": v for k, v in summary.metrics.items() if k.startswith("val/")}
        logged = {key: value for key, value in run.data.metrics.items() if key.startswith("best/")}
        yield from compare(f"best/ of {label}", logged, best)
        yield from compare(f"restored of {label}", len(panels(place, run, "restored")), len(steps[:1]))
        yield from compare(f"panel.png of {label}", labelled_panel(place, run) is not None, bool(steps))

    for run in by_id.values():  # the baselines, the judge and the study's own run
        label, role = run.info.run_name, run.data.tags["study.role"]
        yield from compare(f"status of {label}", run.info.status, "FINISHED")
        for key in ("panel", "restored"):
            yield from compare(f"{key} of {label}", [s for s, _ in panels(place, run, key)], [0] * (role == "baseline"))
        yield from compare(f"panel.png of {label}", labelled_panel(place, run) is not None, role == "baseline")
        if role == "baseline":
            steps = {step for values in history(place, run).values() for step, _ in values}
            yield from compare(f"steps of {label}", steps, {0})

    complete = sorted(r.summary.run_id for r in records if r.summary and r.state == "COMPLETE")
    found = models(place, name)
    yield from compare("models' states", {str(model.status) for model in found} - {"READY"}, set())
    yield from compare("runs with models", sorted(model.source_run_id for model in found), complete)
    left = [str(path) for path in (place.path / "checkpoints").rglob("*") if path.is_file()]
    yield from compare("checkpoints", left, [])


@dataclass
class Printed:
    """The output and the exit code of a command that was called in this process."""

    code: int
    stdout: str = ""
    stderr: str = ""
    lines: list[str] = field(default_factory=list)


def study(*arguments: str) -> Printed:
    """Call the command line in this process, which forgets where MLflow kept files as a new process would."""
    from pipeline.cli import app

    _artifact_repos_cache.clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    return Printed(code, out.getvalue(), err.getvalue(), out.getvalue().splitlines())
