"""A study before it is run: what it searches, how long its epochs take here, and what the whole will need.

Comes in: a study file's configuration and the data folder. Goes out: a `Plan`. Nothing is downloaded or written: real
training steps are taken, on a part of the data and in this process, and forgotten. May not import mlflow.
"""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from urllib.parse import urlsplit

import numpy as np
import torch

from pipeline.config import Choices, Range, StudyConfig, TrialConfig, Value
from pipeline.config.catalogue import CATALOGUE
from pipeline.config.space import key_of
from pipeline.config.volume import Parameter, combinations, configurations, drawn, parameters
from pipeline.data import Dataset, verify
from pipeline.data.degrade import input_size
from pipeline.data.prepare import prepare
from pipeline.epoch import OUT_OF_MEMORY, fixed_numerics, train_and_validate
from pipeline.errors import DataError, StudyError
from pipeline.evaluation.baselines import baseline_names
from pipeline.evaluation.batches import BATCH
from pipeline.search import samplers
from pipeline.study.advice import advice
from pipeline.training.model import cost_of
from pipeline.workers.machine import Device, precision_here, room_for
from pipeline.workers.process import keep_freed_memory

SIZE_KEYS = ("layer_type", "depth", "bottleneck", "width", "channels", "convs", "kernel", "unshuffle", "skip")
CORNERS = 500  # of the space, compared by their multiply-adds
DRAWN = 30  # trials at random, whose average is forecast
TIMED = 4  # of them, timed beside the smallest and the largest
STEPS_S = 0.5  # of training steps, for each trial that is timed
TIMING_S = 8.0  # after which no further trial is timed
LEAST_RATE = 1e-6  # the rate of timed steps: it does not change their time, and none diverges

START_S = 15  # to start, and for the baselines
BUSY = 0.85  # of the workers' time goes into training and validation; it was 0.89 in quickstart, 0.90 in denoise-conv
# The share of all epochs that is trained where a pruner acts: in quickstart 58 %, in denoise-conv 53 %, both guided; of
# trials in random order 24 to 48 %, when median, Hyperband and successive halving were replayed on recorded curves.
TRAINED = {"tpe": 0.55, "random": 0.4}
TRAINED_BEFORE = {"tpe": "53% and 58% in two guided studies", "random": "24 to 48% in recorded curves"}
CHECKPOINTS = 3  # of an open trial: the last two, and the best
MODEL_COPIES = 2  # of the weights in an exported model: as a weights file, and in the program
WEIGHT_BYTES = 4  # a parameter
EPOCH_BYTES = 5_000  # in the two databases
PICTURE_SHARE = 0.12  # of a panel's pixels, as the files that MLflow makes of it


@dataclass(frozen=True)
class Timed:
    """A configuration of which some steps were taken."""

    what: str  # smallest, largest or drawn; only size, where all have one
    values: dict[str, Value]  # of the searched keys that it has
    parameters: int
    multiply_adds: int
    steps: int  # that were timed
    batch_size: int
    epoch_s: float
    checkpoint_bytes: int

    @property
    def sizes(self) -> dict[str, Value]:
        """The values that decide about its size and its batches."""
        return {key: value for key, value in self.values.items() if key in (*SIZE_KEYS, "batch_size")}


