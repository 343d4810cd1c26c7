"""Epochs: a small run that learns, purity, divergence, damaged checkpoints, and what an epoch must leave unchanged."""

from __future__ import annotations

import errno
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from pydantic import ValidationError

from pipeline.config import TrialConfig
from pipeline.config.choices import LAYER_TYPES, LOSSES, SCHEDULERS
from pipeline.config.outcomes import Checkpoint, Failed, Trained
from pipeline.data import LOADERS, Split, load, sets
from pipeline.epoch import build_model, history, run_epoch, trained_weights
from pipeline.errors import CheckpointError, DataError, StudyError
from pipeline.evaluation import baselines, batches, scores
from pipeline.files import write_atomically
from pipeline.training import checkpoint as checkpoints
from pipeline.training.losses import loss_value
from pipeline.training.optimizers import build_optimizer, build_scheduler
from pipeline.training.weights import load_weights

ROOT = Path(__file__).parents[1]


def epochs(trial: TrialConfig, data_dir: Path, folder: Path) -> list[Trained]:
    """A whole trial."""
    done: list[Trained] = []
    for _ in range(trial.epochs):
        done.append(tiny.train(trial, done[-1].checkpoint if done else None, data_dir, folder))
    return done


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a fresh process saw, and the folder in which it left its files: it starts slowly, so one does for all."""
    folder = tmp_path_factory.mktemp("elsewhere")
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", ELSEWHERE, PURE.model_dump_json(), str(folder)],
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return json.loads(printed), folder


PURE = tiny.trial(dropout=0.3, skip=True, number=3)
ELSEWHERE = """
import json, random, resource, sys
from pathlib import Path

import tiny
from pipeline.files import write_atomically
from pipeline.config import TrialConfig
from pipeline.config.choices import LAYER_TYPES, LOSSES
from pipeline.epoch import run_epoch

tiny.register()
trial, folder = TrialConfig.model_validate_json(sys.argv[1]), Path(sys.argv[2])
state = random.getstate()
first = run_epoch(trial, None, folder, folder / "epochs")
second = run_epoch(trial, first.checkpoint, folder, folder / "epochs")
seen = {"traces": [tiny.trace(first), tiny.trace(second)], "random": random.getstate() == state}

# Two layers of 128 MiB where 50 are left.
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20, resource.RLIM_INFINITY))
seen["memory"] = run_epoch(tiny.trial(width=8192, bottleneck=4096), None, folder, folder / "memory").reason
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

