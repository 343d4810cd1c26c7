"""The search space: what a key of ``[model]`` or ``[train]`` may be, and how a trial's values follow from choices.

A key is fixed (a value), listed (choices), ranged, or split by another key's value. ``Space.resolve`` walks the keys,
parents first, and asks for a value only where one is open; sampling, resuming and checking an enqueued configuration
are the same walk with another answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from pipeline.config.choices import APPLIES, hint
from pipeline.config.trial import Frozen, ModelConfig, TrainConfig, applies
from pipeline.errors import ConfigError

Value = bool | int | float | str
When = Mapping[str, tuple[Value, ...]]

SECTIONS: dict[str, type[Frozen]] = {"model": ModelConfig, "train": TrainConfig}
FIELDS = {key: (section, field) for section, cls in SECTIONS.items() for key, field in cls.model_fields.items()}
DEFAULTS: dict[str, Value] = {key: field.default for key, (_, field) in FIELDS.items()}


@dataclass(frozen=True)
class Fixed:
    value: Value

    def canonical(self) -> Any:
        return self.value


@dataclass(frozen=True)
class Choices:
    values: tuple[Value, ...]
    when: When | None = None

    def canonical(self) -> Any:
        if self.when is None:
            return list(self.values)
        return {"choices": list(self.values), "when": _plain(self.when)}

    def contains(self, value: Value) -> bool:
        return any(same(value, choice) for choice in self.values)

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


@dataclass(frozen=True)
class Range:
    low: float
    high: float
    log: bool = False
    step: float | None = None
    when: When | None = None

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def canonical(self) -> Any:
        out: dict[str, Any] = {"low": self.low, "high": self.high}
        out |= {"log": True} if self.log else {}
        out |= {"step": self.step} if self.step is not None else {}
        return out | ({"when": _plain(self.when)} if self.when is not None else {})

    def contains(self, value: Value) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if self.integer and not isinstance(value, int):
            return False
        if not self.low <= value <= self.high:
            return False
        # A sampler adds steps up in binary floats: 0.1 + 2 * 0.1 = 0.30000000000000004 is a value of the range.
        return self.step is None or _off_step(value, self.low, self.step) < 1e-8

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step is not None else "")


@dataclass(frozen=True)
class Split:
    """A key split by another's value; each part is a dimension of its own, ``default`` the one of all other values."""

    by: str
    parts: Mapping[str, Fixed | Choices | Range]

    def part(self, value: Value) -> tuple[str, Fixed | Choices | Range]:
        name = part_name(value) if part_name(value) in self.parts else "default"
        return name, self.parts[name]

    def canonical(self) -> Any:
        return {"by": self.by, **{name: part.canonical() for name, part in self.parts.items()}}


Dimension = Fixed | Choices | Range | Split
Suggest = Callable[[str, Choices | Range], Value]


