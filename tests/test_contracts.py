"""What every entry of every table of choices must do. The tables are the cases, so a new entry is tested at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import tiny
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline import data, epoch
from pipeline.config import Degrade, TrialConfig
from pipeline.config.catalogue import CATALOGUE
from pipeline.config.choices import (
    ACTIVATIONS,
    APPLIES,
    LAYER_TYPES,
    LOSS_OBJECTIVES,
    LOSSES,
    OBJECTIVES,
    OPTIMIZERS,
    SCHEDULERS,
    Precision,
)
from pipeline.config.forms import FIELDS
from pipeline.data import degrade
from pipeline.data.sets import to_float
from pipeline.evaluation.batches import fixed_batches
from pipeline.evaluation.judge import judge_of
from pipeline.training import checkpoint as checkpoints
from pipeline.training import model
from pipeline.training.losses import LOSS_FUNCTIONS, loss_value
from pipeline.training.optimizers import SCHEDULER_FUNCTIONS, build_optimizer, build_scheduler

TABLES = {
    "activation": ACTIVATIONS,
    "layer_type": LAYER_TYPES,
    "loss": LOSSES,
    "lr_scheduler": SCHEDULERS,
    "optimizer": OPTIMIZERS,
    "precision": get_args(Precision),
}
CHOICES = [{key: name} for key, table in TABLES.items() for name in table]
SECTIONS = get_args(get_args(Degrade)[0])  # one class per kind of degradation


def kind(section: Any) -> str:
    [name] = get_args(section.model_fields["kind"].annotation)
    return name


def examples(section: Any) -> Iterator[dict[str, Any]]:
    """A degradation with mild settings, once for each of its named choices."""
    fields = {name: field for name, field in section.model_fields.items() if name != "kind"}
    named = {name: get_args(f.annotation) for name, f in fields.items() if get_origin(f.annotation) is Literal}
    settings: dict[str, Any] = {"kind": kind(section)}
    for name, field in fields.items():
        if field.is_required():
            settings[name] = next(value for value in (0.2, 2) if accepts(field, value))
    yield settings
    for name, values in named.items():
        yield from ({**settings, name: value} for value in values if value != fields[name].default)


def accepts(field: Any, value: object) -> bool:
    try:
        TypeAdapter(field.rebuild_annotation()).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


CHOICES += [{"loss": "bce + 0.2 ssim"}]
CHOICES += [{"layer_type": "conv", "depth": depth, "skip": skip} for depth in (1, 2, 3, 4) for skip in (False, True)]
CHOICES += [{"layer_type": "conv", "unshuffle": unshuffle, "skip": True} for unshuffle in (2, 4)]
DEGRADED = [
    {"degrade": settings, "layer_type": layer_type}
    for section in SECTIONS
    for settings in examples(section)
    for layer_type in LAYER_TYPES
]
DEGRADED += [{"degrade": {"kind": "downscale", "factor": 2}, "layer_type": "conv", "unshuffle": 2, "depth": 1}]


def case_id(settings: dict[str, Any]) -> str:
    values = [*settings.get("degrade", {}).values(), *(value for key, value in settings.items() if key != "degrade")]
    return "-".join(map(str, values))


@pytest.fixture(params=CHOICES + DEGRADED, ids=case_id)
def trial(request: pytest.FixtureRequest, tiny_data: Path) -> TrialConfig:  # noqa: ARG001
    return tiny.trial(**request.param)


def test_the_second_epoch_resumes_the_first_bit_for_bit(trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    first = tiny.train(trial, None, tiny_data, tmp_path)
    second = tiny.train(trial, first.checkpoint, tiny_data, tmp_path)
    assert tiny.trace(tiny.train(trial, first.checkpoint, tiny_data, tmp_path / "again")) == tiny.trace(second)
    assert tiny.trace(second) != tiny.trace(first)

    assert (first.result.epoch, second.result.epoch) == (1, 2)
    for trained in (first, second):
        assert all(math.isfinite(value) for value in trained.result.metrics.values())
        assert trained.panel.dtype == np.uint8
    assert first.result.metrics.keys() == second.result.metrics.keys()
    # Some optimisers hardly move at this learning rate; none may make the loss clearly worse.
    assert second.result.metrics["train/loss"] < 1.02 * first.result.metrics["train/loss"]


def test_training_moves_every_weight_and_lowers_the_loss_on_one_batch(trial: TrialConfig, tiny_data: Path) -> None:
    seen = data.load(tiny.NAME, tiny_data)
    autoencoder = epoch.build_model(trial, seen)
    before = {name: weights.clone() for name, weights in autoencoder.named_parameters()}
    optimizer = build_optimizer(trial.train, autoencoder.parameters(), "cpu")
    clean = to_float(seen.train.images[:32])
    degraded = degrade.degrade(clean, trial.degrade, torch.Generator().manual_seed(0))
    losses = []
    for _ in range(40):
        loss = loss_value(autoencoder(degraded), clean, trial.train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, weights in autoencoder.named_parameters():
        assert not torch.equal(weights, before[name]), name


def test_restored_images_have_the_clean_ones_shape_and_range(
    trial: TrialConfig, tiny_data: Path, tmp_path: Path
) -> None:
    seen = data.load(tiny.NAME, tiny_data)
    trained = tiny.train(trial, None, tiny_data, tmp_path)
    restorer = tiny.restorer(trial, seen, trained.checkpoint)
    for degraded, clean in fixed_batches(seen.val, trial.degrade, "val"):
        assert tuple(degraded.shape[-2:]) == degrade.input_size(seen.image_size, trial.degrade)
        restored = restorer(degraded)
        assert restored.shape == clean.shape
        assert restored.dtype == torch.float32
        assert restored.min() >= 0
        assert restored.max() <= 1


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_learning_rate_peaks_at_lr_and_momentum_is_unchanged(scheduler: str, optimizer: str) -> None:
    settings = tiny.trial(lr_scheduler=scheduler, optimizer=optimizer, lr=0.03, momentum=0.7, beta1=0.8).train
    weight = nn.Parameter(torch.ones(3))
    stepped = build_optimizer(settings, iter([weight]), "cpu")
    schedule = build_scheduler(settings, stepped, 50)
    [group] = stepped.param_groups
    rates, momenta = [], set()
    for _ in range(50):
        rates.append(group["lr"])
        momenta.add((group.get("momentum"), group.get("betas")))
        weight.grad = torch.ones(3)
        stepped.step()
        schedule.step()
    assert max(rates) == pytest.approx(0.03, rel=0.02)
    assert max(rates) <= 0.03 * (1 + 1e-9)
    assert min(rates) > 0
    assert len(momenta) == 1
    if optimizer in APPLIES["momentum"][1]:
        assert momenta == {(0.7, None)}
    if optimizer in APPLIES["beta1"][1]:
        assert {betas[0] for _, betas in momenta} == {0.8}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_training_resumed_from_a_checkpoint_gives_the_same_numbers(
    scheduler: str, optimizer: str, layer_type: str, tiny_data: Path, tmp_path: Path
) -> None:
    settings = {"nesterov": True, "amsgrad": True, "skip": True, "convs": 2}
    trial = tiny.trial(lr_scheduler=scheduler, optimizer=optimizer, layer_type=layer_type, **settings)
    seen = data.load(tiny.NAME, tiny_data)
    clean = to_float(seen.train.images[:32])

    def parts() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
        autoencoder = epoch.build_model(trial, seen)
        stepped = build_optimizer(trial.train, autoencoder.parameters(), "cpu")
        return autoencoder, stepped, build_scheduler(trial.train, stepped, 9)

    def train(steps: int, autoencoder: nn.Module, stepped: torch.optim.Optimizer, schedule: Any) -> list[Any]:
        for _ in range(steps):
            stepped.zero_grad()
            LOSS_FUNCTIONS["bce"](autoencoder(clean), clean, trial.train).backward()
            stepped.step()
            schedule.step()
        return [*(value.tolist() for value in autoencoder.state_dict().values()), schedule.get_last_lr()]

    uninterrupted, resumed = parts(), parts()
    halfway = train(4, *uninterrupted)
    saved = checkpoints.save(tmp_path, 1, checkpoints.capture(*uninterrupted, torch.zeros(1), {}))
    state = checkpoints.load(saved)
    state.restore(resumed[0])
    state.restore_training(*resumed[1:])
    assert train(0, *resumed) == halfway
    assert train(4, *resumed) == train(4, *uninterrupted) != halfway


@pytest.mark.parametrize(
    ("offered", "implemented"),
    [
        (set(LOSSES), set(LOSS_FUNCTIONS)),
        (set(SCHEDULERS), set(SCHEDULER_FUNCTIONS)),
        (set(LAYER_TYPES), set(model.AUTOENCODERS)),
        ({kind(section) for section in SECTIONS}, set(degrade.DEGRADATION_FUNCTIONS)),
        (set(CATALOGUE), set(data.LOADERS) - {tiny.NAME}),
    ],
    ids=["losses", "schedulers", "layer types", "degradations", "data sets"],
)
def test_every_choice_on_offer_is_implemented_and_the_reverse(offered: set[str], implemented: set[str]) -> None:
    assert offered == implemented


@pytest.mark.parametrize(
    ("namespace", "name", "base"),
    [(nn, name, nn.Module) for name in ACTIVATIONS.values()]
    + [(torch.optim, name, torch.optim.Optimizer) for name in OPTIMIZERS.values()],
)
def test_every_class_name_exists_in_torch(namespace: Any, name: str, base: type) -> None:
    assert issubclass(getattr(namespace, name), base)


@pytest.mark.parametrize(("key", "parent", "names"), [(key, *where) for key, where in APPLIES.items()])
def test_conditional_keys_name_keys_and_choices_that_exist(key: str, parent: str, names: tuple[str, ...]) -> None:
    assert list(FIELDS).index(parent) < list(FIELDS).index(key)
    assert set(names) <= set(TABLES[parent])


def test_objectives_are_recorded_metrics(tiny_trial: TrialConfig, tiny_data: Path, tmp_path: Path) -> None:
    judge = judge_of(data.load(tiny.NAME, tiny_data), tmp_path / "judges")
    trained = tiny.train(tiny_trial, None, tiny_data, tmp_path, judge)
    assert {f"val/{name}" for name in OBJECTIVES} <= trained.result.metrics.keys()
    assert set(OBJECTIVES.values()) == {"maximize", "minimize"}
    assert set(LOSS_OBJECTIVES) == set(OBJECTIVES) & set(LOSSES) - {"ssim"}
