"""How large a search space is: its parameters and when they are searched, how many trials it has, trials drawn from it.

Comes in: a `Space`. Goes out: plain objects; nothing is sampled here for a study.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import cast

from pipeline.config.forms import Choices, Range, Value
from pipeline.config.space import Space, key_of

MOST = 20_000  # combinations of the keys on which others depend that are looked at

Options = Callable[[str, Choices | Range], Sequence[Value]]


@dataclass(frozen=True)
class Parameter:
    """What one draw decides: a key, or a part of a split one."""

    name: str  # such as ``lr``, or ``lr@sgd``
    dimension: Choices | Range
    conditions: dict[str, list[Value]]  # other keys, and their values with which it is searched; empty: always

    @property
    def continuous(self) -> bool:
        return self.dimension.values is None


def configurations(space: Space, options: Options) -> Iterator[dict[str, Value]]:
    """The values of all trials whose parameters have one of their ``options``, given by name and form."""
    pending: list[list[Value]] = [[]]
    while pending:
        decided, taken = pending.pop(), list[Value]()

        def suggest(
            name: str, form: Choices | Range, decided: list[Value] = decided, taken: list[Value] = taken
        ) -> Value:
            if len(taken) < len(decided):
                taken.append(decided[len(taken)])
            else:
                first, *others = options(name, form)
                pending.extend([*taken, other] for other in reversed(others))
                taken.append(first)
            return taken[-1]

        yield space.resolve(suggest)


def parameters(space: Space) -> list[Parameter]:
    """All parameters that some trial has, in the order in which they are drawn."""
    trials = list(_by_parents(space))
    asked = [_asked(space, values) for values in trials]
    forms = {name: form for names in asked for name, form in names.items()}
    found = []
    for name in sorted(forms, key=lambda name: space.order.index(key_of(name))):
        having = [values for values, names in zip(trials, asked, strict=True) if name in names]
        conditions = {}
        for parent in sorted(space.parents(key_of(name)), key=space.order.index):
            needed = list(dict.fromkeys(values[parent] for values in having))
            if len(needed) < len({values[parent] for values in trials}):
                conditions[parent] = needed
        found.append(Parameter(name, forms[name], conditions))
    return found


def combinations(space: Space) -> int | None:
    """How many different trials there are; None if a parameter is continuous, or there are too many to be counted."""
    if any(parameter.continuous for parameter in parameters(space)):
        return None
    parents, looked_at = _parents(space), list(_by_parents(space))
    if len(looked_at) == MOST:
        return None
    return sum(
        math.prod(len(form.values or ()) for name, form in _asked(space, values).items() if key_of(name) not in parents)
        for values in looked_at
    )


def drawn(space: Space, count: int, seed: int = 0) -> Iterator[dict[str, Value]]:
    """The values of trials drawn at random, the same for the same seed."""
    random = Random(seed)
    for _ in range(count):
        yield space.resolve(lambda _, form: form.at(random.random()))


def _by_parents(space: Space) -> Iterator[dict[str, Value]]:
    """One trial for each combination of the keys on which others depend."""
    parents = _parents(space)

    def options(name: str, form: Choices | Range) -> Sequence[Value]:
        if key_of(name) not in parents:
            return [form.first]
        return form.values or (form.first, cast(Range, form).high)

    return islice(configurations(space, options), MOST)


def _asked(space: Space, values: dict[str, Value]) -> dict[str, Choices | Range]:
    """The parameters of the trial with these values."""
    found: dict[str, Choices | Range] = {}

    def note(name: str, form: Choices | Range) -> Value:
        found[name] = form
        return values[key_of(name)]

    space.resolve(note)
    return found


def _parents(space: Space) -> set[str]:
    return {parent for key in space.searched() for parent in space.parents(key)}
