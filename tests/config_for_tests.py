"""What the tests of `pipeline.config` share: texts of study files, and how a refusal must look."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Choices, Range, StudyFile, Value
from pipeline.errors import ConfigError, InputError

HEAD = 'name = "tiny"\ndataset = "mnist-5k"\n'
DEGRADE = '[degrade]\nkind = "gaussian"\nsigma = 0.5\n'
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
Load = Callable[..., StudyFile]


def first(name: str, dimension: Choices | Range) -> Value:  # noqa: ARG001
    """Answers every request of `Space.resolve` with the first value."""
    return dimension.first


def stored(study: StudyFile) -> Any:
    """A study's canonical form as a database gives it back."""
    return json.loads(json.dumps(study.config.canonical()))


def assert_short(error: pytest.ExceptionInfo[InputError]) -> str:
    """An error is one or two lines that fit on a screen."""
    message = str(error.value)
    assert message.count("\n") <= 1
    assert 0 < len(message) <= 1_200
    return message


def assert_refused(load: Load, folder: Path, text: str, words: list[str]) -> None:
    """The text is refused in a short message that names the file and has all the words."""
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    assert message.startswith(f"{folder / 'study.toml'}: ")
    for word in words:
        assert word in message
