"""What the driver costs, with virtual epochs: workers that return stored results at once, on a clock that jumps ahead.

    python tests/benchmarks/driver.py [--workers 8 64 256 1000] [--sampler random tpe] [--trials 2000] [--json FILE]

Each case is a whole study in a process and a home of its own: the real driver on Optuna's sqlite and MLflow (or
``--tracking-uri`` and ``--storage``), with ``--window`` times as many open trials as workers. Nothing is trained: a
task returns the results of one epoch trained beforehand, with an invented objective and a checkpoint on disk.

The clock counts the driver's processor time, and jumps to the next end of an epoch where the driver has nothing to do.
So the share of time that workers are busy is that of ``--epoch-s`` long epochs (those of random length take from half
to twice this) and of a driver that has a core to itself. "By the window" is the share if the driver took no time at all
and half of the trials were pruned, until the last trial is asked.
``--real-time`` waits for the epochs instead, which also shows whether MLflow keeps up.

Past the limit that it prints ("workers it can drive", by processor time): train longer epochs, split the study's space
over several studies, each with a driver of its own, or record less (`study` has no switch for that yet).
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

from window import busy_share, epoch_length

MARKS = (10, 200, 2000)  # trials about which an epoch's cost is shown
# What the driver's time is spent on, by function; nested ones count for themselves, absent ones are skipped.
NAMED = {
    "sampler": ["optuna.samplers:TPESampler.sample_relative", "optuna.samplers:TPESampler.infer_relative_search_space"],
    "ask": ["pipeline.search.ask_tell:Search.ask"],
    "view": ["pipeline.search.ask_tell:Search._view"],
    "pruner": ["pipeline.search.ask_tell:OpenTrial.report"],
    "reading trials": ["pipeline.search.ask_tell:Search.trials"],
    "tell": ["pipeline.search.ask_tell:Search.tell"],
    "window": ["pipeline.study.window:Window.feed"],
    "model's cost": ["pipeline.study.trial_run:cost", "pipeline.study.trial_run:build_model"],
    "end of a trial": ["pipeline.study.trial_run:finish"],
}
STUDY = """\
name = "virtual"
dataset = "mnist-5k"
[degrade]
kind = "downscale"
factor = 7
[budget]
trials = {trials}
epochs = {epochs}
concurrency = {open_trials}
[sampler]
name = "{sampler}"
[pruner]
name = "{pruner}"
[model]
depth = 1
bottleneck = 8
activation = ["relu", "leaky_relu", "elu"]
negative_slope = {{ low = 0.01, high = 0.3 }}
dropout = {{ low = 0.0, high = 0.5 }}
[train]
optimizer = ["adam", "adamw", "sgd"]
lr = {{ by = "optimizer", sgd = {{ low = 0.01, high = 10.0, log = true }}, default = {{ low = 1e-4, high = 1e-1, log = true }} }}
batch_size = [32, 64, 128]
"""  # noqa: E501


class Spent:
    """Processor time of named functions, on every thread."""

    def __init__(self) -> None:
        self.seconds, self._local, self._lock = Counter[str](), threading.local(), threading.Lock()

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        stack = self._local.__dict__.setdefault("stack", [])
        stack.append(0.0)  # of what is called within
        started = time.thread_time()
        try:
            yield
        finally:
            taken, within = time.thread_time() - started, stack.pop()
            with self._lock:
                self.seconds[name] += taken - within
            if stack:
                stack[-1] += taken

    def watch(self, name: str, where: str) -> None:
        """Time a function, named ``module:Class.function``."""
        module, _, path = where.partition(":")
        *owners, attribute = path.split(".")
        owner = import_module(module)
        for part in owners:
            owner = getattr(owner, part)
        function = getattr(owner, attribute, None)
        if callable(function):

            @wraps(function)
            def timed(*arguments: Any, **named: Any) -> Any:
                with self.on(name):
                    return function(*arguments, **named)

            setattr(owner, attribute, timed)

    def watch_all(self) -> None:
        from pipeline.tracking.models import LoggedModels
        from pipeline.tracking.runs import Tracking

        for name, functions in NAMED.items():
            for where in functions:
                self.watch(name, where)
        for owner in (Tracking, LoggedModels):
            for attribute, value in vars(owner).items():
                if callable(value) and not attribute.startswith("__"):
                    self.watch("MLflow", f"{owner.__module__}:{owner.__name__}.{attribute}")


class VirtualWorkers:
    """Workers whose epochs take no processor time and end in the order of a clock. Other tasks are carried out."""

    def __init__(self, slots: int, length: Callable[[Any], float], epoch: Callable[..., Any], real_time: bool) -> None:
        self.slots, self.own_s, self.busy_s, self.tasks = slots, 0.0, 0.0, 0
        self._length, self._epoch, self._real_time = length, epoch, real_time
        self._running: list[tuple[float, int, Hashable, Any, tuple[Any, ...]]] = []
        self._ahead = 0.0
        self.started = self.now()

    def now(self) -> float:
        return time.perf_counter() if self._real_time else self.driver_s() + self._ahead

    def driver_s(self) -> float:
        """Processor time of this process without that of the tasks."""
        return time.process_time() - self.own_s

    def submit(self, key: Hashable, task: Any, *arguments: Any) -> None:
        virtual = task.__name__ == "run_epoch"
        length = self._length(key) if virtual else 0.0
        self.busy_s += length
        self.tasks += 1
        do = self._epoch if virtual else task
        heapq.heappush(self._running, (self.now() + length, self.tasks, key, do, arguments))

    def wait(self, timeout: float) -> Any:
        from pipeline.workers import Raised, Returned

        if not self._running:
            time.sleep(timeout)
            return None
        wait_s = max(0.0, self._running[0][0] - self.now())
        if self._real_time:
            time.sleep(min(wait_s, timeout))
            if wait_s > timeout:
                return None
        else:
            self._ahead += wait_s
        _, _, key, task, arguments = heapq.heappop(self._running)
        started = time.thread_time()
        try:
            return Returned(key, task(*arguments))
        except Exception as error:
            return Raised(key, error)
        finally:
            self.own_s += time.thread_time() - started

    def close(self) -> None:
        self._running.clear()


class Epochs:
    """Epochs that were not trained: the results and the checkpoint of one that was, as if they were the trial's own."""

    def __init__(self, config: Any, data: Any, data_dir: Path, folder: Path) -> None:
        from pipeline.config.outcomes import Trained
        from pipeline.epoch import build_model, run_epoch
        from pipeline.training import checkpoint as checkpoints
        from pipeline.training.model import Restorer

        trained = run_epoch(config, None, data_dir, folder)
        assert isinstance(trained, Trained), trained
        self._template, self._state = trained, checkpoints.load(trained.checkpoint)
        model = build_model(config, data)
        self._state.restore(model)
        self._restorer, self._data = Restorer(model).eval(), data
        self._history: dict[int, list[dict[str, Any]]] = {}

    def __call__(self, config: Any, before: Any, data_dir: Path, folder: Path, judge: Any = None) -> Any:  # noqa: ARG002
        from dataclasses import asdict

        from pipeline.training import checkpoint as checkpoints
        from pipeline.training.weights import weights_bytes

        epoch = before.epoch + 1 if before else 1
        history = self._history.setdefault(config.number, []) if epoch > 1 else []
        self._history[config.number] = history
        sha256 = hashlib.sha256(weights_bytes(self._restorer, config, self._data.image_size)).hexdigest()
        metrics = self._template.result.metrics | {"val/psnr": objective(config, epoch)}
        result = replace(
            self._template.result, epoch=epoch, metrics=metrics, ended_at=time.time(), weights_sha256=sha256
        )
        history.append(asdict(result))
        meta = self._state.meta | {"config": config.model_dump(mode="json"), "epoch": epoch, "history": history}
        saved = checkpoints.save(folder, epoch, replace(self._state, meta=meta))
        return replace(self._template, checkpoint=saved, result=result, seconds=0.0)