# A limit on the sizes of files stands for the full disk.
write_atomically(folder / "disk" / "file", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
seen["disk"] = []
for attempt in (
    lambda: write_atomically(folder / "disk" / "file", bytes(10_000)),
    lambda: run_epoch(trial, None, folder, folder / "disk"),
):
    try:
        attempt()
    except OSError as error:
        seen["disk"].append(error.errno)
print(json.dumps(seen))
"""


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A data set of a single image, 120 times: the order of the images changes nothing."""
    split = tiny.strokes(120, seed=1)
    same = Split(split.images[:1].expand_as(split.images).contiguous(), split.labels)
    monkeypatch.setitem(LOADERS, "copies", lambda _data_dir, _download: (same, same, ["copies"]))


# --- Learning ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "degrade", [{"kind": "gaussian", "sigma": 0.5}, {"kind": "downscale", "factor": 4}], ids=lambda how: how["kind"]
)
def test_a_trial_learns_and_beats_what_it_was_given(degrade: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    trial = tiny.trial(epochs=15, width=128, bottleneck=32, degrade=degrade)
    done = epochs(trial, tiny_data, tmp_path)
    losses = [epoch.result.metrics["train/loss"] for epoch in done]
    assert losses[-1] < 0.6 * losses[0]
    assert losses[0] > losses[2] > losses[4] > losses[-1]

    seen = load(tiny.NAME, tiny_data)
    [trivial, _] = baselines.baseline_names(trial.degrade, seen.image_size)
    given = scores.evaluate(baselines.baseline(trivial, seen, trial.degrade), seen.val, trial.degrade, "val").summary()
    assert done[-1].result.metrics["val/psnr"] > given["psnr"] + 3
    assert done[-1].result.metrics["val/ssim"] > given["ssim"]
    assert done[-1].result.metrics["val/psnr"] > done[0].result.metrics["val/psnr"] + 3


@pytest.mark.usefixtures("copies")
def test_an_epoch_is_plain_gradient_descent_on_the_mean_loss(tiny_data: Path, tmp_path: Path) -> None:
    trial = tiny.trial(
        dataset="copies",
        degrade={"kind": "masking", "prob": 1e-12},
        loss="mse",
        batch_norm=False,
        optimizer="sgd",
        momentum=0.0,
        lr=0.5,
        lr_scheduler="constant",
        batch_size=32,
    )
    epoch = tiny.train(trial, None, tiny_data, tmp_path)
    seen = load("copies", tiny_data)
    by_hand, clean, losses = build_model(trial, seen), sets.to_float(seen.train.images[:32]), []
    for _ in range(96 // 32):
        loss = (torch.sigmoid(by_hand(clean)) - clean).square().mean()
        slopes = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for weights, slope in zip(by_hand.parameters(), slopes, strict=True):
                weights -= 0.5 * slope
        losses.append(loss.item())
    assert epoch.result.metrics["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    trained = checkpoints.load(epoch.checkpoint).tensors
    for name, weights in by_hand.named_parameters():
        assert torch.allclose(trained[f"model.{name}"], weights, atol=1e-6), name


@pytest.mark.parametrize(
    ("settings", "value"),
    [
        ({"loss": "bce"}, math.log(2)),
        ({"loss": "mse"}, 0.25**2),
        ({"loss": "l1"}, 0.25),
        ({"loss": "smooth_l1"}, 0.25 - 0.1 / 2),  # beyond delta, which is 0.1: as l1
        ({"loss": "smooth_l1", "delta": 0.5}, 0.25**2 / 2 / 0.5),  # below it: as mse
        ({"loss": "huber"}, 0.1 * (0.25 - 0.1 / 2)),
        ({"loss": "huber", "delta": 0.5}, 0.25**2 / 2),
        # Of two flat images only their means differ.
        ({"loss": "ssim"}, 1 - (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)),
        ({"loss": "bce + 0.2 l1"}, math.log(2) + 0.2 * 0.25),
        ({"loss": "2 mse + l1 + 0.5 huber", "delta": 0.5}, 2 * 0.25**2 + 0.25 + 0.5 * 0.25**2 / 2),
    ],
)
def test_losses_by_hand(settings: dict[str, Any], value: float) -> None:
    """Of logits 0, which are intensities of 0.5, against 0.25."""
    found = loss_value(torch.zeros(2, 1, 12, 11), torch.full((2, 1, 12, 11), 0.25), tiny.trial(**settings).train)
    assert found.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("largest", [1.0, 20.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bce_is_torchs(largest: float, dtype: torch.dtype) -> None:
    """The gradient to the last bit, so training is the same; also where the sigmoid is 0 or 1."""
    random = torch.Generator().manual_seed(0)
    clean = torch.rand(4, 1, 12, 11, generator=random, dtype=dtype).round(decimals=1)
    logits = torch.linspace(-largest, largest, clean.numel(), dtype=dtype).view_as(clean).requires_grad_()
    found = 0.7 * loss_value(logits, clean, tiny.trial(loss="bce").train)
    expected = 0.7 * torch.nn.functional.binary_cross_entropy_with_logits(logits, clean)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (found, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("loss", [*LOSSES, "bce + 0.2 ssim"])
def test_the_slope_of_a_loss_is_that_of_finite_differences(loss: str) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 12, 11, generator=random, dtype=torch.float64).requires_grad_()
    clean = torch.rand(2, 1, 12, 11, generator=random, dtype=torch.float64)
    config = tiny.trial(loss=loss).train
    assert torch.autograd.gradcheck(lambda given: loss_value(given, clean, config), logits)


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("method", ["area", "bicubic"])
@pytest.mark.parametrize("factor", [2, 4, 7])
def test_small_images_are_enlarged(
    factor: int, method: str, layer_type: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = (tiny.strokes(120, seed=1, side=28), tiny.strokes(20, seed=2, side=28), ["larger"])
    monkeypatch.setitem(LOADERS, "larger", lambda _data_dir, _download: seen)
    how = {"kind": "downscale", "factor": factor, "method": method}
    trial = tiny.trial(dataset="larger", degrade=how, layer_type=layer_type, skip=True, epochs=6)
    first, *_, last = epochs(trial, tiny_data, tmp_path)
    assert last.result.metrics["train/loss"] < 0.8 * first.result.metrics["train/loss"]
    assert last.result.metrics["val/psnr"] > first.result.metrics["val/psnr"]
    assert last.panel is not None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer": "adam", "beta1": 0.8, "beta2": 0.9, "lr": 0.3}, {"betas": (0.8, 0.9), "lr": 0.3}),
        ({"optimizer": "adam", "weight_decay": 0.2}, {"weight_decay": 0.2}),
        ({"optimizer": "adamw"}, {"weight_decay": 0.0}),  # torch's own would be 0.01
        ({"optimizer": "sgd", "momentum": 0.7, "nesterov": True}, {"momentum": 0.7, "nesterov": True}),
        ({"optimizer": "sgd", "momentum": 0.7}, {"momentum": 0.7, "nesterov": False}),
        ({"optimizer": "sgd", "momentum": 0.0, "nesterov": True}, {"momentum": 0.0, "nesterov": False}),
        ({"optimizer": "rmsprop", "momentum": 0.6}, {"momentum": 0.6, "alpha": 0.99}),
        ({"optimizer": "rmsprop", "smoothing": 0.9}, {"alpha": 0.9}),
        ({"optimizer": "adadelta", "rho": 0.8}, {"rho": 0.8}),
        ({"optimizer": "adam", "amsgrad": True}, {"amsgrad": True}),
        ({"optimizer": "adafactor", "weight_decay": 0.2}, {"weight_decay": 0.2}),
        ({"optimizer": "rprop", "lr": 0.3, "weight_decay": 0.2}, {"lr": 0.3}),  # it has no decay
    ],
)
def test_optimizers_take_their_settings(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    [group] = build_optimizer(tiny.trial(**settings).train, iter([weights]), "cpu").param_groups
    assert {key: group[key] for key in expected} == expected


def test_the_rate_of_an_optimizer_that_sets_its_own_steps_is_as_given(tiny_data: Path, tmp_path: Path) -> None:
    """Rprop looks at the rate once, before its first step, where one_cycle would have it at a 25th."""
    trained = [
        tiny.train(tiny.trial(optimizer="rprop", lr_scheduler=name, batch_size=96), None, tiny_data, tmp_path)
        for name in SCHEDULERS
    ]
    assert len({epoch.result.metrics["train/loss"] for epoch in trained}) == 1
    trial = tiny.trial(optimizer="rprop", lr_scheduler="one_cycle")
    optimizer = build_optimizer(trial.train, iter([torch.nn.Parameter(torch.zeros(2))]), "cpu")
    build_scheduler(trial.train, optimizer, 10)
    assert optimizer.param_groups[0]["lr"] == trial.train.lr
    assert "lr_scheduler" not in trial.params()


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_bfloat16_trains_otherwise_and_leaves_weights_and_restored_images_in_float32(
    layer_type: str, tiny_data: Path, tmp_path: Path
) -> None:
    trials = {name: tiny.trial(precision=name, layer_type=layer_type) for name in ("float32", "bfloat16")}
    trained = {name: tiny.train(trial, None, tiny_data, tmp_path) for name, trial in trials.items()}
    losses = [epoch.result.metrics["train/loss"] for epoch in trained.values()]
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)

    seen, trial = load(tiny.NAME, tiny_data), trials["bfloat16"]
    restorer = tiny.restorer(trial, seen, trained["bfloat16"].checkpoint)
    assert {value.dtype for value in restorer.state_dict().values() if value.is_floating_point()} == {torch.float32}
    with batches.threads(1), torch.inference_mode():
        scored, _ = scores.validation(restorer, seen, trial.degrade)
    assert scored.items() <= trained["bfloat16"].result.metrics.items(), "the worker scored in another precision"


def test_a_trial_has_no_precision_left_to_decide() -> None:
    with pytest.raises(ValidationError, match="what that means on its machine"):
        tiny.trial(precision="auto")


def test_figures_are_those_of_the_saved_model_on_val(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    epoch = tiny.train(tiny_trial, None, tiny_data, tmp_path)
    seen = load(tiny.NAME, tiny_data)
    restorer = tiny.restorer(tiny_trial, seen, epoch.checkpoint)
    with batches.threads(1), torch.inference_mode():
        again, panel = scores.validation(restorer, seen, tiny_trial.degrade)
    assert again == {name: value for name, value in epoch.result.metrics.items() if name.startswith("val/")}
    assert np.array_equal(panel, epoch.panel)


def test_epochs_count_from_1_and_the_history_is_kept(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    first, second = epochs(tiny_trial, tiny_data, tmp_path)
    past, panel = history(second.checkpoint, tiny_trial)
    assert past == [first.result, second.result]
    assert [epoch.epoch for epoch in past] == [1, 2]
    assert past[0].ended_at <= past[1].ended_at
    assert np.array_equal(panel, second.panel)
    assert checkpoints.found(tmp_path) == [second.checkpoint, first.checkpoint]
    assert {name for name in first.result.metrics if name.startswith("time/")} == {"time/epoch_s", "time/images_per_s"}


def test_batch_larger_than_the_data_set_is_the_data_set(tiny_data: Path, tmp_path: Path) -> None:
    tiny.train(tiny.trial(batch_size=5000), None, tiny_data, tmp_path)


# --- Purity --------------------------------------------------------------------------------------------------------


def test_an_epoch_depends_on_its_arguments_only(tiny_data: Path, tmp_path: Path) -> None:
    first = tiny.train(PURE, None, tiny_data, tmp_path)
    runs = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        with batches.threads(seed):
            runs.append(tiny.trace(tiny.train(PURE, first.checkpoint, tiny_data, tmp_path / str(seed))))
    assert runs[0] == runs[1]
    assert tiny.trace(tiny.train(PURE, None, tiny_data, tmp_path / "again")) == tiny.trace(first)


def test_a_fresh_process_gives_the_same_epochs(
    elsewhere: tuple[dict[str, Any], Path], tiny_data: Path, tmp_path: Path
) -> None:
    here = [tiny.trace(epoch) for epoch in epochs(PURE, tiny_data, tmp_path)]
    assert elsewhere[0]["traces"] == json.loads(json.dumps(here))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"degrade": {"kind": "masking", "prob": 1e-12}},
        {"dropout": 0.5, "degrade": {"kind": "masking", "prob": 1e-12}},
    ],
    ids=["noise and order", "order alone", "order and dropout"],
)
def test_randomness_differs_by_trial_replicate_and_seed(
    settings: dict[str, Any], tiny_data: Path, tmp_path: Path
) -> None:
    trials = [tiny.trial(**settings, **other) for other in ({}, {"number": 1}, {"replicate": 1}, {"seed": 1})]
    losses = {tiny.train(trial, None, tiny_data, tmp_path).result.metrics["train/loss"] for trial in trials}
    assert len(losses) == len(trials)


FROZEN = {
    "lr": 1e-30,
    "lr_scheduler": "constant",
    "optimizer": "sgd",
    "batch_norm": False,
    "epochs": 3,
    "batch_size": 80,
}


@pytest.mark.usefixtures("copies")
@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"dataset": "copies", "degrade": {"kind": "gaussian", "sigma": 0.5}}, False),
        ({"dataset": "copies", "degrade": {"kind": "masking", "prob": 1e-12}, "dropout": 0.5}, False),
        ({"dataset": "copies", "degrade": {"kind": "masking", "prob": 1e-12}}, True),
        ({"dataset": tiny.NAME, "degrade": {"kind": "masking", "prob": 1e-12}}, False),  # another 16 are left out
    ],
    ids=["noise", "dropout", "nothing random", "order"],
)
def test_every_epoch_draws_anew(settings: dict[str, Any], same: bool, tiny_data: Path, tmp_path: Path) -> None:
    """The weights stand still, so the loss moves by what is drawn, and by that only."""
    done = epochs(tiny.trial(**FROZEN, **settings), tiny_data, tmp_path)
    losses = [epoch.result.metrics["train/loss"] for epoch in done]
    spread = max(losses) - min(losses)
    assert spread < 1e-6 if same else spread > 1e-6


