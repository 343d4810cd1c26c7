"""The keys of ``[model]`` and ``[train]``, and the forms in which a study file gives them.

Comes in: a key and its TOML value. Goes out: one of four frozen models: fixed (a value), choices (a list), a range, or
split by another key. What a form says about other keys (``when``, ``by``) is checked by `space`, which knows all keys.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationInfo, model_validator
from pydantic_core import ValidationError

from pipeline.config.messages import explain, refused, shown
from pipeline.config.trial import Frozen, ModelConfig, TrainConfig
from pipeline.errors import ConfigError

Value = bool | int | float | str
Number = int | float
When = dict[str, list[Value]]

SECTIONS: dict[str, type[Frozen]] = {"model": ModelConfig, "train": TrainConfig}
FIELDS = {key: (section, field) for section, cls in SECTIONS.items() for key, field in cls.model_fields.items()}
DEFAULTS: dict[str, Value] = {key: field.default for key, (_, field) in FIELDS.items()}
_ADAPTERS: dict[str, TypeAdapter[Value]] = {
    key: TypeAdapter(cls.__pydantic_fields__[key].rebuild_annotation(), config=cls.model_config)
    for cls in SECTIONS.values()
    for key in cls.model_fields
}


def legal(key: str, value: Any) -> Value:
    """The value of a key as its schema takes it: an integer given for a key of decimals becomes a decimal.

    Raises ValueError if the key cannot have this value; the text says what is allowed.
    """
    try:
        return _ADAPTERS[key].validate_python(value)
    except ValidationError as error:
        raise refused(explain(error.errors(include_url=False))) from None


def as_declared(key: str, value: Value) -> Value:
    """A sampled value in the key's type: an integer of a key of decimals becomes a decimal."""
    return float(value) if isinstance(DEFAULTS[key], float) and type(value) is int else value


def same(a: Value, b: Value) -> bool:
    """Equal, and both booleans or neither: in TOML ``true`` is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def by_section(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all keys, as ``{"model": {...}, "train": {...}}``."""
    return {section: {key: values[key] for key in cls.model_fields} for section, cls in SECTIONS.items()}


# The context of these validators is the key that is read. Without one, as for a form made in code, any value is legal.


def _legal(value: Any, info: ValidationInfo) -> Value:
    return legal(info.context, value) if info.context else value


def _number(value: Any, info: ValidationInfo) -> Value:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refused("must be a finite number")
    return as_declared(info.context, value) if info.context else value


def _distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if not values:
        raise refused("the list of choices is empty")
    for i, value in enumerate(values):
        if any(same(value, other) for other in values[:i]):
            raise refused(f"{value!r} occurs twice in the list of choices")
    return values


def _condition(raw: Any, info: ValidationInfo) -> When:
    if not isinstance(raw, dict) or not raw or not all(isinstance(v, list) and v for v in raw.values()):
        raise refused(f"when = {raw!r} must read {{ KEY = [VALUE, …] }}")
    if info.context in raw:
        raise refused(f"when must name another key, not {info.context} itself")
    return raw


Legal = Annotated[Value, PlainValidator(_legal)]
Bound = Annotated[Number, PlainValidator(_legal), AfterValidator(_number)]
Condition = Annotated[When, PlainValidator(_condition)]


class Fixed(Frozen):
    """One value; there is nothing to search."""

    value: Legal
    when: ClassVar[When] = {}

    @property
    def values(self) -> tuple[Value, ...]:
        return (self.value,)

    def canonical(self) -> Any:
        """Plain JSON values that read back as this form."""
        return self.value


class Choices(Frozen):
    """A list of values, searched if ``when`` holds."""

    values: Annotated[tuple[Legal, ...], Field(alias="choices", strict=False), AfterValidator(_distinct)]
    when: Condition = Field(default_factory=dict)

    @property
    def first(self) -> Value:
        return self.values[0]

    def contains(self, value: Value) -> bool:
        return any(same(value, choice) for choice in self.values)

    def at(self, share: float) -> Value:
        """The value at a share of the list, from 0 up to but without 1."""
        return self.values[int(share * len(self.values))]

    def canonical(self) -> Any:
        return {"choices": list(self.values), "when": self.when} if self.when else list(self.values)

    def __str__(self) -> str:
        return ", ".join(map(str, self.values))


