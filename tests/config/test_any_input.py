"""Properties: any text loads or is refused, and every valid space gives valid trials."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from config_for_tests import DEGRADE, HEAD, first
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Choices, ModelConfig, Range, Space, StudyFile, TrainConfig, Value, load_study_file
from pipeline.config.choices import APPLIES, LOSSES
from pipeline.config.forms import DEFAULTS, FIELDS, SECTIONS, by_section
from pipeline.config.trial import OneOf
from pipeline.errors import InputError

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
    study.config.trial(values, 0, "cpu", "float32")
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
    for section, inner in by_section(values).items():
        assert SECTIONS[section].model_validate(inner).model_dump() == inner
    assert by_section(values)["model"] | by_section(values)["train"] == values
    for key, (parent, meant) in APPLIES.items():
        assert key not in by_key or set(meant) & set(values[parent].split())
    # The same walk, with the same answers, as an enqueued configuration.
    space.check_enqueued(by_key, "enqueue")


@settings(max_examples=100, deadline=None)
@given(sections=spaces())
def test_the_canonical_form_describes_the_same_space(sections: dict[str, Any]) -> None:
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
