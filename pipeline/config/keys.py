"""The keys of ``[model]`` and ``[train]``: their sections, their defaults and the values they may have."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.config.messages import explain, refused
from pipeline.config.trial import Frozen, ModelConfig, TrainConfig

Value = bool | int | float | str

SECTIONS: dict[str, type[Frozen]] = {"model": ModelConfig, "train": TrainConfig}
FIELDS = {key: (section, field) for section, cls in SECTIONS.items() for key, field in cls.model_fields.items()}
DEFAULTS: dict[str, Value] = {key: field.default for key, (_, field) in FIELDS.items()}
_ADAPTERS: dict[str, TypeAdapter[Value]] = {
    key: TypeAdapter(cls.__pydantic_fields__[key].rebuild_annotation(), config=cls.model_config)
    for cls in SECTIONS.values()
    for key in cls.model_fields
}


def legal(key: str, value: Any) -> Value:
    """The value of a key as its schema takes it; an integer given for a key of decimals becomes a decimal.

    Raises:
        ValueError: the key cannot have this value; the text says what is allowed.
    """
    try:
        return _ADAPTERS[key].validate_python(value)
    except ValidationError as error:
        raise refused(explain(error.errors(include_url=False))) from None


def as_declared(key: str, value: Value) -> Value:
    """A sampled value in the key's type: an integer of a key of decimals becomes a decimal."""
    if isinstance(DEFAULTS[key], float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def same(a: Value, b: Value) -> bool:
    """Equal, and both booleans or neither: in TOML ``true`` is not 1."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b
