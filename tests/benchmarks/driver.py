"""What one driver can do, with virtual epochs: workers that return stored results at once, on a clock that jumps ahead.

    python tests/benchmarks/driver.py [--workers 8 64 256 1000] [--sampler random tpe] [--lengths given random]
                                      [--trials 2000] [--epoch-s 5] [--server] [--json FILE]

Each case is a whole study in a process and a home of its own: the real driver with all writes to Optuna's and MLflow's
sqlite files, or with ``--server`` to a real `mlflow server` on 127.0.0.1, and ``--window`` times as many open trials as
workers. Nothing is trained: a task returns the results of one epoch trained beforehand, with an invented objective and
a checkpoint on disk.

The clock counts the processor time of the driver with its writer threads, and jumps to the next end of an epoch where
neither has anything to do. So every figure is that of a driver with one core to itself, on a loaded machine too:
"busy" is the share of time in which the workers train, until the last trial is asked; "by the window" is what it would
be if the driver took no time and half of the trials were pruned. Epochs of random length take from half to twice
``--epoch-s``, by trial. "Limit" is how many epochs a second one driver can handle, and with ``--server`` how many one
core of the server can; times ``--epoch-s`` that is the number of workers that can be kept busy. Past it: longer epochs,
or several studies with a driver each, on servers of their own.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial, wraps
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from measure import begin, options, report
from window import busy_share, epoch_length

MARKS = (10, 200, 2000)  # trials about which an epoch's cost is shown
# What the driver's time is spent on, by function; nested ones count for themselves.
NAMED = {
    "TPE": ["optuna.samplers:TPESampler.sample_relative", "optuna.samplers:TPESampler.infer_relative_search_space"],
    "ask": ["pipeline.search.ask_tell:Search.ask"],
    "tell": ["pipeline.search.ask_tell:Search.tell"],
    "pruner": ["pipeline.search.ask_tell:OpenTrial.report"],
    "window": ["pipeline.study.window:Window.feed"],
    "model's cost": ["pipeline.study.trial_run:cost_of"],
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

    def watch(self, name: str, owner: Any, attribute: str) -> None:
        function = getattr(owner, attribute)

        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            with self.on(name):
                return function(*arguments, **named)

        setattr(owner, attribute, timed)

    def watch_all(self) -> None:
        from pipeline.tracking.runs import Tracking

        for name, functions in NAMED.items():
            for where in functions:
                module, _, path = where.partition(":")
                owner: Any = import_module(module)
                *owners, attribute = path.split(".")
                self.watch(name, getattr(owner, owners[0]) if owners else owner, attribute)
        for attribute, value in list(vars(Tracking).items()):
            if callable(value) and not attribute.startswith("_"):
                self.watch("MLflow", Tracking, attribute)


class VirtualWorkers:
    """Workers whose epochs take no processor time and end in the order of a clock. Other tasks are carried out."""

    def __init__(self, slots: int, length: Callable[[Any], float], epoch: Callable[..., Any]) -> None:
        self.slots, self.busy_s, self.tasks = slots, 0.0, 0
        self.written: Callable[[], bool] = lambda: True  # whether the writer threads have nothing to do
        self._length, self._epoch = length, epoch
        self._running: list[tuple[float, int, Hashable, Any, tuple[Any, ...]]] = []
        self._ahead = self._own_s = 0.0

    def now(self) -> float:
        return self.driver_s() + self._ahead

    def driver_s(self) -> float:
        """Processor time of this process without that of the tasks."""
        return time.process_time() - self._own_s

    def trained_s(self) -> float:
        """How long all workers together have trained."""
        return self.busy_s - sum(max(0.0, end - self.now()) for end, *_ in self._running)

    def submit(self, key: Hashable, task: Any, *arguments: Any) -> None:
        virtual = task.__name__ == "run_epoch"
        length = self._length(key) if virtual else 0.0
        self.busy_s += length
        self.tasks += 1
        do = self._epoch if virtual else task
        heapq.heappush(self._running, (self.now() + length, self.tasks, key, do, arguments))

    def wait(self, timeout: float) -> Any:
        started = time.thread_time()
        try:
            return self._wait(self.now() + timeout)
        finally:
            self._own_s += time.thread_time() - started

    def _wait(self, until: float) -> Any:
        from pipeline.workers import Raised, Returned

        ends = min(until, self._running[0][0]) if self._running else until
        while self.now() < ends and not self.written():
            time.sleep(0.005)  # the writer threads use this time
        self._ahead += max(0.0, ends - self.now())
        if not self._running or self._running[0][0] > self.now():
            return None
        _, _, key, task, arguments = heapq.heappop(self._running)
        try:
            return Returned(key, task(*arguments))
        except Exception as error:
            return Raised(key, error)

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


class Marks:
    """A reporter that notes the driver's time and memory at the end of each trial."""

    def __init__(self, total: int) -> None:
        self.workers: VirtualWorkers | None = None
        self.total, self.epochs, self.all_asked = total, 0, (0.0, 0.0)
        self.trials: list[tuple[float, float]] = []  # processor time so far, MiB in use

    def opened(self, number: int, *_: Any) -> None:
        assert self.workers is not None
        if number == self.total - 1:  # from here on workers run out of trials, whatever the driver does
            self.all_asked = self.workers.now(), self.workers.trained_s()

    def trial(self, *_: Any) -> None:
        assert self.workers is not None
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
        self.trials.append((self.workers.driver_s(), memory))

    def epoch(self, *_: Any) -> None:
        self.epochs += 1

    def __getattr__(self, event: str) -> Callable[..., None]:
        return lambda *_, **__: None

    def around(self, number: int) -> str:
        """Milliseconds of processor time for each epoch around a trial, and MiB then.

        Trials are recorded in bursts, so the epochs are counted as trials of average length.
        """
        near = max(10, number // 20)
        first, last = max(0, number - near), min(len(self.trials) - 1, number + near)
        if number > len(self.trials) or last <= first:
            return ""
        (from_s, _), (to_s, memory) = self.trials[first], self.trials[last]
        spent_s = (to_s - from_s) / (last - first) * len(self.trials) / self.epochs
        return f"{1000 * spent_s:.0f} ms, {memory:.0f} MiB"


def case(given: argparse.Namespace, workers: int, sampler: str, lengths: str) -> dict[str, Any]:
    """Run one study and measure its driver."""
    from pipeline.config import load_study_file
    from pipeline.home import open_home
    from pipeline.study import driver, session
    from pipeline.tracking.writer import Writer

    spent, reporter = Spent(), Marks(given.trials)
    file = given.folder / "virtual.toml"
    open_trials = given.window * workers
    file.write_text(STUDY.format(**(vars(given) | {"open_trials": open_trials, "sampler": sampler})))
    no_workers = session.Options(workers=0)  # the virtual ones take their place

    def length(key: Any) -> float:
        return float(given.epoch_s * epoch_length(key.number, lengths))

    with served(given.folder / "server") if given.server else nullcontext((None, float)) as (address, server_s):
        home = open_home(given.folder / "home", tracking_uri=address)
        with session.open_session(load_study_file(file), home, no_workers, reporter) as opened:
            values = opened.config.space.resolve(lambda _, form: form.first)
            trial = opened.config.trial(values, 0, opened.device, opened.precision)
            epochs = Epochs(trial, opened.data, opened.home.data_dir, given.folder / "template")
            reporter.workers = virtual = VirtualWorkers(workers, length, epochs)

            class Watched(Writer):
                def __init__(self, *arguments: Any) -> None:
                    super().__init__(*arguments)
                    virtual.written = lambda: self.left == 0

            driver.Writer = Watched
            spent.watch_all()
            started, before, server_before = virtual.now(), virtual.driver_s(), server_s()
            driver.run_to_total(replace(opened, workers=virtual), no_workers)
            clock_s, driver_s = virtual.now() - started, virtual.driver_s() - before
            served_s = server_s() - server_before
    asked_s, trained_s = reporter.all_asked[0] - started, reporter.all_asked[1]
    if len(reporter.trials) <= open_trials:  # all were asked at once
        asked_s, trained_s = clock_s, virtual.busy_s
    shares = {name: seconds / driver_s for name, seconds in spent.seconds.most_common()}
    shares["other"] = 1 - sum(shares.values())
    return {
        "workers": workers,
        "sampler": sampler,
        "lengths": lengths,
        "trials": len(reporter.trials),
        "epochs": reporter.epochs,
        "busy": f"{trained_s / (workers * asked_s):.0%}",
        "by the window": f"{busy_share(workers, open_trials, given.trials, given.epochs, lengths):.0%}",
        "limit, epochs/s": reporter.epochs / driver_s,
        **({"limit of the server": reporter.epochs / served_s} if given.server else {}),
        **{f"at trial {number}": reporter.around(number) for number in MARKS if number <= given.trials},
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "driver's time": ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01),
    }


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """A running `mlflow server` of one process, with its files in this folder: its address, and its processor time."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    address, database = f"http://127.0.0.1:{port}", f"sqlite:///{folder / 'mlflow.db'}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    try:
        while True:
            with suppress(OSError), urlopen(f"{address}/health", timeout=5):
                break
            time.sleep(0.2)
        yield address, partial(group_s, server.pid)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def group_s(group: int) -> float:
    """The processor time of a process group so far."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = file.read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12]) if int(fields[2]) == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = options(__doc__, runs=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 256, 1000])
    parser.add_argument("--sampler", nargs="+", default=["random", "tpe"], choices=["random", "tpe"])
    parser.add_argument("--lengths", nargs="+", default=["given", "random"], choices=["given", "random"])
    parser.add_argument("--pruner", default="median")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5, help="of a trial, at most")
    parser.add_argument("--window", type=int, default=4, help="open trials for each worker")
    parser.add_argument("--epoch-s", type=float, default=5.0)
    parser.add_argument("--server", action="store_true", help="MLflow over HTTP, in place of sqlite")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # this process measures one case in it
    given = parser.parse_args()
    if given.folder:
        result = case(given, given.workers[0], given.sampler[0], given.lengths[0])
        (given.folder / "result.json").write_text(json.dumps(result))
        return
    begin(given)
    cases = [(n, s, lengths) for n in given.workers for s in given.sampler for lengths in given.lengths] * given.runs
    rows = []
    with tempfile.TemporaryDirectory() as base:
        judges = Path(base) / "judges"  # trained once
        for workers, sampler, lengths in cases:
            folder = Path(base) / "case"
            folder.mkdir()
            if judges.exists():
                shutil.copytree(judges, folder / "home" / "judges")
            these = ["--folder", folder, "--workers", workers, "--sampler", sampler, "--lengths", lengths]
            subprocess.run([sys.executable, __file__, *map(str, [*sys.argv[1:], *these])], check=True)
            rows.append(json.loads((folder / "result.json").read_text()))
            print(f"{workers} workers, {sampler}, {lengths}: {rows[-1]['limit, epochs/s']:.1f} epochs/s", flush=True)
            shutil.copytree(folder / "home" / "judges", judges, dirs_exist_ok=True)
            shutil.rmtree(folder)
    spent = {f"{row['workers']} workers, {row['sampler']}, {row['lengths']}": row.pop("driver's time") for row in rows}
    what = "an MLflow server" if given.server else "sqlite"
    report(f"One driver, MLflow on {what}, epochs of {given.epoch_s:g} s", rows, given, **spent)


if __name__ == "__main__":
    main()