def objective(config: Any, epoch: int) -> float:
    """An invented PSNR: settings differ, epochs improve it, and there is noise."""
    noise = random.Random(1000 * config.number + epoch).gauss(0, 0.1)
    return float(18 - config.model.dropout + (config.train.optimizer != "sgd") + 2 * (1 - 0.7**epoch) + noise)


class NoTracking:
    """Stands for `Tracking` without MLflow: every call answers that there is nothing."""

    def run(self, *_: Any) -> str:
        return "none"

    def __getattr__(self, name: str) -> Any:
        return self

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __bool__(self) -> bool:
        return False


class Marks:
    """A reporter that notes the driver's time and memory at the end of each trial."""

    def __init__(self) -> None:
        self.workers: VirtualWorkers | None = None
        self.epochs = 0
        self.trials: list[tuple[float, float]] = []  # processor time so far, MiB in use

    def trial(self, number: int, state: str, value: float | None, reason: str, ended: int) -> None:  # noqa: ARG002
        assert self.workers is not None
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        self.trials.append((self.workers.driver_s(), memory))

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
        self.epochs += 1

    def __getattr__(self, event: str) -> Callable[..., None]:
        return lambda *_, **__: None

    def around(self, number: int) -> dict[str, float] | None:
        """Milliseconds of processor time for each epoch around a trial, and MiB then.

        Trials are recorded in bursts, so the epochs are counted as trials of average length.
        """
        first, last = max(0, number - max(10, number // 20)), min(len(self.trials) - 1, number + max(10, number // 20))
        if number > len(self.trials) or last <= first:
            return None
        (from_s, _), (to_s, memory) = self.trials[first], self.trials[last]
        return {"ms_per_epoch": 1000 * (to_s - from_s) / (last - first) * len(self.trials) / self.epochs, "mib": memory}


def case(given: argparse.Namespace, workers: int, sampler: str) -> dict[str, Any]:
    """Run one study and measure its driver."""
    from pipeline.config import load_study_file
    from pipeline.home import open_home
    from pipeline.study import driver, session

    spent, reporter = Spent(), Marks()
    folder = given.folder
    file = folder / "virtual.toml"
    open_trials = given.open or given.window * workers
    settings = vars(given) | {"open_trials": open_trials, "sampler": sampler}
    file.write_text(STUDY.format(**settings))
    home = open_home(folder / "home", tracking_uri=given.tracking_uri, storage=given.storage)
    options = session.Options(workers=0)  # real ones; the virtual ones take their place

    def length(key: Any) -> float:
        return given.epoch_s * epoch_length(key.number, given.lengths)

    with session.open_session(load_study_file(file), home, options, reporter) as opened:
        trial = opened.config.trial(
            opened.config.space.resolve(lambda _, form: form.first), 0, opened.device, opened.precision
        )
        epochs = Epochs(trial, opened.data, opened.home.data_dir, folder / "template")
        reporter.workers = virtual = VirtualWorkers(workers, length, epochs, given.real_time)
        opened = replace(opened, workers=virtual)
        spent.watch_all()
        if given.no_mlflow:
            opened = replace(opened, tracking=NoTracking())
        started, before = virtual.now(), virtual.driver_s()
        driver.run_to_total(opened, options)
        clock_s, driver_s = virtual.now() - started, virtual.driver_s() - before
    rate = reporter.epochs / driver_s
    named = {name: seconds / driver_s for name, seconds in spent.seconds.most_common()}
    return {
        "workers": workers,
        "sampler": sampler,
        "open_trials": open_trials,
        "trials": len(reporter.trials),
        "epochs": reporter.epochs,
        "epoch_s": given.epoch_s,
        "lengths": given.lengths,
        "driver_cpu_s": driver_s,
        "epochs_per_cpu_s": rate,
        "workers_it_can_drive": int(rate * given.epoch_s),
        "busy": virtual.busy_s / (workers * clock_s),
        "busy_by_the_window": busy_share(workers, open_trials, given.trials, given.epochs, given.lengths),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "around_trial": {number: reporter.around(number) for number in MARKS},
        "spent": named | {"other": 1 - sum(named.values())},
    }


def show(results: list[dict[str, Any]]) -> None:
    print(
        "\n| workers | sampler | open | epochs | epochs per CPU s | busy | by the window | can drive | peak MiB | ",
        end="",
    )
    print(" | ".join(f"ms an epoch at trial {number}" for number in MARKS), "|")
    print("|" + "---|" * (9 + len(MARKS)))
    for r in results:
        around = [r["around_trial"].get(str(number)) for number in MARKS]
        marks = " | ".join(f"{a['ms_per_epoch']:.0f} ({a['mib']:.0f} MiB)" if a else "" for a in around)
        print(
            f"| {r['workers']} | {r['sampler']} | {r['open_trials']} | {r['epochs']} | {r['epochs_per_cpu_s']:.1f} "
            f"| {r['busy']:.2f} | {r['busy_by_the_window']:.2f} | {r['workers_it_can_drive']} | {r['peak_mib']:.0f} "
            f"| {marks} |"
        )
    print()
    for r in results:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in r["spent"].items() if share >= 0.01)
        print(f"{r['workers']} workers, {r['sampler']}: {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256, 1000])
    parser.add_argument("--sampler", nargs="+", default=["random", "tpe"], choices=["random", "tpe"])
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5, help="of a trial, at most")
    parser.add_argument("--window", type=int, default=4, help="open trials for each worker")
    parser.add_argument("--open", type=int, help="open trials, in place of --window")
    parser.add_argument("--epoch-s", type=float, default=30.0)
    parser.add_argument("--lengths", default="random", choices=["given", "random"])
    parser.add_argument("--real-time", action="store_true")
    parser.add_argument("--no-mlflow", action="store_true", help="nothing is written to MLflow: what the rest costs")
    parser.add_argument("--tracking-uri", help="an MLflow server, in place of sqlite")
    parser.add_argument("--storage", help="Optuna's PostgreSQL, in place of sqlite")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)  # this process measures one case
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        result = case(given, given.workers[0], given.sampler[0])
        (given.folder / "result.json").write_text(json.dumps(result))
        return
    results = []
    with tempfile.TemporaryDirectory() as base:
        judges = Path(base) / "judges"
        for workers in given.workers:
            for sampler in given.sampler:
                folder = Path(base) / f"{workers}-{sampler}"
                folder.mkdir()
                if judges.exists():  # it is trained once
                    shutil.copytree(judges, folder / "home" / "judges")
                arguments = [*sys.argv[1:], "--case", "--folder", folder, "--workers", workers, "--sampler", sampler]
                subprocess.run([sys.executable, __file__, *map(str, arguments)], check=True)
                results.append(json.loads((folder / "result.json").read_text()))
                print(
                    f"{workers} workers, {sampler}: {results[-1]['epochs_per_cpu_s']:.1f} epochs per CPU s", flush=True
                )
                if not judges.exists():
                    shutil.copytree(folder / "home" / "judges", judges)
                shutil.rmtree(folder)
    show(results)
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
