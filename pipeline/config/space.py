"""The search space: how a trial's values follow from the forms of all keys.

Comes in: the ``[model]`` and ``[train]`` sections. Goes out: a ``Space``. Sampling, resuming and checking an enqueued
configuration are one walk over the keys, ``Space.resolve``, with different answers for the open ones.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipeline.config import forms
from pipeline.config.choices import APPLIES
from pipeline.config.forms import DEFAULTS, FIELDS, SECTIONS, ByKey, Choices, Dimension, Fixed, Range, Value
from pipeline.config.messages import hint, shown
from pipeline.config.trial import applies
from pipeline.errors import ConfigError


class Space:
    """All keys of ``[model]`` and ``[train]``, parents before the keys that depend on them.

    Args:
        sections: ``{"model": {...}, "train": {...}}`` as read from TOML; keys left out take their defaults.

    Raises:
        ConfigError: a key, form or condition is not allowed; the message names section, key, value and what is allowed.
    """

    def __init__(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self.given: dict[str, Dimension] = {}
        for section, keys in sections.items():
            for key, raw in keys.items():
                if key not in FIELDS:
                    raise ConfigError(f"[{section}]: unknown key {key!r}{hint(key, SECTIONS[section].model_fields)}")
                if FIELDS[key][0] != section:
                    raise ConfigError(f"[{section}]: {key} belongs under [{FIELDS[key][0]}]")
                self.given[key] = forms.read_form(key, raw, f"[{section}] {key}")
        for key, dimension in self.given.items():
            self._check_conditions(f"[{FIELDS[key][0]}] {key}", dimension)
        self.order = self._sorted()

    def dimension(self, key: str) -> Dimension:
        return self.given.get(key, Fixed(value=DEFAULTS[key]))

    def parents(self, key: str) -> set[str]:
        """The keys whose values decide whether and how ``key`` is searched."""
        found = forms.parents_of(self.dimension(key))
        # A fixed key decides nothing. It is declared before the keys that apply beside it, so it comes first anyway.
        if key in APPLIES and not isinstance(self.dimension(APPLIES[key][0]), Fixed):
            found.add(APPLIES[key][0])
        return found

    def resolve(self, suggest: Callable[[str, Choices | Range], Value]) -> dict[str, Value]:
        """One trial's values for every key of ``[model]`` and ``[train]``; the default for a key that is not searched.

        Args:
            suggest: called with a parameter's name (``lr``, or ``lr@sgd`` for a split key) and its open dimension.
        """
        values: dict[str, Value] = {}
        for key in self.order:
            values[key] = DEFAULTS[key]
            name, dimension = key, self.dimension(key)
            if not applies(key, values) or not _holds(dimension.when, values):
                continue
            if isinstance(dimension, ByKey):
                part, dimension = dimension.part(values[dimension.by])
                name = f"{key}@{part}"
            if isinstance(dimension, Fixed):
                values[key] = dimension.value
            else:
                values[key] = forms.as_declared(key, suggest(name, dimension))
        return values

    def searched(self) -> list[str]:
        """The keys that are open: listed, ranged or split."""
        return [key for key in self.order if not isinstance(self.dimension(key), Fixed)]

    def reachable(self, key: str) -> tuple[Value, ...]:
        """The values a fixed or listed key may have in a trial; for a split one those of all its parts."""
        dimension = self.dimension(key)
        found = [value for part in forms.parts_of(dimension) if not isinstance(part, Range) for value in part.values]
        if (isinstance(dimension, Choices) and dimension.when) or not self.always_applies(key):
            found.append(DEFAULTS[key])
        return tuple(dict.fromkeys(found))

    def always_applies(self, key: str) -> bool:
        """Whether no trial's layers, activation or optimiser leave the key without effect."""
        parent, _ = APPLIES.get(key, ("", ()))
        return not parent or all(applies(key, {parent: value}) for value in self.reachable(parent))

    def greatest(self, key: str, **given: Value) -> Value:
        """The greatest value of a numeric key in trials whose other keys have the ``given`` values."""
        dimension = self.dimension(key)
        if isinstance(dimension, ByKey) and dimension.by in given:
            _, dimension = dimension.part(given[dimension.by])
        if not _holds({parent: values for parent, values in dimension.when.items() if parent in given}, given):
            return DEFAULTS[key]
        found: list[Any] = [DEFAULTS[key]] if dimension.when.keys() - given.keys() else []
        for part in forms.parts_of(dimension):
            found += [part.high] if isinstance(part, Range) else part.values
        return max(found)

    def conditional(self) -> bool:
        """Whether some dimension is searched in only a part of the trials."""
        return any(key in APPLIES or forms.parents_of(self.given[key]) for key in self.searched())

    def check_enqueued(self, entry: Mapping[str, Any], location: str) -> None:
        """Refuse a configuration that the search could not have drawn."""
        for key in entry:
            if key in SECTIONS:
                raise ConfigError(f"{location}: write the keys of [{key}] directly, such as bottleneck = 32")
            if key not in FIELDS:
                raise ConfigError(f"{location}: unknown key {key!r}{hint(key, FIELDS)}")
        asked: set[str] = set()

        def suggest(name: str, dimension: Choices | Range) -> Value:
            key = key_of(name)
            asked.add(key)
            if key not in entry:
                for child in self.given:
                    if child in entry and key in self.parents(child):
                        raise ConfigError(f"{location}: {child} depends on {key}: give {key} too")
                return dimension.first
            if not dimension.contains(entry[key]):
                raise ConfigError(
                    f"{location}: {key} = {entry[key]!r} is not in the study's space ({dimension}); change one of "
                    f"them, give --set {FIELDS[key][0]}.{key}=…, or omit [[enqueue]] with --set enqueue=[]"
                )
            return entry[key]

        values = self.resolve(suggest)
        for key, value in entry.items():
            if key not in asked and not forms.same(values[key], value):
                raise ConfigError(
                    f"{location}: {key} = {value!r} is not searched with these values (it is {values[key]!r}); "
                    f"list it in the file's [{FIELDS[key][0]}] or leave it out"
                )

    def adopted(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """The searched part of a configuration of another study, which gives the values of all keys.

        Raises ConfigError, which names the first key with a value that this space does not have.
        """
        searched: dict[str, Value] = {}

        def suggest(name: str, dimension: Choices | Range) -> Value:
            value = searched[key_of(name)] = values[key_of(name)]
            if not dimension.contains(value):
                raise ConfigError(f"{key_of(name)} {shown(value)} is not in {dimension}")
            return value

        for key, value in self.resolve(suggest).items():
            if not forms.same(value, values[key]):
                raise ConfigError(f"{key} is {shown(values[key])}, and {shown(value)} here")
        return searched

    def canonical(self) -> dict[str, dict[str, Any]]:
        """Both sections in plain JSON values with nothing left implicit."""
        return forms.by_section({key: self.dimension(key).canonical() for key in FIELDS})

    def _check_conditions(self, location: str, dimension: Dimension) -> None:
        for parent, values in dimension.when.items():
            self._check_values(f"{location}: when", parent, values)
        if isinstance(dimension, ByKey):
            by, parts = dimension.by, dimension.parts
            self._check_values(f"{location}: by", by, (_value_of(by, name) for name in parts if name != "default"))
            missing = [value for value in self.reachable(by) if forms.part_name(value) not in parts]
            listed = isinstance(self.dimension(by), Fixed | Choices)
            if (missing or not listed) and "default" not in parts:
                others = ", ".join(map(str, missing)) or "all others"
                raise ConfigError(f"{location}: no part for {by} = {others}; add it, or a part named default")

    def _check_values(self, location: str, parent: str, values: Iterable[Value]) -> None:
        """The values must be legal for ``parent``; if the file lists or ranges it, they must be among those.

        If the file fixes it, any legal value will do: fixing a key must stay an edit of one line.
        """
        if parent not in FIELDS:
            raise ConfigError(f"{location}: unknown key {parent!r}{hint(parent, FIELDS)}")
        given = self.dimension(parent)
        for value in values:
            try:
                forms.legal(parent, value)
            except ValueError as error:
                raise ConfigError(f"{location} = {shown(value)}: {error}") from None
            if isinstance(given, Choices | Range) and not given.contains(value):
                raise ConfigError(f"{location}: {value!r} is not among the study's values of {parent} ({given})")

    def _sorted(self) -> tuple[str, ...]:
        sorter, order = TopologicalSorter({key: self.parents(key) for key in FIELDS}), []
        try:
            sorter.prepare()
        except CycleError as error:
            raise ConfigError(f"the conditions form a circle: {' -> '.join(error.args[1])}") from None
        while sorter.is_active():
            # Sorted by key within a rank, so that the order, and with it the sampling, does not depend on the file's.
            ready = sorted(sorter.get_ready(), key=list(FIELDS).index)
            order += ready
            sorter.done(*ready)
        return tuple(order)


def key_of(name: str) -> str:
    """The key that a parameter's name is of: ``lr`` of ``lr`` and of its part ``lr@sgd``."""
    return name.partition("@")[0]


def _value_of(key: str, name: str) -> Any:
    """The value of ``key`` that a part is named after: the name itself if that is legal, else what it says in JSON."""
    try:
        return forms.legal(key, name)
    except ValueError:
        try:
            return json.loads(name)
        except (ValueError, RecursionError):
            return name


def _holds(when: Mapping[str, list[Value]], values: Mapping[str, Value]) -> bool:
    return all(any(forms.same(values[key], value) for value in allowed) for key, allowed in when.items())