def test_an_epoch_leaves_global_state_alone(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    def state() -> tuple[Any, ...]:
        numpy_state = np.random.get_state(legacy=True)
        return (
            torch.get_rng_state().tolist(),
            numpy_state[1].tolist(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
        )

    before = state()
    tiny.train(tiny_trial, None, tiny_data, tmp_path)
    assert state() == before
    run_epoch(tiny.trial(lr=1e9), None, tiny_data, tmp_path)  # fails
    assert state() == before


def test_an_epoch_leaves_pythons_random_state_alone(elsewhere: tuple[dict[str, Any], Path]) -> None:
    """Not to be seen in this process, where beartype draws from it."""
    assert elsewhere[0]["random"] is True


def test_threads_are_the_trials_during_an_epoch_and_the_callers_after(tiny_data: Path, tmp_path: Path) -> None:
    trial, traces = tiny.trial(threads=2, batch_size=96), []
    for callers in (1, 2):
        with batches.threads(callers):
            traces.append(tiny.trace(tiny.train(trial, None, tiny_data, tmp_path / str(callers))))
            assert torch.get_num_threads() == callers
    assert traces[0] == traces[1]


def test_the_data_set_is_not_changed_by_training(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    seen = load(tiny.NAME, tiny_data)
    before = [split.images.clone() for split in (seen.train, seen.val, seen.select)]
    tiny.train(tiny_trial, None, tiny_data, tmp_path)
    for split, images in zip((seen.train, seen.val, seen.select), before, strict=True):
        assert torch.equal(split.images, images)


# --- Failures ------------------------------------------------------------------------------------------------------


def test_divergence_is_a_failure_with_its_epoch_and_leaves_no_checkpoint(tiny_data: Path, tmp_path: Path) -> None:
    outcome = run_epoch(tiny.trial(lr=1e9, lr_scheduler="constant"), None, tiny_data, tmp_path)
    assert isinstance(outcome, Failed)
    assert "non-finite loss" in outcome.reason
    assert "epoch 1" in outcome.reason
    assert outcome.seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_a_trial_that_diverges_late_names_that_epoch(tiny_data: Path, tmp_path: Path) -> None:
    trial = tiny.trial(epochs=4, lr=1e4, optimizer="sgd", lr_scheduler="one_cycle")  # which begins at lr / 25
    first = tiny.train(trial, None, tiny_data, tmp_path)
    second = run_epoch(trial, first.checkpoint, tiny_data, tmp_path)
    assert isinstance(second, Failed)
    assert "non-finite" in second.reason
    assert "epoch 2" in second.reason
    assert checkpoints.found(tmp_path) == [first.checkpoint]


def test_weights_that_are_finite_and_restore_nothing_are_a_failure(tiny_data: Path, tmp_path: Path) -> None:
    """The epoch's last step does it, so that no loss shows it: so large a decay leaves weights near 1e29."""
    steps = {"batch_size": 96, "optimizer": "sgd", "momentum": 0.0, "lr_scheduler": "constant", "batch_norm": False}
    outcome = run_epoch(tiny.trial(lr=1.0, weight_decay=1e30, **steps), None, tiny_data, tmp_path)
    assert isinstance(outcome, Failed)
    assert outcome.reason == "non-finite restored images after epoch 1"
    assert list(tmp_path.iterdir()) == []


def test_memory_exhausted_is_a_failure_with_its_reason(elsewhere: tuple[dict[str, Any], Path]) -> None:
    seen, folder = elsewhere
    assert "epoch 1" in seen["memory"]
    assert "memory" in seen["memory"]
    assert not (folder / "memory").exists()


def test_absent_data_is_not_a_trials_failure(tiny_trial: TrialConfig, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        run_epoch(tiny_trial.model_copy(update={"dataset": "mnist"}), None, tmp_path / "absent", tmp_path)


# --- Checkpoints ---------------------------------------------------------------------------------------------------


def flip(position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "first byte": flip(0),
    "byte of the header": flip(100),
    "byte in the middle": lambda path: flip(path.stat().st_size // 2)(path),
    "last byte": flip(-1),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "deleted": lambda path: path.unlink(),
}
USES: dict[str, Callable[[TrialConfig, Checkpoint, Path, Path], object]] = {
    "epoch": lambda trial, checkpoint, data_dir, folder: run_epoch(trial, checkpoint, data_dir, folder),
    "weights": lambda trial, checkpoint, data_dir, _: trained_weights(trial, load(tiny.NAME, data_dir), checkpoint),
    "history": lambda trial, checkpoint, _data_dir, _folder: history(checkpoint, trial),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoint_is_refused_by_name(
    damage: str, use: str, tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path
) -> None:
    checkpoint = tiny.train(tiny_trial, None, tiny_data, tmp_path).checkpoint
    DAMAGE[damage](Path(checkpoint.path))
    with pytest.raises(CheckpointError) as error:
        USES[use](tiny_trial, checkpoint, tiny_data, tmp_path)
    assert checkpoint.path in str(error.value)
    assert len(list(tmp_path.iterdir())) <= 1  # nothing was written


@pytest.mark.parametrize("use", USES)
def test_a_checkpoint_that_cannot_be_read_is_not_called_damaged(
    use: str, tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path
) -> None:
    checkpoint = tiny.train(tiny_trial, None, tiny_data, tmp_path).checkpoint
    Path(checkpoint.path).unlink()
    Path(checkpoint.path).mkdir()
    with pytest.raises(StudyError, match="cannot be read: Is a directory") as error:
        USES[use](tiny_trial, checkpoint, tiny_data, tmp_path)
    assert not isinstance(error.value, CheckpointError)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize(
    "other",
    [{"number": 1}, {"replicate": 1}, {"seed": 1}, {"lr": 0.02}, {"epochs": 3}, {"bottleneck": 9}, {"threads": 2}],
    ids=lambda other: next(iter(other)),
)
def test_another_trials_checkpoint_is_refused(
    other: dict[str, Any], use: str, tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path
) -> None:
    checkpoint = tiny.train(tiny_trial, None, tiny_data, tmp_path).checkpoint
    with pytest.raises(CheckpointError, match="another trial"):
        USES[use](tiny.trial(**other), checkpoint, tiny_data, tmp_path)


def test_checkpoint_of_another_epoch_is_refused(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    checkpoint = tiny.train(tiny_trial, None, tiny_data, tmp_path).checkpoint
    with pytest.raises(CheckpointError):
        run_epoch(tiny_trial, Checkpoint(checkpoint.path, checkpoint.sha256, 2), tiny_data, tmp_path)


def test_only_whole_checkpoints_are_found_the_latest_first(tmp_path: Path) -> None:
    state = checkpoints.TrainingState({"x": torch.arange(3)}, {"note": "é"})
    written = [checkpoints.save(tmp_path, epoch, state) for epoch in (1, 12_345, 2)]
    for name in ("epoch-0003-abc.safetensors", "epoch-0004-" + "0" * 64 + ".safetensors.77.tmp", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert checkpoints.found(tmp_path) == [written[1], written[2], written[0]]
    assert checkpoints.found(tmp_path / "absent") == []
    again = checkpoints.load(written[0])
    assert again.meta == state.meta
    assert torch.equal(again.tensors["x"], state.tensors["x"])


def test_no_pickle_is_written_or_read(
    tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("a pickle")

    for name in ("load", "loads", "dump", "dumps", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(AssertionError, match="a pickle"):
        torch.save({}, tmp_path / "x")
    last = epochs(tiny_trial, tiny_data, tmp_path)[-1]
    trained_weights(tiny_trial, load(tiny.NAME, tiny_data), last.checkpoint)
    history(last.checkpoint, tiny_trial)
    header = Path(last.checkpoint.path).read_bytes()
    length = int.from_bytes(header[:8], "little")
    assert json.loads(header[8 : 8 + length])["__metadata__"].keys() == {"state"}  # a safetensors file


# --- Writing -------------------------------------------------------------------------------------------------------


def test_writing_makes_the_folder_and_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(elsewhere: tuple[dict[str, Any], Path]) -> None:
    seen, folder = elsewhere
    assert seen["disk"] == [errno.EFBIG, errno.EFBIG]
    assert [path.name for path in (folder / "disk").iterdir()] == ["file"]
    assert (folder / "disk" / "file").read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_trained_weights_are_those_of_the_checkpoint(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    seen = load(tiny.NAME, tiny_data)
    epoch = tiny.train(tiny_trial, None, tiny_data, tmp_path)
    content = trained_weights(tiny_trial, seen, epoch.checkpoint)
    restorer = load_weights(content, epoch.result.weights_sha256)
    assert not restorer.training
    stored = checkpoints.load(epoch.checkpoint).tensors
    for name, value in restorer.autoencoder.state_dict().items():
        assert torch.equal(value, stored[f"model.{name}"]), name
    fresh = build_model(tiny_trial, seen).state_dict()
    assert not all(torch.equal(value, stored[f"model.{name}"]) for name, value in fresh.items())
