"""The search space: what a trial is asked for, conditions between keys, and enqueued configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from config_for_tests import SPACE, Load, assert_refused, assert_short

from pipeline.config import Choices, Range, Space, Value
from pipeline.config.forms import DEFAULTS, FIELDS
from pipeline.errors import ConfigError

OPEN_LR = "[train]\nlr = {}\n"
BAD = {
    "when on an unknown key": ("[model]\ndepth = { choices = [2], when = { skipp = [true] } }", ["skipp", "skip"]),
    "when on itself": ("[model]\ndepth = { choices = [2], when = { depth = [2] } }", ["model", "depth", "another"]),
    "when without a list": ("[model]\ndepth = { choices = [2], when = { skip = true } }", ["model", "depth", "when"]),
    "when without values": ("[model]\ndepth = { choices = [2], when = { skip = [] } }", ["model", "depth", "when"]),
    "by a key that applies in some trials only": (
        '[model]\nactivation = ["relu", "leaky_relu"]\nnegative_slope = [0.2]\n'
        'dropout = { by = "negative_slope", "0.2" = [0.1, 0.2] }',
        ["model", "dropout", "no part for negative_slope = 0.01", "a part named default"],
    ),
    "when that is empty": ("[model]\ndepth = { choices = [2], when = {} }", ["model", "depth", "when"]),
    "when of a wrong type": ("[model]\ndepth = { choices = [2], when = { skip = [1] } }", ["depth", "when", "1"]),
    "when on a value that is not among the choices": (
        '[model]\ndepth = { choices = [2], when = { activation = ["elu"] } }\nactivation = ["relu", "gelu"]',
        ["model", "depth", "when", "elu", "activation", "relu, gelu"],
    ),
    "when on a value outside a range": (
        "[model]\ndropout = { choices = [0.1], when = { depth = [5] } }\ndepth = { low = 2, high = 4 }",
        ["model", "dropout", "when", "5", "depth", "2 to 4"],
    ),
    "by an unknown key": (OPEN_LR.format('{ by = "optimiser", default = 0.1 }'), ["lr", "optimiser", "optimizer"]),
    "by itself": (OPEN_LR.format('{ by = "lr", default = 0.1 }'), ["train", "lr", "by"]),
    "by a number": (OPEN_LR.format("{ by = 3, default = 0.1 }"), ["train", "lr", "by = 3"]),
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
    "when in by": (
        OPEN_LR.format('{ by = "optimizer", default = { choices = [1], when = { loss = ["bce"] } } }'),
        ["lr.default", "when"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_condition_is_refused_with_file_key_and_value(load: Load, case: str, tmp_path: Path) -> None:
    assert_refused(load, tmp_path, *BAD[case])


@pytest.mark.parametrize(
    ("text", "answers", "asked", "expected"),
    [
        ('[model]\nactivation = ["relu", "elu"]', {"activation": "elu"}, ["activation"], {"activation": "elu"}),
        (  # a key that does not apply to the chosen activation is not asked for
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


def test_the_order_of_keys_does_not_depend_on_their_order_in_the_file() -> None:
    sections = {
        "model": {"activation": ["relu", "leaky_relu"], "negative_slope": [0.1, 0.2], "depth": [2, 3]},
        "train": {"optimizer": ["sgd", "adam"], "lr": {"by": "optimizer", "sgd": [1, 2], "default": [0.1, 0.2]}},
    }
    turned = {name: dict(reversed(keys.items())) for name, keys in reversed(sections.items())}
    assert Space(sections).order == Space(turned).order


def test_the_order_of_keys_is_the_same_in_every_process() -> None:
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


ROOT = Path(__file__).parents[2]


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
    assert space.greatest("depth", layer_type="conv") == greatest


def test_parts_can_be_named_after_booleans_and_numbers(load: Load) -> None:
    space = load(
        "[model]\nskip = [true, false]\ndepth = [1, 2, 3]\nbottleneck = { by = 'skip', true = 8, false = 16 }\n"
        "dropout = { by = 'depth', 1 = 0.1, 2 = 0.2, default = 0.3 }\n"
    ).config.space
    for skip, bottleneck in ((True, 8), (False, 16)):
        for depth, dropout in ((1, 0.1), (2, 0.2), (3, 0.3)):
            values = space.resolve(lambda name, _: {"skip": skip, "depth": depth}[name])  # noqa: B023
            assert (values["bottleneck"], values["dropout"]) == (bottleneck, dropout)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "bottleneck = 8",
        "bottleneck = 64",
        "depth = 2",  # a fixed value may be repeated
        'activation = "leaky_relu"\nnegative_slope = 0.2',
        'optimizer = "sgd"\nlr = 0.3',
        'optimizer = "sgd"\nlr = 0.30000000000000004',  # 0.1 + 2 * 0.1 in binary floats
        'optimizer = "adam"\nlr = 0.01',
        'optimizer = "sgd"\nlr = 1',
        'activation = "relu"\nnegative_slope = 0.01',  # its default, which it has with relu
    ],
)
def test_an_enqueued_configuration_of_the_space_is_accepted(load: Load, entry: str) -> None:
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
