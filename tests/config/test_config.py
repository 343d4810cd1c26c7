"""Study files: every form a key can take, everything that must be refused, and what follows from a space."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import (
    Choices,
    Fixed,
    ModelConfig,
    Range,
    Space,
    Split,
    StudyFile,
    TrainConfig,
    TrialConfig,
    Value,
    check_name,
    load_study_file,
)
from pipeline.config.choices import APPLIES, LOSS_OBJECTIVES, LOSSES, OBJECTIVES
from pipeline.config.forms import Dimension
from pipeline.config.keys import DEFAULTS, FIELDS
from pipeline.config.trial import OneOf
from pipeline.errors import ConfigError, InputError, NotFoundError

ROOT = Path(__file__).parents[2]
HEAD = 'name = "tiny"\ndataset = "mnist-5k"\n'
DEGRADE = '[degrade]\nkind = "gaussian"\nsigma = 0.5\n'
Load = Callable[..., StudyFile]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads HEAD + DEGRADE + the text given, or ``whole`` alone; the file is ``study.toml``."""

    def load(text: str = "", *overrides: str, whole: str | bytes | None = None, name: str | None = None) -> StudyFile:
        path = tmp_path / "study.toml"
        content = HEAD + DEGRADE + text if whole is None else whole
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return load_study_file(path, overrides, name)

    return load


def first(name: str, dimension: Choices | Range) -> Value:  # noqa: ARG001
    """Answers every question of `Space.resolve` with the first value."""
    return dimension.values[0] if isinstance(dimension, Choices) else dimension.low


def assert_short(error: pytest.ExceptionInfo[InputError]) -> str:
    """An error is one or two lines that fit on a screen."""
    message = str(error.value)
    assert message.count("\n") <= 1
    assert 0 < len(message) <= 1_200
    return message


# --- What a file may say -------------------------------------------------------------------------------------------


def test_study_file_of_all_sections_loads(tiny_study: Path) -> None:
    study = load_study_file(tiny_study)
    assert (study.config.name, study.config.dataset, study.config.degrade.kind) == ("tiny", "mnist-5k", "gaussian")
    assert (study.config.budget.trials, study.config.budget.epochs, study.config.budget.concurrency) == (3, 2, 2)
    assert study.config.space.searched() == ["bottleneck", "lr"]
    assert study.text == tiny_study.read_text()


def test_everything_but_name_dataset_and_degrade_has_a_default(load: Load) -> None:
    config = load().config
    values = config.space.resolve(first)
    assert values == DEFAULTS
    assert config.space.searched() == []
    assert config.trial(values, 3, "cpu").model == ModelConfig()
    assert config.trial(values, 3, "cpu").train == TrainConfig()
    assert config.trial(values, 3, "cpu").number == 3


@pytest.mark.parametrize(
    ("key", "form", "expected"),
    [
        ("depth", "5", Fixed(value=5)),
        ("lr", "1", Fixed(value=1.0)),
        ("skip", "true", Fixed(value=True)),
        ("width", '"auto"', Fixed(value="auto")),
        ("loss", '["bce", "l1"]', Choices(choices=("bce", "l1"))),
        ("lr", "[1, 0.5]", Choices(choices=(1.0, 0.5))),
        ("batch_norm", "[true, false]", Choices(choices=(True, False))),
        ("width", '["auto", 256]', Choices(choices=("auto", 256))),
        ("depth", "{ low = 2, high = 5 }", Range(low=2, high=5)),
        ("bottleneck", "{ low = 8, high = 256, log = true }", Range(low=8, high=256, log=True)),
        ("bottleneck", "{ low = 8, high = 32, step = 8 }", Range(low=8, high=32, step=8)),
        ("lr", "{ low = 1e-4, high = 1e-2, log = true }", Range(low=1e-4, high=1e-2, log=True)),
        ("dropout", "{ low = 0, high = 0.5 }", Range(low=0.0, high=0.5)),
        ("dropout", "{ low = 0.1, high = 0.7, step = 0.2 }", Range(low=0.1, high=0.7, step=0.2)),
        (
            "dropout",
            "{ choices = [0.1, 0.2], when = { batch_norm = [false] } }",
            Choices(choices=(0.1, 0.2), when={"batch_norm": [False]}),
        ),
        (
            "dropout",
            '{ low = 0.1, high = 0.2, when = { batch_norm = [false], loss = ["bce"] } }',
            Range(low=0.1, high=0.2, when={"batch_norm": [False], "loss": ["bce"]}),
        ),
        (
            "lr",
            '{ by = "optimizer", sgd = { low = 0.1, high = 1.0 }, adam = [0.1, 0.2], default = 0.5 }',
            Split(
                by="optimizer",
                parts={
                    "sgd": Range(low=0.1, high=1.0),
                    "adam": Choices(choices=(0.1, 0.2)),
                    "default": Fixed(value=0.5),
                },
            ),
        ),
    ],
)
def test_forms_of_a_key(load: Load, key: str, form: str, expected: Dimension) -> None:
    space = load(f"[{FIELDS[key][0]}]\n{key} = {form}\n").config.space
    assert space.dimension(key) == expected
    if isinstance(expected, Fixed):
        assert type(space.resolve(first)[key]) is type(expected.value)
    else:
        assert space.searched() == [key]