class Space:
    """All keys of ``[model]`` and ``[train]``, parents before the keys that depend on them.

    Args:
        sections: ``{"model": {...}, "train": {...}}`` as read from TOML; keys left out take their defaults.

    Raises:
        ConfigError: an unknown key, a value out of bounds, a malformed range, ``when`` or ``by``, or a circle of
            conditions. The message names section, key, value and what is allowed.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self.given: dict[str, Dimension] = {}
        for section, raw in sections.items():
            for key, form in raw.items():
                self.given[key] = _parse(section, key, form)
        for key, dimension in self.given.items():
            self._check_conditions(key, dimension)
        self.order = self._sorted()

    def dimension(self, key: str) -> Dimension:
        return self.given.get(key, Fixed(DEFAULTS[key]))

    def resolve(self, suggest: Suggest) -> dict[str, Value]:
        """One trial's values for every key.

        Args:
            suggest: called with a parameter's name (``lr``, or ``lr@sgd`` for a split key) and its open dimension.

        Returns:
            Every key of ``[model]`` and ``[train]``; one that is not searched here has its default.
        """
        values: dict[str, Value] = {}
        for key in self.order:
            name, dimension = key, self.dimension(key)
            if not applies(key, values):
                values[key] = DEFAULTS[key]
                continue
            if isinstance(dimension, Split):
                part, inner = dimension.part(values[dimension.by])
                name, dimension = f"{key}@{part}", inner
            if isinstance(dimension, Fixed):
                values[key] = dimension.value
            elif not _holds(dimension.when, values):
                values[key] = DEFAULTS[key]
            else:
                values[key] = _as_declared(key, suggest(name, dimension))
        return values

    def trial(self, values: Mapping[str, Value]) -> tuple[ModelConfig, TrainConfig]:
        """The two sections of a trial from the values that ``resolve`` gave."""
        model = {key: values[key] for key in ModelConfig.model_fields}
        train = {key: values[key] for key in TrainConfig.model_fields}
        return ModelConfig.model_validate(model), TrainConfig.model_validate(train)

    def searched(self) -> list[str]:
        """The keys that are open: listed, ranged or split."""
        return [key for key in self.order if key in self.given and not isinstance(self.given[key], Fixed)]

    def reachable(self, key: str) -> tuple[Value, ...]:
        """The values a fixed or listed key may take; for a split one those of all its parts."""
        dimension = self.dimension(key)
        parts = dimension.parts.values() if isinstance(dimension, Split) else [dimension]
        found: list[Value] = []
        for part in parts:
            if isinstance(part, Fixed):
                found.append(part.value)
            elif isinstance(part, Choices):
                found += part.values
        if isinstance(dimension, Choices) and dimension.when is not None:
            found.append(DEFAULTS[key])
        return tuple(dict.fromkeys(found))

    def greatest(self, key: str, given: Mapping[str, Value] | None = None) -> Value:
        """The greatest that a numeric key can be in trials where other keys have the ``given`` values."""
        given = given or {}
        dimension = self.dimension(key)
        if isinstance(dimension, Split) and dimension.by in given:
            dimension = dimension.part(given[dimension.by])[1]
        parts = dimension.parts.values() if isinstance(dimension, Split) else [dimension]
        when: When = getattr(dimension, "when", None) or {}
        if not _holds({parent: values for parent, values in when.items() if parent in given}, given):
            return DEFAULTS[key]
        found: list[Any] = [DEFAULTS[key]] if when.keys() - given.keys() else []
        for part in parts:
            match part:
                case Fixed(value=fixed):
                    found.append(fixed)
                case Choices(values=values):
                    found += values
                case Range(high=high):
                    found.append(high)
        return max(found)

    def conditional(self) -> bool:
        """Whether some dimension is searched in only a part of the trials."""
        return any(
            isinstance(d, Split) or (not isinstance(d, Fixed) and (d.when is not None or key in APPLIES))
            for key, d in self.given.items()
        )

    def check_enqueued(self, entry: Mapping[str, Any], where: str) -> None:
        """Refuse a configuration that the search could not have drawn."""
        for key in entry:
            if key in SECTIONS:
                raise ConfigError(f"{where}: write the keys of [{key}] by themselves, such as bottleneck = 32")
            if key not in FIELDS:
                raise ConfigError(f"{where}: unknown key {key!r}{hint(key, FIELDS)}")
        asked: set[str] = set()

        def suggest(name: str, dimension: Choices | Range) -> Value:
            key = name.partition("@")[0]
            asked.add(key)
            if key in entry:
                if not dimension.contains(entry[key]):
                    raise ConfigError(
                        f"{where}: {key} = {entry[key]!r} is not in the study's space ({dimension}); "
                        f"change one of them, give --set {FIELDS[key][0]}.{key}=…, or leave [[enqueue]] out by "
                        "--set enqueue=[]"
                    )
                return entry[key]
            for child, given in self.given.items():
                depends = isinstance(given, Split) and given.by == key
                depends = depends or (APPLIES.get(child, ("",))[0] == key)
                depends = depends or key in (getattr(given, "when", None) or {})
                if depends and child in entry:
                    raise ConfigError(f"{where}: {child} depends on {key}: give {key} too")
            return dimension.values[0] if isinstance(dimension, Choices) else dimension.low

        values = self.resolve(suggest)
        for key, value in entry.items():
            if key not in asked and not same(values[key], value):
                raise ConfigError(
                    f"{where}: {key} = {value!r} is not searched there (it is {values[key]!r}); "
                    f"list it in the file's [{FIELDS[key][0]}] or leave it out"
                )

    def canonical(self) -> dict[str, dict[str, Any]]:
        """Both sections in plain JSON values with nothing left implicit."""
        out: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
        for key, (section, _) in FIELDS.items():
            out[section][key] = self.dimension(key).canonical()
        return out

    def _check_conditions(self, key: str, dimension: Dimension) -> None:
        where = f"[{FIELDS[key][0]}] {key}"
        if isinstance(dimension, Split):
            if dimension.by not in FIELDS:
                raise ConfigError(f"{where}: by: unknown key {dimension.by!r}{hint(dimension.by, FIELDS)}")
            named = [name for name in dimension.parts if name != "default"]
            meant = tuple(_value_of(dimension.by, name, f"{where}: by") for name in named)
            self._check_values(f"{where}: by", dimension.by, meant)
            other = self.dimension(dimension.by)
            listed = isinstance(other, Fixed | Choices)
            missing = [v for v in self.reachable(dimension.by) if part_name(v) not in dimension.parts]
            if (missing or not listed) and "default" not in dimension.parts:
                shown = ", ".join(map(str, missing)) or "all others"
                raise ConfigError(f"{where}: no part for {dimension.by} = {shown}; add it, or a part named default")
        elif not isinstance(dimension, Fixed) and dimension.when is not None:
            for parent, values in dimension.when.items():
                self._check_values(f"{where}: when", parent, values)

    def _check_values(self, where: str, parent: str, values: tuple[Value, ...]) -> None:
        """``values`` must be legal for ``parent`` and, where the file lists or ranges it, among those.

        Where the file fixes the parent any legal value will do: fixing a key must stay an edit of one line.
        """
        if parent not in FIELDS:
            raise ConfigError(f"{where}: unknown key {parent!r}{hint(parent, FIELDS)}")
        given = self.dimension(parent)
        for value in values:
            _legal(parent, value, where)
            if isinstance(given, Choices | Range) and not given.contains(value):
                raise ConfigError(f"{where}: {value!r} is not among the study's values of {parent} ({given})")

    def _sorted(self) -> tuple[str, ...]:
        graph: dict[str, set[str]] = {key: set() for key in FIELDS}
        for key in FIELDS:
            # A parent that is fixed depends on nothing and is declared before its children, so it comes first anyway.
            if key in APPLIES and not isinstance(self.dimension(APPLIES[key][0]), Fixed):
                graph[key].add(APPLIES[key][0])
            dimension = self.dimension(key)
            if isinstance(dimension, Split):
                graph[key].add(dimension.by)
            elif not isinstance(dimension, Fixed) and dimension.when is not None:
                graph[key] |= set(dimension.when)
        try:
            # Sorted by key within a rank, so that the order, and with it the sampling, does not hang on the file's.
            sorter, order = TopologicalSorter(graph), []
            sorter.prepare()
            while sorter.is_active():
                ready = sorted(sorter.get_ready(), key=list(FIELDS).index)
                order += ready
                sorter.done(*ready)
        except CycleError as error:
            circle = " -> ".join(error.args[1])
            raise ConfigError(f"conditions go round in a circle: {circle}") from None
        return tuple(order)


def same(a: Value, b: Value) -> bool:
    """Equal, and both truth values or neither: in TOML ``true`` is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def part_name(value: Value) -> str:
    """What a value is called as the name of a part: TOML's table keys are text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value_of(key: str, name: str, where: str) -> Value:
    """The value of ``key`` that a part is named after."""
    try:
        return _legal(key, name, where)
    except ConfigError as refused:
        try:
            literal = json.loads(name)
        except ValueError:
            raise refused from None
        return _legal(key, literal, where)


def _parse(section: str, key: str, form: Any) -> Dimension:
    where = f"[{section}] {key}"
    names = SECTIONS[section].model_fields
    if key in FIELDS and key not in names:
        raise ConfigError(f"[{section}]: {key} belongs under [{FIELDS[key][0]}]")
    if key not in names:
        raise ConfigError(f"[{section}]: unknown key {key!r}{hint(key, names)}")
    if isinstance(form, dict) and "by" in form:
        return _parse_split(where, key, form)
    return _parse_open(where, key, form)


def _parse_split(where: str, key: str, form: dict[str, Any]) -> Split:
    by = form["by"]
    if not isinstance(by, str) or by == key:
        raise ConfigError(f"{where}: by = {by!r} must name another key of [model] or [train]")
    parts = {}
    for name, inner in form.items():
        if name == "by":
            continue
        part = _parse_open(f"{where}.{name}", key, inner)
        if not isinstance(part, Fixed) and part.when is not None:
            raise ConfigError(f"{where}.{name}: a part of a split key takes no `when`")
        parts[name] = part
    if not parts:
        raise ConfigError(f"{where}: by = {by!r} needs parts, such as {{ by = {by!r}, default = … }}")
    return Split(by, parts)


def _parse_open(where: str, key: str, form: Any) -> Fixed | Choices | Range:
    if isinstance(form, list):
        return _choices(where, key, form, None)
    if not isinstance(form, dict):
        return Fixed(_legal(key, form, where))
    when = _parse_when(where, key, form["when"]) if "when" in form else None
    if "choices" in form:
        _closed(where, form, ("choices", "when"))
        if not isinstance(form["choices"], list):
            raise ConfigError(f"{where}: choices = {form['choices']!r} must be a list")
        return _choices(where, key, form["choices"], when)
    _closed(where, form, ("low", "high", "log", "step", "when"))
    return _range(where, key, form, when)


def _closed(where: str, form: dict[str, Any], allowed: tuple[str, ...]) -> None:
    for name in form:
        if name not in allowed:
            raise ConfigError(
                f"{where}: unknown {name!r}; write a value, a list, {{ low, high, log, step }}, "
                "{ choices = […], when = {…} } or { by = KEY, … }"
            )


def _choices(where: str, key: str, raw: list[Any], when: When | None) -> Choices:
    if not raw:
        raise ConfigError(f"{where}: the list of choices is empty")
    values = tuple(_legal(key, value, where) for value in raw)
    for i, value in enumerate(values):
        if any(same(value, other) for other in values[:i]):
            raise ConfigError(f"{where}: {value!r} stands twice in the list of choices")
    return Choices(values, when)


def _range(where: str, key: str, form: dict[str, Any], when: When | None) -> Range:
    for end in ("low", "high"):
        if end not in form:
            raise ConfigError(f"{where}: a range needs low and high; {end} is missing")
        if isinstance(form[end], bool) or not isinstance(form[end], int | float):
            raise ConfigError(f"{where}: {end} = {form[end]!r} must be a number")
        _legal(key, form[end], f"{where}: {end}")
    annotation = FIELDS[key][1].annotation
    if get_origin(annotation) is Literal:
        raise ConfigError(f"{where}: {', '.join(map(str, get_args(annotation)))} can be listed, but not ranged")
    low, high, log, step = form["low"], form["high"], form.get("log", False), form.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"{where}: log = {log!r} must be true or false")
    if low >= high:
        raise ConfigError(f"{where}: low = {low} must be below high = {high} (a plain value fixes the key)")
    if log and low <= 0:
        raise ConfigError(f"{where}: low = {low} must be above 0 on a log scale")
    integer = isinstance(low, int) and isinstance(high, int) and not isinstance(DEFAULTS[key], float)
    if not integer:
        low, high = float(low), float(high)
    if step is not None:
        if isinstance(step, bool) or not isinstance(step, int | float) or not math.isfinite(step) or step <= 0:
            raise ConfigError(f"{where}: step = {step!r} must be a number above 0")
        if log:
            raise ConfigError(f"{where}: step and log cannot stand together")
        if integer and not isinstance(step, int):
            raise ConfigError(f"{where}: step = {step} must be an integer, as low and high are")
        if _off_step(high, low, step):
            raise ConfigError(f"{where}: high - low must be a multiple of step = {step}")
        step = step if integer else float(step)
    return Range(low, high, log, step, when)


def _parse_when(where: str, key: str, raw: Any) -> When:
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, list) and v for v in raw.values()):
        raise ConfigError(f"{where}: when = {raw!r} must read {{ KEY = [VALUE, …] }}")
    if key in raw:
        raise ConfigError(f"{where}: when must name another key, not {key} itself")
    return {parent: tuple(values) for parent, values in raw.items()}


def _legal(key: str, value: Any, where: str) -> Value:
    """The value, if the key's schema takes it."""
    section, _ = FIELDS[key]
    annotation = SECTIONS[section].__pydantic_fields__[key].rebuild_annotation()
    try:
        TypeAdapter(annotation, config=SECTIONS[section].model_config).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"{where} = {_short(value)}: {explain(error, value)}") from None
    return _as_declared(key, value)