@dataclass(frozen=True)
class Plan:
    """What a study would do and need."""

    config: StudyConfig
    data: Dataset
    device: Device
    workers: int
    at_once: int  # of them, which have a core or a GPU and a trial each
    parameters: list[Parameter]
    combinations: int | None  # None where a parameter is continuous, or they are too many
    timed: list[Timed]
    epoch_s: float  # on average over the space
    weights_bytes: int  # likewise, of a model
    worker_bytes: int  # at the peak of the timed steps
    picture_bytes: int  # of an epoch
    warnings: list[str]

    busy = BUSY

    @property
    def trained(self) -> float:
        """The share of the epochs that is trained: 1 without a pruner, else an assumption."""
        budget = self.config.budget
        pruned = self.config.pruner.name != "none" and min(budget.trials, budget.epochs) > 1
        return TRAINED[self.config.sampler.name] if pruned else 1.0

    @property
    def trained_before(self) -> str:
        """What the assumption is made from."""
        return TRAINED_BEFORE[self.config.sampler.name]

    def seconds(self, epoch_s: float, trained: float = 1.0) -> float:
        """The time of the whole study, if an epoch takes so long and such a share of all is trained."""
        budget = self.config.budget
        return START_S + budget.trials * budget.epochs * trained * epoch_s / (self.at_once * BUSY)

    @property
    def disk_bytes(self) -> dict[str, int]:
        """What a study takes at most, without pruning: checkpoints while it runs; models and records, which stay.

        Records are the two databases and the pictures.
        """
        budget = self.config.budget
        kept = budget.trials if budget.keep_models == "all" else min(budget.keep_models, budget.trials)
        return {
            "checkpoints": budget.concurrency * CHECKPOINTS * max(timed.checkpoint_bytes for timed in self.timed),
            "models": (budget.trials + kept * MODEL_COPIES) * self.weights_bytes,
            "records": budget.trials * budget.epochs * (EPOCH_BYTES + self.picture_bytes),
        }

    @property
    def baselines(self) -> list[str]:
        return baseline_names(self.config.degrade, self.data.image_size)


def plan(config: StudyConfig, data_dir: Path, device: Device, workers: int | None) -> Plan:
    """Check a study as `run` does, time some of its steps, and forecast what it needs.

    Args:
        device: where to train.
        workers: how many; None takes as many as `run` would start.

    Raises:
        InputError: as `pipeline.api.run_study`, and where the data set is absent: it is not downloaded.
        StudyError: a configuration does not fit into memory.
    """
    samplers.check(config)
    data = _data(config, data_dir)
    room = room_for(device, config.budget.threads_per_trial)
    slots = min(room, config.budget.concurrency) if workers is None else workers
    height, width = input_size(data.image_size, config.degrade)
    keep_freed_memory()  # as workers do
    timed, panel = _timings(config, data, device)
    sizes = [
        _cost(config.trial(values, 0, device, "float32"), data) for values in drawn(config.space, DRAWN, config.seed)
    ]
    return Plan(
        config,
        data,
        device,
        slots,
        max(1, min(slots, room, config.budget.concurrency, config.budget.trials)),
        parameters(config.space),
        combinations(config.space),
        timed,
        _interpolated(timed, [size["multiply_adds"] for size in sizes]),
        round(mean(WEIGHT_BYTES * size["parameters"] for size in sizes)),
        _peak_bytes(device),
        round(panel.nbytes * PICTURE_SHARE),
        list(advice(config, len(data.train), height * width, slots, room if workers is None else None)),
    )


def _data(config: StudyConfig, data_dir: Path) -> Dataset:
    try:
        return prepare(config, data_dir, download=False)
    except DataError as error:
        if verify(config.dataset, data_dir, quick=True).state != "absent":
            raise
        source = urlsplit(CATALOGUE[config.dataset].files[0].urls[0]).hostname
        hint = f"nothing can be timed without it; `study prepare FILE` downloads it from {source}"
        raise DataError(f"{str(error).splitlines()[0]}\n{hint}") from None


def extremes(config: StudyConfig, data: Dataset) -> list[dict[str, Value]]:
    """The values of the trials with the fewest and the most multiply-adds; one where they are the same.

    Looked for at the corners of the space: the ends of all keys that decide about a model's size. The smallest takes
    the largest batches, the largest the smallest.
    """

    def corners(batch: int) -> Iterator[dict[str, Value]]:
        def options(name: str, form: Choices | Range) -> Sequence[Value]:
            key = key_of(name)
            if key == "batch_size":
                return [_ends(form)[batch]]
            return _ends(form) if key in SIZE_KEYS else [form.first]

        return islice(configurations(config.space, options), CORNERS)

    def work(values: dict[str, Value]) -> int:
        return _cost(config.trial(values, 0, "cpu", "float32"), data)["multiply_adds"]

    smallest, largest = min(corners(-1), key=work), max(corners(0), key=work)
    return [smallest] if smallest == largest else [smallest, largest]