@pytest.mark.parametrize(
    ("text", "answers", "asked", "expected"),
    [
        ('[model]\nactivation = ["relu", "elu"]', {"activation": "elu"}, ["activation"], {"activation": "elu"}),
        (  # a key that means nothing beside the chosen activation is not asked for
            '[model]\nactivation = ["relu", "leaky_relu"]\nnegative_slope = { low = 0.1, high = 0.3 }',
            {"activation": "relu"},
            ["activation"],
            {"negative_slope": DEFAULTS["negative_slope"]},
        ),
        (
            '[model]\nactivation = ["relu", "leaky_relu"]\nnegative_slope = { low = 0.1, high = 0.3 }',
            {"activation": "leaky_relu", "negative_slope": 0.2},
            ["activation", "negative_slope"],
            {"negative_slope": 0.2},
        ),
        ("[model]\nnegative_slope = 0.5", {}, [], {"negative_slope": DEFAULTS["negative_slope"]}),
        (
            "[model]\nskip = [true, false]\ndepth = { low = 2, high = 4, when = { skip = [true] } }",
            {"skip": False},
            ["skip"],
            {"depth": DEFAULTS["depth"]},
        ),
        (
            '[train]\noptimizer = ["adam", "sgd"]\nlr = { by = "optimizer", sgd = [1, 2], default = [0.1, 0.2] }',
            {"optimizer": "sgd", "lr@sgd": 2.0},
            ["optimizer", "lr@sgd"],
            {"lr": 2.0},
        ),
        (
            '[train]\noptimizer = ["adam", "sgd"]\nlr = { by = "optimizer", sgd = [1, 2], default = [0.1, 0.2] }',
            {"optimizer": "adam", "lr@default": 0.2},
            ["optimizer", "lr@default"],
            {"lr": 0.2},
        ),
        (
            '[train]\noptimizer = ["adam", "sgd"]\nlr = { by = "optimizer", sgd = 3, default = [0.1, 0.2] }',
            {"optimizer": "sgd"},
            ["optimizer"],
            {"lr": 3.0},
        ),
        (  # a key of decimals ranged with integers is asked for as integers and becomes a decimal
            '[model]\nactivation = "elu"\nalpha = { low = 1, high = 5 }',
            {"alpha": 4},
            ["alpha"],
            {"alpha": 4.0},
        ),
    ],
)
def test_resolve_asks_only_for_what_is_open(
    load: Load, text: str, answers: dict[str, Value], asked: list[str], expected: dict[str, Value]
) -> None:
    names: list[str] = []

    def suggest(name: str, dimension: Choices | Range) -> Value:
        names.append(name)
        assert dimension.contains(answers[name])
        return answers[name]

    values = load(text).config.space.resolve(suggest)
    assert names == asked
    assert {key: values[key] for key in expected} == expected
    assert values.keys() == FIELDS.keys()


def test_the_order_of_questions_does_not_hang_on_the_order_in_the_file() -> None:
    sections = {
        "model": {"activation": ["relu", "leaky_relu"], "negative_slope": [0.1, 0.2], "depth": [2, 3]},
        "train": {"optimizer": ["sgd", "adam"], "lr": {"by": "optimizer", "sgd": [1, 2], "default": [0.1, 0.2]}},
    }
    turned = {name: dict(reversed(keys.items())) for name, keys in reversed(sections.items())}
    assert Space(sections).order == Space(turned).order


def test_the_order_of_questions_is_the_same_in_every_process() -> None:
    """Sets of text are walked in another order under another hash seed."""
    code = """
from pipeline.config import Space
parents = {"skip": [True], "loss": ["bce"], "batch_norm": [True], "lr": [0.1], "dropout": [0], "momentum": [0]}
print(Space({"model": {"depth": {"choices": [2, 3], "when": parents}}, "train": {}}).order)
"""
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
        ).stdout
        for seed in "123"
    }
    assert len(printed) == 1


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("train.lr=1e-2", "train", "lr", 1e-2),
        ("train.loss=mse", "train", "loss", "mse"),
        ('train.loss="mse"', "train", "loss", "mse"),
        (" train.loss = mse ", "train", "loss", "mse"),
        ("model.bottleneck={ low = 8, high = 64 }", "model", "bottleneck", {"low": 8, "high": 64}),
        ('train.loss=["mse", "l1"]', "train", "loss", ["mse", "l1"]),
        ("model.skip=true", "model", "skip", True),
        ("budget.trials=7", "budget", "trials", 7),
        ("objective.metric=ssim", "objective", "metric", "ssim"),
        ("degrade.sigma=0.1", "degrade", "sigma", 0.1),
        ("sampler.name=random", "sampler", "name", "random"),
    ],
)
def test_override(load: Load, override: str, section: str, key: str, expected: Any) -> None:
    study = load("[model]\nbottleneck = 16\n", override)
    assert study.config.canonical()[section][key] == expected
    assert study.overrides == (override,)


def test_override_of_a_top_level_key_and_the_last_one_wins(load: Load) -> None:
    assert load("", "seed=3", "seed=4").config.seed == 4


def test_name_takes_the_place_of_the_files_own(load: Load) -> None:
    config = load(name="other").config
    assert (config.name, config.model_name) == ("other", "other")
    assert load("", "registered_model=best", name="other").config.model_name == "best"


def test_digest_covers_text_and_overrides(load: Load) -> None:
    studies = [load(), load("# a comment\n"), load("", "seed=0"), load("", "seed=0", "seed=0")]
    assert len({study.sha256 for study in studies}) == len(studies)
    assert load().sha256 == load().sha256


# --- What a file may not say ---------------------------------------------------------------------------------------