class Range(Frozen):
    """All numbers from ``low`` to ``high``, searched if ``when`` holds; integers if both ends are integers."""

    low: Bound
    high: Bound
    log: bool = False
    step: Annotated[Number | None, PlainValidator(_number), Field(gt=0)] = None
    when: Condition = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        annotation = FIELDS[info.context][1].annotation if info.context else None
        if get_origin(annotation) is Literal:
            raise refused(f"{', '.join(map(str, get_args(annotation)))} can be listed, but not ranged")
        if self.low >= self.high:
            raise refused(f"low = {self.low} must be below high = {self.high} (a plain value fixes the key)")
        if self.log and self.low <= 0:
            raise refused(f"low = {self.low} must be above 0 on a log scale")
        if self.step is not None:
            if self.log:
                raise refused("step and log cannot be combined")
            if self.integer and not isinstance(self.step, int):
                raise refused(f"step = {self.step} must be an integer, as low and high are")
            if _off_step(self.high, self.low, self.step):
                raise refused(f"high - low must be a multiple of step = {self.step}")
        return self

    @property
    def integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def first(self) -> Value:
        return self.low

    @property
    def values(self) -> tuple[Number, ...] | None:
        """All values; None if the range is continuous."""
        step = self.step or (1 if self.integer else None)
        if step is None:
            return None
        return tuple(min(self.low + i * step, self.high) for i in range(round((self.high - self.low) / step) + 1))

    def at(self, share: float) -> Value:
        """The value at a share of the range, from 0 up to but without 1; of its logarithm if ``log``."""
        if self.values is not None and not self.log:
            return self.values[int(share * len(self.values))]
        low, high = (self.low - 0.5, self.high + 0.5) if self.integer else (self.low, self.high)
        value = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        return min(max(round(value) if self.integer else value, self.low), self.high)

    def contains(self, value: Value) -> bool:
        allowed = int if self.integer else int | float
        if isinstance(value, bool) or not isinstance(value, allowed) or not self.low <= value <= self.high:
            return False
        # A sampler adds steps in binary floats: 0.1 + 2 * 0.1 = 0.30000000000000004 is a value of the range.
        return self.step is None or _off_step(value, self.low, self.step) < 1e-8

    def canonical(self) -> Any:
        return self.model_dump(exclude_defaults=True)

    def __str__(self) -> str:
        return f"{self.low} to {self.high}" + (f" in steps of {self.step}" if self.step is not None else "")


class ByKey(Frozen):
    """A form for each value of the key ``by``; the part ``default`` is that of all values without one of their own."""

    by: str
    parts: Mapping[str, Fixed | Choices | Range]
    when: ClassVar[When] = {}

    def part(self, value: Value) -> tuple[str, Fixed | Choices | Range]:
        """The name and the form of the part that belongs to a value of the other key."""
        name = part_name(value) if part_name(value) in self.parts else "default"
        return name, self.parts[name]

    def canonical(self) -> Any:
        return {"by": self.by, **{name: part.canonical() for name, part in self.parts.items()}}


Dimension = Fixed | Choices | Range | ByKey


def part_name(value: Value) -> str:
    """A value as the name of a part: the keys of a TOML table are text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parents_of(dimension: Dimension) -> set[str]:
    """The other keys that the form names: their values decide whether and how its own is searched."""
    return {dimension.by} if isinstance(dimension, ByKey) else set(dimension.when)


def parts_of(dimension: Dimension) -> list[Fixed | Choices | Range]:
    """The parts of a split key; of any other the form itself."""
    return list(dimension.parts.values()) if isinstance(dimension, ByKey) else [dimension]


def read_form(key: str, raw: Any, location: str) -> Dimension:
    """Read the form of a key from its TOML value: a plain value, a list or a table.

    Raises:
        ConfigError: the form is malformed, or one of its values is not legal for the key; ``location`` names the key.
    """
    form: type[Fixed | Choices | Range]
    match raw:
        case {"by": by}:
            return _read_split(key, by, {name: raw[name] for name in raw if name != "by"}, location)
        case dict():
            form = Choices if "choices" in raw else Range
        case list():
            form, raw = Choices, {"choices": raw}
        case _:
            form, raw = Fixed, {"value": raw}
    try:
        return form.model_validate(raw, context=key)
    except ValidationError as error:
        raise ConfigError(_describe(error, location)) from None


def _read_split(key: str, by: Any, forms: Mapping[str, Any], location: str) -> ByKey:
    if not isinstance(by, str) or by == key:
        raise ConfigError(f"{location}: by = {by!r} must name another key of [model] or [train]")
    parts: dict[str, Any] = {name: read_form(key, form, f"{location}.{name}") for name, form in forms.items()}
    for name, part in parts.items():
        if parents_of(part):
            raise ConfigError(f"{location}.{name}: a part of a split key takes neither `when` nor `by`")
    if not parts:
        raise ConfigError(f"{location}: by = {by!r} needs parts, such as {{ by = {by!r}, default = … }}")
    return ByKey(by=by, parts=parts)


def _describe(error: ValidationError, location: str) -> str:
    findings = error.errors(include_url=False)
    finding = next((f for f in findings if f["type"] == "extra_forbidden"), findings[0])
    name = finding["loc"][-1] if finding["loc"] else ""
    if finding["type"] == "extra_forbidden":
        forms = "a value, a list, { low, high, log, step }, { choices = […], when = {…} } or { by = KEY, … }"
        return f"{location}: unknown {name!r}; write {forms}"
    if finding["type"] == "missing":
        return f"{location}: a range needs low and high; {name} is missing"
    text = explain([finding])
    if finding["type"] == "refused" and name in ("", "choices", "when"):  # the text is about the whole form
        return f"{location}: {text}"
    place = f"{location}: {name}" if name in ("low", "high", "log", "step", "choices") else location
    return f"{place} = {shown(finding['input'])}: {text}"


def _off_step(value: float, low: float, step: float) -> Fraction:
    """The distance to a whole number of steps, in steps. Exact for the decimals as written: 0.3 is 3 times 0.1."""
    steps = (Fraction(str(value)) - Fraction(str(low))) / Fraction(str(step))
    return abs(steps - round(steps))
