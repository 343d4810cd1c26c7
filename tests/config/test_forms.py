"""The forms of a key: fixed, choices, range and split; which values they accept and how they are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_for_tests import Load, assert_refused, first

from pipeline.config import ByKey, Choices, Fixed, Range
from pipeline.config.forms import FIELDS, Dimension

OPEN_LR = "[train]\nlr = {}\n"
BAD = {
    "unknown key of the model": ("[model]\nbottelneck = 3", ["model", "bottelneck", "bottleneck"]),
    "key of another section": ("[train]\ndepth = 3", ["[train]: depth belongs under [model]"]),
    "section in an enqueued configuration": ("[[enqueue]]\nmodel = { depth = 3 }", ["enqueue", "directly"]),
    "a training key in the model": ("[model]\nlr = 0.1", ["model", "lr"]),
    "a section that is a value": ("[model.depth]\nx = 1", ["model", "depth", "'x'"]),
    "unknown choice": ('[train]\nloss = "bec"', ["train", "loss", "bec", "did you mean 'bce'"]),
    "unknown loss in a sum": ('[train]\nloss = "bce + 0.2 sim"', ["train", "loss", "sim", "did you mean 'ssim'"]),
    "a sum without spaces": ('[train]\nloss = ["mse", "bce+ssim"]', ["train", "loss", "bce+ssim", "bce + 0.2 ssim"]),
    "range over values": ("[model]\nkernel = { low = 3, high = 7 }", ["model", "kernel", "3, 5, 7", "listed"]),
    "unknown choice in a list": ('[train]\nloss = ["mse", "l2"]', ["train", "loss", "l2"]),
    "text for a number": ('[model]\ndepth = "3"', ["model", "depth", "'3'", "integer"]),
    "boolean for an integer": ("[model]\ndepth = true", ["model", "depth", "True", "integer"]),
    "boolean for a decimal": ("[train]\nlr = true", ["train", "lr", "True"]),
    "boolean as a range's end": (OPEN_LR.format("{ low = false, high = 1.0 }"), ["train", "lr", "low", "False"]),
    "integer for a boolean": ("[model]\nskip = 1", ["model", "skip", "1", "boolean"]),
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
    "low above high": (OPEN_LR.format("{ low = 0.2, high = 0.1 }"), ["train", "lr", "low = 0.2", "high = 0.1"]),
    "low equal to high": (OPEN_LR.format("{ low = 0.1, high = 0.1 }"), ["train", "lr", "low = 0.1"]),
    "log from 0": ("[model]\ndropout = { low = 0, high = 0.5, log = true }", ["model", "dropout", "log", "above 0"]),
    "log that is not a boolean": (OPEN_LR.format("{ low = 0.1, high = 0.2, log = 1 }"), ["train", "lr", "log = 1"]),
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
    "choices that are not a list": ('[train]\nloss = { choices = "bce" }', ["train", "loss", "must be a list"]),
    "the same choice twice": (OPEN_LR.format("[1, 1.0]"), ["train", "lr", "1.0", "twice"]),
    "choices beside low": (OPEN_LR.format("{ choices = [0.1], low = 0.1 }"), ["train", "lr", "low"]),
    "list in a list": ("[model]\ndepth = [[2], [3]]", ["model", "depth", "[2]"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_form_is_refused_with_file_key_and_value(load: Load, case: str, tmp_path: Path) -> None:
    assert_refused(load, tmp_path, *BAD[case])


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
            ByKey(
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
def test_each_form_of_a_key_is_read(load: Load, key: str, form: str, expected: Dimension) -> None:
    space = load(f"[{FIELDS[key][0]}]\n{key} = {form}\n").config.space
    assert space.dimension(key) == expected
    if isinstance(expected, Fixed):
        assert type(space.resolve(first)[key]) is type(expected.value)
    else:
        assert space.searched() == [key]


def test_a_range_of_a_decimal_key_has_decimal_ends(load: Load) -> None:
    space = load("[model]\nnegative_slope = { low = 0, high = 1 }\ndepth = { low = 1, high = 3 }\n").config.space
    slope, depth = space.dimension("negative_slope"), space.dimension("depth")
    assert isinstance(slope, Range)
    assert isinstance(depth, Range)
    assert (slope.integer, depth.integer) == (False, True)
    assert slope.contains(0.25)
    assert not depth.contains(1.5)