OPEN_LR = "[train]\nlr = {}\n"
BAD = {
    "unknown key of the file": ("[bugdet]\ntrials = 3", ["bugdet", "budget"]),
    "unknown key of a section": ("[budget]\ntrails = 3", ["budget", "trails", "did you mean 'trials'"]),
    "unknown key of the model": ("[model]\nbottelneck = 3", ["model", "bottelneck", "bottleneck"]),
    "unknown key of degrade": ("clipped = true", ["degrade", "clipped", "did you mean 'clip'"]),
    "key of another section": ("[train]\ndepth = 3", ["[train]: depth belongs under [model]"]),
    "section in an enqueued one": ("[[enqueue]]\nmodel = { depth = 3 }", ["enqueue", "by themselves"]),
    "a training key in the model": ("[model]\nlr = 0.1", ["model", "lr"]),
    "a section that is a value": ("[model.depth]\nx = 1", ["model", "depth", "'x'"]),
    "unknown choice": ('[train]\nloss = "bec"', ["train", "loss", "bec", "did you mean 'bce'"]),
    "unknown loss in a sum": ('[train]\nloss = "bce + 0.2 sim"', ["train", "loss", "sim", "did you mean 'ssim'"]),
    "a sum written otherwise": ('[train]\nloss = ["mse", "bce+ssim"]', ["train", "loss", "bce+ssim", "bce + 0.2 ssim"]),
    "range over values": ("[model]\nkernel = { low = 3, high = 7 }", ["model", "kernel", "3, 5, 7", "listed"]),
    "unknown choice in a list": ('[train]\nloss = ["mse", "l2"]', ["train", "loss", "l2"]),
    "text for a number": ('[model]\ndepth = "3"', ["model", "depth", "'3'", "integer"]),
    "truth for an integer": ("[model]\ndepth = true", ["model", "depth", "True", "integer"]),
    "truth for a decimal": ("[train]\nlr = true", ["train", "lr", "True"]),
    "truth for trials": ("[budget]\ntrials = true", ["budget", "trials", "True", "integer"]),
    "truth as a range's end": (OPEN_LR.format("{ low = false, high = 1.0 }"), ["train", "lr", "low", "False"]),
    "integer for truth": ("[model]\nskip = 1", ["model", "skip", "1", "boolean"]),
    "decimal for an integer": ("[model]\ndepth = 3.0", ["model", "depth", "3.0", "integer"]),
    "decimals for a range of integers": ("[model]\ndepth = { low = 2, high = 3.5 }", ["model", "depth", "3.5"]),
    "number for text": ("[train]\nloss = 3", ["train", "loss", "3"]),
    "date": ("[model]\ndepth = 2024-01-01", ["model", "depth", "2024-01-01"]),
    "nan": (OPEN_LR.format("nan"), ["train", "lr", "nan", "finite"]),
    "infinity": (OPEN_LR.format("inf"), ["train", "lr", "inf", "finite"]),
    "nan in a list": (OPEN_LR.format("[0.1, nan]"), ["train", "lr", "nan", "finite"]),
    "infinite end": (OPEN_LR.format("{ low = 0.1, high = inf }"), ["train", "lr", "high", "inf"]),
    "nan for sigma": ("clip = true\n[train]\ndelta = nan", ["train", "delta", "nan"]),
    "below the least": ("[model]\ndepth = 0", ["model", "depth", "0", "greater than or equal to 1"]),
    "above the most": ("[model]\ndepth = 9", ["model", "depth", "9", "less than or equal to 8"]),
    "range past the most": ("[model]\ndepth = { low = 2, high = 9 }", ["model", "depth", "high", "9"]),
    "no trials": ("[budget]\ntrials = 0", ["budget", "trials", "0"]),
    "low above high": (OPEN_LR.format("{ low = 0.2, high = 0.1 }"), ["train", "lr", "low = 0.2", "high = 0.1"]),
    "low equal to high": (OPEN_LR.format("{ low = 0.1, high = 0.1 }"), ["train", "lr", "low = 0.1"]),
    "log from 0": ("[model]\ndropout = { low = 0, high = 0.5, log = true }", ["model", "dropout", "log", "above 0"]),
    "log that is no truth": (OPEN_LR.format("{ low = 0.1, high = 0.2, log = 1 }"), ["train", "lr", "log = 1"]),
    "log and step": (OPEN_LR.format("{ low = 0.1, high = 0.2, log = true, step = 0.1 }"), ["train", "lr", "step"]),
    "step of 0": (OPEN_LR.format("{ low = 0.1, high = 0.2, step = 0 }"), ["train", "lr", "step = 0"]),
    "negative step": ("[model]\ndepth = { low = 2, high = 4, step = -1 }", ["model", "depth", "step = -1"]),
    "nan step": (OPEN_LR.format("{ low = 0.1, high = 0.2, step = nan }"), ["train", "lr", "step"]),
    "step that is text": (OPEN_LR.format('{ low = 0.1, high = 0.2, step = "a" }'), ["train", "lr", "step"]),
    "decimal step of integers": ("[model]\ndepth = { low = 2, high = 4, step = 0.5 }", ["model", "depth", "0.5"]),
    "step that misses high": ("[model]\ndepth = { low = 2, high = 5, step = 2 }", ["model", "depth", "step = 2"]),
    "step that misses a decimal high": (OPEN_LR.format("{ low = 0.1, high = 0.45, step = 0.1 }"), ["lr", "0.1"]),
    "step beside a huge range": (OPEN_LR.format("{ low = 1e-5, high = 1e30, step = 7e-4 }"), ["train", "lr", "step"]),
    "range without high": (OPEN_LR.format("{ low = 0.1 }"), ["train", "lr", "high is missing"]),
    "range without low": (OPEN_LR.format("{ high = 0.1, log = true }"), ["train", "lr", "low is missing"]),
    "empty table": (OPEN_LR.format("{}"), ["train", "lr", "low is missing"]),
    "range of words": ('[train]\nloss = { low = "bce", high = "mse" }', ["train", "loss", "low"]),
    "range of a choice": ("[train]\nloss = { low = 1, high = 2 }", ["train", "loss"]),
    "unknown word in a range": (OPEN_LR.format("{ low = 0.1, hihg = 0.2 }"), ["train", "lr", "hihg"]),
    "empty list": ("[train]\nloss = []", ["train", "loss", "empty"]),
    "empty choices": ("[train]\nloss = { choices = [] }", ["train", "loss", "empty"]),
    "choices that are no list": ('[train]\nloss = { choices = "bce" }', ["train", "loss", "must be a list"]),
    "the same choice twice": (OPEN_LR.format("[1, 1.0]"), ["train", "lr", "1.0", "twice"]),
    "choices beside low": (OPEN_LR.format("{ choices = [0.1], low = 0.1 }"), ["train", "lr", "low"]),
    "list in a list": ("[model]\ndepth = [[2], [3]]", ["model", "depth", "[2]"]),
    "when on an unknown key": ("[model]\ndepth = { choices = [2], when = { skipp = [true] } }", ["skipp", "skip"]),
    "when on itself": ("[model]\ndepth = { choices = [2], when = { depth = [2] } }", ["model", "depth", "another"]),
    "when without a list": ("[model]\ndepth = { choices = [2], when = { skip = true } }", ["model", "depth", "when"]),
    "when without values": ("[model]\ndepth = { choices = [2], when = { skip = [] } }", ["model", "depth", "when"]),
    "when that is empty": ("[model]\ndepth = { choices = [2], when = {} }", ["model", "depth", "when"]),
    "when of a wrong type": ("[model]\ndepth = { choices = [2], when = { skip = [1] } }", ["depth", "when", "1"]),
    "when on what is not among the choices": (
        '[model]\ndepth = { choices = [2], when = { activation = ["elu"] } }\nactivation = ["relu", "gelu"]',
        ["model", "depth", "when", "elu", "activation", "relu, gelu"],
    ),
    "when on what is outside a range": (
        "[model]\ndropout = { choices = [0.1], when = { depth = [5] } }\ndepth = { low = 2, high = 4 }",
        ["model", "dropout", "when", "5", "depth", "2 to 4"],
    ),
    "by an unknown key": (OPEN_LR.format('{ by = "optimiser", default = 0.1 }'), ["lr", "optimiser", "optimizer"]),
    "by itself": (OPEN_LR.format('{ by = "lr", default = 0.1 }'), ["train", "lr", "by"]),
    "by no key": (OPEN_LR.format("{ by = 3, default = 0.1 }"), ["train", "lr", "by = 3"]),
    "by without parts": (OPEN_LR.format('{ by = "optimizer" }'), ["train", "lr", "parts"]),
    "by an illegal value": (OPEN_LR.format('{ by = "optimizer", sdg = 1, default = 0.1 }'), ["lr", "sdg", "sgd"]),
    "by a value that is not listed": (
        OPEN_LR.format('{ by = "optimizer", sgd = 1, default = 0.1 }\noptimizer = ["adam", "adamw"]'),
        ["train", "lr", "sgd", "adam, adamw"],
    ),
    "by without a part for a value": (
        OPEN_LR.format('{ by = "optimizer", sgd = 1 }\noptimizer = ["adam", "sgd"]'),
        ["train", "lr", "adam", "default"],
    ),
    "by a key ranged in part without a part for its other values": (
        '[model]\ndropout = { by = "width", auto = 0.1 }\n'
        'width = { by = "loss", bce = { low = 8, high = 64 }, default = "auto" }',
        ["model", "dropout", "width", "default"],
    ),
    "by in by": (OPEN_LR.format('{ by = "optimizer", default = { by = "loss", default = 1 } }'), ["lr.default", "by"]),
    "when in by": (
        OPEN_LR.format('{ by = "optimizer", default = { choices = [1], when = { loss = ["bce"] } } }'),
        ["lr.default", "when"],
    ),
    "circle of two": (
        "[model]\ndepth = { choices = [2], when = { skip = [true] } }\n"
        "skip = { choices = [true], when = { depth = [2] } }",
        ["circle", "depth", "skip"],
    ),
    "circle through what a key applies to": (
        '[model]\nactivation = { by = "layer_type", default = "relu" }\n'
        "negative_slope = [0.1, 0.2]\n"
        'layer_type = { choices = ["linear"], when = { negative_slope = [0.1] } }',
        ["circle", "activation", "negative_slope", "layer_type"],
    ),
    "unknown sampler": ('[sampler]\nname = "cmaes"', ["sampler", "name", "cmaes", "tpe"]),
    "unknown pruner": ('[pruner]\nname = "median2"', ["pruner", "name", "median2"]),
    "unknown objective": ('[objective]\nmetric = "pnsr"', ["objective", "metric", "pnsr", "psnr"]),
    "a section that is a list": ("[[budget]]\ntrials = 1", ["budget"]),
    "model that is a list": ("[[model]]\ndepth = 1", ["model"]),
    "enqueue that is a table": ("[enqueue]\ndepth = 1", ["enqueue"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_value_is_refused_with_file_key_and_value(load: Load, case: str, tmp_path: Path) -> None:
    text, words = BAD[case]
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    assert message.startswith(f"{tmp_path / 'study.toml'}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (DEGRADE, ["name is missing"]),
        ('name = "a"\n' + DEGRADE, ["dataset is missing"]),
        (HEAD, ["degrade is missing"]),
        (HEAD + "[degrade]\nsigma = 0.5", ["degrade", "kind is missing"]),
        (HEAD + '[degrade]\nkind = "gausian"\nsigma = 0.5', ["degrade", "gausian", "'gaussian'"]),
        (HEAD + '[degrade]\nkind = "gaussian"', ["degrade", "sigma is missing"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nsigma = 0', ["degrade", "sigma", "greater than 0"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nsigma = nan', ["degrade", "sigma", "finite"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nprob = 0.5', ["degrade", "sigma"]),
        (HEAD + '[degrade]\nkind = "masking"\nprob = 1.5', ["degrade", "prob", "1.5"]),
        (HEAD + '[degrade]\nkind = "downscale"\nfactor = 2.0', ["degrade", "factor", "2.0", "integer"]),
        (HEAD + '[degrade]\nkind = "downscale"\nfactor = 2\nmethod = "mean"', ["degrade", "method", "mean", "area"]),
        (HEAD + "seed = -1\n" + DEGRADE, ["seed = -1"]),
        (HEAD + "seed = true\n" + DEGRADE, ["seed = True"]),
        ("degrade = 3\n" + HEAD, ["degrade = 3"]),
        ("model = 3\n" + HEAD + DEGRADE, ["model = 3"]),
        ('name = 3\ndataset = "mnist"\n' + DEGRADE, ["name = 3"]),
        ('name = "a"\ndataset = "mnist-6k"\n' + DEGRADE, ["dataset", "mnist-6k", "mnist-5k"]),
        ("", ["name is missing"]),
        (HEAD + DEGRADE + "[model\ndepth = 3", ["not valid TOML", "line 6"]),
        (HEAD + HEAD + DEGRADE, ["not valid TOML"]),
        (b"\xff\xfe" + HEAD.encode("utf-16-le"), ["not UTF-8", "byte 0"]),
        (HEAD.encode() + b'registered_model = "\xe9"\n', ["not UTF-8", "byte 55"]),
        (HEAD + "#" * (1 << 20), ["larger than 1 MiB"]),
        (HEAD + f"seed = {'9' * 5000}\n" + DEGRADE, ["not valid TOML"]),
        (HEAD + f"seed = 0x{'f' * 5000}\n" + DEGRADE, ["seed", "64"]),
        (HEAD + DEGRADE + f"[train]\nlr = {'9' * 400}\n", ["train", "lr", "64"]),
        (HEAD + DEGRADE + f"[objective]\nmetric = '{'x' * 100_000}'\n", ["objective", "metric", "xxx"]),
        (HEAD + DEGRADE + f"[model]\n{'x' * 100_000} = 1\n", ["model", "xxx"]),
        (HEAD + '"two\\nlines\\nand more" = 1\n' + DEGRADE, [r"two\nlines\nand more"]),
        (HEAD + DEGRADE + '[budget]\n"two\\nlines\\nand more" = 1\n', ["budget", r"two\nlines\nand more"]),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, list) else "",
)
def test_bad_file_is_refused(load: Load, top: str | bytes, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(whole=top)
    message = assert_short(error)
    assert message.startswith(f"{tmp_path / 'study.toml'}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("depth", [25, 300, 5_000])
@pytest.mark.parametrize(
    "form",
    [
        lambda depth: "[sampler]\na = " + "[" * depth + "]" * depth,
        lambda depth: "[sampler]\n" + ".".join(["a"] * depth) + " = 1",
        lambda depth: "[model]\ndepth = " + "{a=" * depth + "1" + "}" * depth,
        lambda depth: "[" + ".".join(["a"] * depth) + "]",
    ],
    ids=["lists", "dotted keys", "tables", "section"],
)
def test_deep_nesting_is_refused(load: Load, form: Callable[[int], str], depth: int) -> None:
    with pytest.raises(ConfigError) as error:
        load(form(depth))
    assert "study.toml" in assert_short(error)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        load_study_file(tmp_path / "absent.toml")
    assert "absent.toml" in assert_short(error)


def test_folder_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_study_file(tmp_path)
    assert str(tmp_path) in assert_short(error)


@pytest.mark.parametrize(
    "override",
    [
        "train.lr",
        "=1",
        "train.=1",
        "model.depth.low=1",
        "name.x=1",
        "train.lr=",
        "train.lr=1=2",
        "train.lr=1\nloss=2",
        "train.lr=1\n\n\n= 2",
        "train.lr=[[",
        "train.lr=[" + "[" * 5000,
        "train.lr=" + "9" * 5000,
        "train.lr=0x" + "f" * 5000,
        "train.lr=-1",
        "train.loss=2024-01-01",
        "train.loss='\udcff'",
        "train.\udcff=1",
        "trian.lr=1",
        "train=1",
        "sampler.x=" + "x " * 5000,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_override_is_refused(load: Load, override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("", override)
    assert_short(error)


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-9", "x" * 100, "mnist-5k.sigma0.5"])
def test_good_name(load: Load, name: str) -> None:
    assert check_name(name, "name") == name
    assert load(name=name).config.name == name


def test_mlflows_own_experiment_is_no_study(load: Load) -> None:
    with pytest.raises(ConfigError, match="MLflow's own") as error:
        load(name="Default")
    assert_short(error)
    assert load(name="default").config.name == "default"


BAD_NAMES = [
    "../x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "x" * 101,
    "x" * 600,
    "{x}",
    "%s",
    "a b",
    "-a",
    "_a",
    "a\n",
    "\na",
    "é",
    "a\0",
    "\ud800",
    "${HOME}",
    "a;b",
    "a:b",
]


@pytest.mark.parametrize(
    ("key", "name"),
    # An empty registered_model stands for the study's name.
    [
        ("name", ""),
        ("argument", ""),
        *((key, n) for key in ("name", "registered_model", "argument") for n in BAD_NAMES),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bad_name_is_refused(load: Load, key: str, name: str) -> None:
    overrides = [] if key == "argument" else [f"{key}={json.dumps(name, ensure_ascii=False)}"]
    with pytest.raises(ConfigError) as error:
        load("", *overrides, name=name if key == "argument" else None)
    message = assert_short(error)
    assert "study.toml" in message
    assert ("registered_model" if key == "registered_model" else "name") in message


@pytest.mark.parametrize("metric", OBJECTIVES)
@pytest.mark.parametrize(
    ("loss", "searches"),
    [
        ('"mse"', False),
        ('["mse"]', False),
        ('["mse", "bce"]', True),
        ('{ choices = ["mse"], when = { skip = [true] } }', True),  # elsewhere it is the default, bce
        ('{ by = "lr_scheduler", cosine = "mse", default = "l1" }', True),
        ('{ by = "lr_scheduler", cosine = "mse", default = "mse" }', False),
    ],
)
def test_a_search_over_losses_is_not_ranked_by_a_loss(load: Load, metric: str, loss: str, searches: bool) -> None:
    text = f'[objective]\nmetric = "{metric}"\n[train]\nloss = {loss}\n'
    if not (searches and metric in LOSS_OBJECTIVES):
        assert load(text).config.objective.direction == OBJECTIVES[metric]
        return
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    for word in ("study.toml", "objective", metric, "mse", "psnr"):
        assert word in message


@pytest.mark.parametrize("metric", OBJECTIVES)
@pytest.mark.parametrize(
    ("loss", "trained_on_ssim"),
    [
        ('["bce", "ssim"]', True),
        ('["bce", "mse + 0.2 ssim"]', True),
        ('{ by = "lr_scheduler", cosine = "l1", default = "0.5 ssim" }', True),
        ('["bce", "bce + 0.2 l1"]', False),
    ],
)
def test_a_search_over_losses_with_ssim_is_ranked_by_psnr(
    load: Load, metric: str, loss: str, trained_on_ssim: bool
) -> None:
    text = f'[objective]\nmetric = "{metric}"\n[train]\nloss = {loss}\n'
    if metric in ("psnr", "class_kept") or (metric == "ssim" and not trained_on_ssim):
        assert load(text).config.objective.metric == metric
        return
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    assert "psnr" in message
    assert ("by psnr or ssim" in message) is not trained_on_ssim


def test_one_loss_may_be_what_trials_are_ranked_by(load: Load) -> None:
    assert load('[objective]\nmetric = "ssim"\n[train]\nloss = "bce + 0.2 ssim"\n').config.objective.metric == "ssim"


@pytest.mark.parametrize(
    ("form", "greatest"),
    [
        ("4", 4),
        ("[2, 5, 3]", 5),
        ("{ low = 1, high = 6 }", 6),
        ("{ choices = [1, 2], when = { skip = [true] } }", DEFAULTS["depth"]),
        ('{ choices = [1, 6], when = { layer_type = ["linear"] } }', DEFAULTS["depth"]),
        ('{ choices = [1, 2], when = { layer_type = ["conv"] } }', 2),
        ('{ by = "layer_type", linear = 8, conv = [1, 2] }', 2),
        ('{ by = "layer_type", linear = 8, default = { low = 2, high = 3 } }', 3),
        ('{ by = "loss", mse = 4, default = 2 }', 4),
    ],
)
def test_the_greatest_depth_of_convolutions(load: Load, form: str, greatest: int) -> None:
    space = load(f'[model]\nlayer_type = ["linear", "conv"]\ndepth = {form}\n').config.space
    assert space.greatest("depth", {"layer_type": "conv"}) == greatest


def test_a_range_of_a_decimal_key_is_of_decimals(load: Load) -> None:
    space = load("[model]\nnegative_slope = { low = 0, high = 1 }\ndepth = { low = 1, high = 3 }\n").config.space
    slope, depth = space.dimension("negative_slope"), space.dimension("depth")
    assert isinstance(slope, Range)
    assert isinstance(depth, Range)
    assert (slope.integer, depth.integer) == (False, True)
    assert slope.contains(0.25)
    assert not depth.contains(1.5)


def test_parts_are_named_after_truth_values_and_numbers_too(load: Load) -> None:
    space = load(
        "[model]\nskip = [true, false]\ndepth = [1, 2, 3]\nbottleneck = { by = 'skip', true = 8, false = 16 }\n"
        "dropout = { by = 'depth', 1 = 0.1, 2 = 0.2, default = 0.3 }\n"
    ).config.space
    for skip, bottleneck in ((True, 8), (False, 16)):
        for depth, dropout in ((1, 0.1), (2, 0.2), (3, 0.3)):
            values = space.resolve(lambda name, _: {"skip": skip, "depth": depth}[name])  # noqa: B023
            assert (values["bottleneck"], values["dropout"]) == (bottleneck, dropout)


def test_a_sum_of_losses_needs_no_quotes_in_an_override_and_a_file_may_begin_with_a_mark(load: Load) -> None:
    file = load("", "train.loss=bce + 0.2 ssim", whole=b"\xef\xbb\xbf" + (HEAD + DEGRADE).encode())
    assert file.config.space.dimension("loss") == Fixed(value="bce + 0.2 ssim")


SPACE = """
[model]
bottleneck = { low = 8, high = 64, step = 8 }
activation = ["relu", "leaky_relu"]
negative_slope = { low = 0.1, high = 0.3, when = { activation = ["leaky_relu"] } }
depth = 2
batch_norm = [true, false]

[train]
optimizer = ["adam", "sgd"]
lr = { by = "optimizer", sgd = { low = 0.1, high = 1.0, step = 0.1 }, default = [0.001, 0.01] }
"""


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "bottleneck = 8",
        "bottleneck = 64",
        "depth = 2",  # what is fixed may be said again
        'activation = "leaky_relu"\nnegative_slope = 0.2',
        'optimizer = "sgd"\nlr = 0.3',
        'optimizer = "sgd"\nlr = 0.30000000000000004',  # what a sampler makes of 0.1 + 2 * 0.1
        'optimizer = "adam"\nlr = 0.01',
        'optimizer = "sgd"\nlr = 1',
        'activation = "relu"\nnegative_slope = 0.01',  # its default, which it has there
    ],
)
def test_enqueued_configuration_of_the_space(load: Load, entry: str) -> None:
    assert len(load(f"[[enqueue]]\n{entry}\n{SPACE}").config.enqueue) == 1


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("bottelneck = 8", ["bottelneck", "bottleneck"]),
        ("bottleneck = 7", ["bottleneck", "7", "8 to 64"]),
        ("bottleneck = 12", ["bottleneck", "12", "steps of 8"]),
        ("bottleneck = 72", ["bottleneck", "72"]),
        ("bottleneck = 8.0", ["bottleneck", "8.0"]),
        ("bottleneck = true", ["bottleneck", "True"]),
        ("batch_norm = 1", ["batch_norm", "1"]),
        ("skip = 0", ["skip", "0"]),
        ('bottleneck = "8"', ["bottleneck", "'8'"]),
        ("bottleneck = [8]", ["bottleneck", "[8]"]),
        ("bottleneck = { low = 8, high = 16 }", ["bottleneck"]),
        ("depth = 3", ["depth", "3", "2"]),
        ("skip = true", ["skip", "not searched"]),
        ('activation = "gelu"', ["activation", "gelu", "relu, leaky_relu"]),
        ("negative_slope = 0.2", ["negative_slope", "activation"]),
        ('activation = "relu"\nnegative_slope = 0.2', ["negative_slope", "0.2"]),
        ('activation = "leaky_relu"\nnegative_slope = 0.5', ["negative_slope", "0.5", "0.1 to 0.3"]),
        ("lr = 0.01", ["lr", "optimizer"]),
        ('optimizer = "sgd"\nlr = 0.01', ["lr", "0.01", "0.1 to 1.0"]),
        ('optimizer = "adam"\nlr = 0.1', ["lr", "0.1"]),
        ('optimizer = "sgd"\nlr = 0.35', ["lr", "0.35", "steps of 0.1"]),
        ('optimizer = "sgd"\nlr = nan', ["lr", "nan"]),
        ('optimizer = "sgd"\nlr = inf', ["lr", "inf"]),
        ('optimizer = "sgd"\nlr = 1e300', ["lr", "1e+300"]),
    ],
)
def test_enqueued_configuration_outside_the_space_is_refused(load: Load, entry: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(f"[[enqueue]]\n[[enqueue]]\n{entry}\n{SPACE}")
    message = assert_short(error)
    for word in ("study.toml", "[[enqueue]] number 2", *words):
        assert word in message


# --- Comparing with a stored study, and trials ---------------------------------------------------------------------


def stored(study: StudyFile) -> Any:
    """A study's canonical form as a database gives it back."""
    return json.loads(json.dumps(study.config.canonical()))


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        ([], []),
        (["budget.trials=99", "registered_model=best"], []),
        (["seed=1"], [["seed", "0", "1"]]),
        (["budget.epochs=99"], [["budget.epochs", "10", "99"]]),
        (["degrade.sigma=0.6"], [["degrade.sigma", "0.5", "0.6"]]),
        (["model.depth=4", "train.loss=l1"], [["model.depth", "2", "4"], ["train.loss", '"bce"', '"l1"']]),
        (['model.activation=["relu"]'], [["model.activation", "leaky_relu", '["relu"]']]),
        (["sampler.n_ei_candidates=3"], [["sampler.n_ei_candidates", "(absent)", "3"]]),
    ],
)
def test_differences_from_a_stored_study(load: Load, overrides: list[str], lines: list[list[str]]) -> None:
    space = SPACE.replace("negative_slope", "# negative_slope")
    before, after = load(space), load(space, *overrides)
    found = after.config.differences(stored(before))
    assert len(found) == len(lines)
    for line, words in zip(found, lines, strict=True):
        for word in words:
            assert word in line


def test_spelling_a_default_out_is_no_difference(load: Load) -> None:
    plain, spelt = load(), load('[train]\nlr = 1e-3\nloss = "bce"\n[budget]\nepochs = 10\n')
    assert spelt.config.differences(stored(plain)) == []
    assert plain.config.differences(stored(spelt)) == []


def test_a_key_that_is_gone_is_a_difference(load: Load) -> None:
    [line] = load().config.differences(stored(load("", "pruner.n_startup_trials=3")))
    assert "pruner.n_startup_trials" in line
    assert "(absent)" in line


def test_trial_is_json_both_ways_and_frozen() -> None:
    trial = tiny.trial(lr=0.1, degrade={"kind": "downscale", "factor": 2}, number=7, width=100)
    assert TrialConfig.model_validate_json(trial.model_dump_json()) == trial
    assert TrialConfig.model_validate_json(json.dumps(trial.model_dump(mode="json"))) == trial
    with pytest.raises(ValidationError):
        trial.number = 8
    with pytest.raises(ValidationError):
        trial.model.depth = 8


def test_recorded_parameters_are_those_that_mean_something() -> None:
    adam = tiny.trial(optimizer="adam", activation="relu").params()
    sgd = tiny.trial(optimizer="sgd", activation="leaky_relu").params()
    assert {"beta1", "beta2"} <= adam.keys()
    assert not {"momentum", "nesterov", "negative_slope", "alpha", "delta"} & adam.keys()
    assert {"momentum", "nesterov", "negative_slope"} <= sgd.keys()
    assert not {"beta1", "beta2", "alpha"} & sgd.keys()
    assert (adam["degrade.kind"], adam["degrade.sigma"], adam["dataset"]) == ("gaussian", 0.3, "tiny")


def test_checking_a_study_file_needs_no_torch() -> None:
    code = "import sys, pipeline.config; sys.exit(bool({'torch', 'optuna', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- Properties ----------------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), max_size=8)
KEYS = st.sampled_from([*FIELDS, "name", "metric", "trials", "kind", "sigma", "low", "high", "by", "when"]) | WORDS
NUMBERS = st.integers(-(2**70), 2**70) | st.integers(0, 10) | st.floats()
LEAVES = st.booleans() | NUMBERS | WORDS | st.sampled_from(["relu", "bce", "mse", "sgd", "adam", "auto", "optimizer"])
FORMS = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {}, optional={"low": NUMBERS, "high": NUMBERS, "log": LEAVES, "step": NUMBERS, "when": inner}
        )
        | st.fixed_dictionaries({"by": st.sampled_from([*FIELDS]), "default": inner}, optional={"sgd": inner})
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)
TABLES = st.dictionaries(KEYS, FORMS, max_size=4)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "name": WORDS,
        "dataset": FORMS,
        "seed": FORMS,
        "degrade": TABLES | FORMS,
        "budget": TABLES | FORMS,
        "objective": TABLES | FORMS,
        "sampler": TABLES | FORMS,
        "enqueue": st.lists(TABLES, max_size=2) | FORMS,
        "model": st.fixed_dictionaries({}, optional=dict.fromkeys(ModelConfig.model_fields, FORMS)) | TABLES,
        "train": st.fixed_dictionaries({}, optional=dict.fromkeys(TrainConfig.model_fields, FORMS)) | TABLES,
    },
)
VALID = {"name": "a", "dataset": "mnist-5k", "degrade": {"kind": "masking", "prob": 0.5}}


def toml(value: Any) -> str:
    """A value as TOML on one line. JSON's strings are TOML's, but for one control character."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(str(key))} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower()


def loads_or_is_refused(text: str, folder: Path, *overrides: str) -> StudyFile | None:
    path = folder / "any.toml"
    path.write_bytes(text.encode())
    try:
        study = load_study_file(path, overrides)
    except InputError as error:
        message = str(error)
        assert message.count("\n") <= 1
        assert len(message) <= 1_200 + len(str(path))
        return None
    values = study.config.space.resolve(first)
    study.config.trial(values, 0, "cpu")
    assert study.config.differences(json.loads(json.dumps(study.config.canonical()))) == []
    assert len(study.sha256) == 64
    return study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@settings(max_examples=200, deadline=None)
@given(file=FILES)
def test_any_toml_loads_or_is_refused(folder: Path, file: dict[str, Any]) -> None:
    loads_or_is_refused("\n".join(f"{key} = {toml(value)}" for key, value in {**VALID, **file}.items()), folder)


SCRAPS = [*"[]{}=.\"'\n 1", "model", "train", "lr", "depth", "1e9", "true", HEAD, DEGRADE]


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.characters(codec="utf-8")) | st.lists(st.sampled_from(SCRAPS), max_size=20).map("".join))
def test_any_text_loads_or_is_refused(folder: Path, text: str) -> None:
    loads_or_is_refused(text, folder)


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(["model.", "train.", "seed", "budget.", "enqueue", ""]),
    field=KEYS,
    value=FORMS.map(toml) | st.text(),
)
def test_any_override_loads_or_is_refused(folder: Path, key: str, field: str, value: str) -> None:
    loads_or_is_refused(HEAD + DEGRADE, folder, f"{key}{field}={value}")


def legal(key: str) -> st.SearchStrategy[Any]:
    """Legal values of a key, from its declaration."""
    field = FIELDS[key][1]
    if key == "width":
        return st.just("auto") | st.integers(1, 8192)
    if key == "loss":
        return st.sampled_from(LOSSES) | st.sampled_from(["bce + 0.2 ssim", "0.5 mse + l1", "bce + 2 smooth_l1"])
    if get_origin(field.annotation) is Literal:
        return st.sampled_from(get_args(field.annotation))
    for rule in field.metadata:
        if isinstance(rule, OneOf):
            return st.sampled_from(rule.names)
    if field.annotation is bool:
        return st.booleans()
    return st.integers(*bounds(key)) if field.annotation is int else st.floats(*bounds(key))


def bounds(key: str) -> tuple[Any, Any]:
    """The least and the greatest legal number, a little inside where the bound itself is excluded."""
    limits = {
        name: getattr(limit, name)
        for limit in FIELDS[key][1].metadata
        for name in ("gt", "ge", "lt", "le")
        if hasattr(limit, name)
    }
    low = limits["ge"] if "ge" in limits else limits["gt"] + 1e-6
    high = limits["le"] if "le" in limits else limits["lt"] - 1e-6 if "lt" in limits else 1e3
    return low, high


@st.composite
def ranges(draw: st.DrawFn, key: str) -> dict[str, Any]:
    whole = FIELDS[key][1].annotation is int or key == "width"
    low, high = bounds(key) if key != "width" else (1, 8192)
    if draw(st.booleans()):  # in steps
        unit = 1 if whole else 0.01
        step, count = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        start = draw(st.integers(max(1, math.ceil(low / unit)), int(high / unit) - step * count))
        end = start + step * count
        return (
            {"low": start, "high": end, "step": step}
            if whole
            else {"low": start / 100, "high": end / 100, "step": step / 100}
        )
    ends = st.integers(low, high) if whole else st.floats(low, high)
    a, b = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    return {"low": a, "high": b, "log": draw(st.booleans()) and a > 0}


@st.composite
def dimensions(draw: st.DrawFn, key: str) -> Any:
    """A value, a list or a range that the key may take."""
    choices = st.lists(legal(key), min_size=1, max_size=3, unique=True)
    numeric = key == "width" or FIELDS[key][1].annotation in (int, float)
    return draw(legal(key) | choices | ranges(key) if numeric else legal(key) | choices)


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Valid ``[model]`` and ``[train]`` sections. A key depends only on keys declared before it, so not in a circle."""
    sections: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    given_before: dict[str, Any] = {}
    for place, key in enumerate(FIELDS):
        if not draw(st.booleans()):
            continue
        form = draw(dimensions(key))
        earlier = list(FIELDS)[:place]
        worded = [name for name in earlier if isinstance(DEFAULTS[name], str) and name != "width"]
        kind = draw(st.sampled_from(["plain", "when", "by"]))
        if kind == "when" and earlier and isinstance(form, dict | list):
            parent = draw(st.sampled_from(earlier))
            given_form = given_before.get(parent)
            if isinstance(given_form, dict) and "choices" in given_form:
                given_form = given_form["choices"]
            if isinstance(given_form, list):
                values = st.sampled_from(given_form)
            elif isinstance(given_form, dict) and "low" in given_form:
                values = st.sampled_from([given_form["low"], given_form["high"]])
            else:
                values = legal(parent)
            when = {parent: draw(st.lists(values, min_size=1, max_size=2, unique=True))}
            form = {"choices": form, "when": when} if isinstance(form, list) else {**form, "when": when}
        elif kind == "by" and worded:
            parent = draw(st.sampled_from(worded))
            given_form = given_before.get(parent)
            if isinstance(given_form, dict) and "choices" in given_form:
                given_form = given_form["choices"]
            names = st.sampled_from(given_form) if isinstance(given_form, list) else legal(parent)
            parts = draw(st.dictionaries(names, dimensions(key), max_size=2))
            form = {"by": parent, **parts, "default": draw(dimensions(key))}
        sections[FIELDS[key][0]][key] = given_before[key] = form
    return sections


def answer(data: st.DataObject, dimension: Choices | Range) -> Value:
    """Any value that a sampler may give."""
    if isinstance(dimension, Choices):
        return data.draw(st.sampled_from(dimension.values))
    if dimension.step is not None:
        steps = round((dimension.high - dimension.low) / dimension.step)
        return min(dimension.low + data.draw(st.integers(0, steps)) * dimension.step, dimension.high)
    if dimension.integer:
        return data.draw(st.integers(int(dimension.low), int(dimension.high)))
    return data.draw(st.floats(dimension.low, dimension.high))


@settings(max_examples=100, deadline=None)
@given(sections=spaces(), data=st.data())
def test_every_draw_from_a_valid_space_is_a_valid_trial(sections: dict[str, Any], data: st.DataObject) -> None:
    space = Space(sections)
    asked: dict[str, Value] = {}

    def suggest(name: str, dimension: Choices | Range) -> Value:
        assert name not in asked
        asked[name] = answer(data, dimension)
        assert dimension.contains(asked[name])
        return asked[name]

    values = space.resolve(suggest)
    by_key = {name.partition("@")[0]: value for name, value in asked.items()}
    assert len(by_key) == len(asked)
    assert by_key.keys() <= set(space.searched())
    assert {key: values[key] for key in by_key} == by_key
    model, train = space.trial(values)
    assert {**model.model_dump(), **train.model_dump()} == values
    for key, (parent, meant) in APPLIES.items():
        assert key not in by_key or set(meant) & set(values[parent].split())
    # The same walk, with the same answers, as an enqueued configuration.
    space.check_enqueued(by_key, "enqueue")


@settings(max_examples=100, deadline=None)
@given(sections=spaces())
def test_the_canonical_form_says_the_same_space(sections: dict[str, Any]) -> None:
    space = Space(sections)
    canonical = json.loads(json.dumps(space.canonical()))
    again = Space(canonical)
    assert again.canonical() == canonical
    assert again.order == space.order
    assert again.searched() == space.searched()
    for key in FIELDS:
        assert again.dimension(key) == space.dimension(key)


@settings(max_examples=50, deadline=None)
@given(sections=spaces())
def test_a_stored_study_does_not_differ_from_itself(folder: Path, sections: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in {**VALID, **sections}.items())
    assert loads_or_is_refused(text, folder) is not None