def _ends(form: Choices | Range) -> list[Value]:
    """The least and the greatest number, and every choice that is not a number."""
    if isinstance(form, Range):
        return [form.low, form.high]
    numbers = [value for value in form.values if isinstance(value, int | float) and not isinstance(value, bool)]
    others = [value for value in form.values if value not in numbers or isinstance(value, bool)]
    return [*dict.fromkeys([min(numbers), max(numbers)] if numbers else []), *others]


def _cost(trial: TrialConfig, data: Dataset) -> dict[str, int]:
    return cost_of(trial.model, input_size(data.image_size, trial.degrade), data.image_size)


def _timings(config: StudyConfig, data: Dataset, device: Device) -> tuple[list[Timed], np.ndarray]:
    """The timed trials, and a panel."""
    started = time.perf_counter()
    found = extremes(config, data)
    names = ["smallest", "largest"] if len(found) > 1 else ["only size"]
    chosen = list(zip(names, found, strict=True))
    if config.space.searched():
        chosen += [("drawn", values) for values in drawn(config.space, TIMED, config.seed)]
    timed: list[Timed] = []
    panel = np.empty(0)
    for what, values in chosen:
        if what != "drawn" or time.perf_counter() - started < TIMING_S:
            one, panel = _time(what, config, values, data, device)
            timed.append(one)
    return timed, panel


def _time(
    what: str, config: StudyConfig, values: dict[str, Value], data: Dataset, device: Device
) -> tuple[Timed, np.ndarray]:
    trial = config.trial(values | {"lr": LEAST_RATE}, 0, device, precision_here(device))
    batch = min(trial.train.batch_size, len(data.train))
    steps, batches = len(data.train) // batch, -(-len(data.val) // BATCH)
    try:
        with fixed_numerics(trial):
            first_s, *_ = _steps(trial, data, 1, 1)  # slower than those that follow
            taken = min(steps, max(2, round(STEPS_S / first_s)))
            step_s, rest_s, state, panel = _steps(trial, data, taken, 1)
            more = min(batches, 3)
            validated_s = _steps(trial, data, 1, more)[1] - rest_s if more > 1 else 0.0
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        shown = ", ".join(f"{key} {value}" for key, value in values.items() if key in SIZE_KEYS)
        raise StudyError(f"a trial does not fit into memory: {shown}; narrow [model], or batch_size") from None
    epoch_s = steps * step_s + rest_s + max(0.0, validated_s) * (batches - 1) / max(1, more - 1)
    checkpoint = sum(tensor.nbytes for tensor in state.values())
    searched = {key: values[key] for key in config.space.searched() if key in trial.params()}
    return Timed(
        what,
        searched,
        **_cost(trial, data),
        steps=taken,
        batch_size=batch,
        epoch_s=epoch_s,
        checkpoint_bytes=checkpoint,
    ), panel


def _steps(
    trial: TrialConfig, data: Dataset, steps: int, batches: int
) -> tuple[float, float, dict[str, torch.Tensor], np.ndarray]:
    """An epoch of so few training steps and validation batches: seconds a step, all other seconds, state and panel."""
    images = np.arange(steps * min(trial.train.batch_size, len(data.train)))
    part = replace(
        data, train=data.train.take(images), val=data.val.take(np.arange(min(batches * BATCH, len(data.val))))
    )
    started = time.perf_counter()
    state, result, panel = train_and_validate(trial, 1, None, part, None)
    whole_s, training_s = time.perf_counter() - started, result.metrics["time/epoch_s"]
    return training_s / steps, whole_s - training_s, state.tensors, panel


def _interpolated(timed: list[Timed], multiply_adds: list[int]) -> float:
    """The mean time of an epoch of models with so many multiply-adds, between those that were timed."""
    known = np.array(sorted((one.multiply_adds, one.epoch_s) for one in timed))
    return float(np.interp(np.array(multiply_adds), known[:, 0], known[:, 1]).mean())


def _peak_bytes(device: Device) -> int:
    """The most memory that this process has had, on the GPU where it trained there."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