def _as_declared(key: str, value: Value) -> Value:
    """An integer given for a key of decimals is that decimal."""
    if isinstance(DEFAULTS[key], float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def explain(error: ValidationError, value: Any = None) -> str:
    """Pydantic's findings on one value in a few words, with the nearest allowed name where there is one."""
    findings = error.errors(include_url=False)
    # A union reports every branch; the one that lists names, or else the last, says most.
    finding = next((f for f in findings if f["type"] == "literal_error"), findings[-1])
    words = finding["msg"].replace("Input should", "must")
    others = [f["msg"].replace("Input should be", "") for f in findings if f is not finding]
    if finding["type"] == "literal_error" and isinstance(value, str):
        names = [name.strip("' ") for name in finding["ctx"]["expected"].replace(" or ", ", ").split(",")]
        words += hint(value, names, listing=False)
    return words + "".join(f", or{other}" for other in others)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _holds(when: When | None, values: Mapping[str, Value]) -> bool:
    return when is None or all(any(same(values[k], v) for v in allowed) for k, allowed in when.items())


def _off_step(value: float, low: float, step: float) -> Fraction:
    """How far from a whole number of steps, as a part of one; exact on what was written, where 0.3 is 3 times 0.1."""
    steps = (Fraction(str(value)) - Fraction(str(low))) / Fraction(str(step))
    return abs(steps - round(steps))


def _plain(when: When) -> dict[str, list[Value]]:
    return {key: list(values) for key, values in when.items()}
