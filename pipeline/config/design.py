"""A paired design: which block and level each trial is, and its values.

Comes in: what a study file says. Goes out: a `Design`. Trials n of a block differ in the compared keys only: all other
keys take one draw, made from (seed, block, key).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from pipeline.config.forms import FIELDS, Choices, Range, Value
from pipeline.config.messages import hint, shown
from pipeline.config.space import Space, key_of
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Design:
    """Blocks of trials, one for each level. Those of the enqueued configurations come first.

    Raises:
        ConfigError: ``over`` does not name one or two keys whose values every trial has from a list.
    """

    space: Space
    over: tuple[str, ...]  # the compared keys
    enqueue: Sequence[Mapping[str, Any]]
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= len(set(self.over)) == len(self.over) <= 2:
            raise ConfigError(f"[sampler] over = {shown(list(self.over))}: must name one or two keys")
        for key in self.over:
            if key not in FIELDS:
                raise ConfigError(f"[sampler] over = {key!r}: unknown key{hint(key, FIELDS)}")
            form = self.space.dimension(key)
            if not isinstance(form, Choices) or form.when or not self.space.always_applies(key):
                raise ConfigError(
                    f"[sampler] over = {key!r}: a paired design compares the values of a list that every trial takes "
                    f"one of; write [{FIELDS[key][0]}] {key} = […], or search without a design by --set 'sampler={{}}'"
                )
            if len(self.space.reachable(key)) < 2:
                raise ConfigError(f"[sampler] over = {key!r}: has one value only; nothing is compared")

    @cached_property
    def levels(self) -> list[dict[str, Value]]:
        """What is compared: every combination of the values of the compared keys, the last key's changing first."""
        values = (self.space.reachable(key) for key in self.over)
        return [dict(zip(self.over, level, strict=True)) for level in product(*values)]

    def trials(self, blocks: int | None, trials: int | None) -> int:
        """How many trials there are in all, by ``blocks`` or given. Raises ConfigError if they do not fit."""
        size, first = len(self.levels), len(self.enqueue)
        block = f"a block has {size} trials, one per {' and '.join(self.over)}"
        if blocks is not None:
            total = (first + blocks) * size
            if trials not in (None, total):
                enqueued = f" and {first} enqueued" * bool(first)
                raise ConfigError(
                    f"[budget] trials = {trials}: {block}, so {blocks} blocks{enqueued} are {total} trials; omit trials"
                )
            return total
        if trials is None:
            raise ConfigError(f"[sampler] blocks is missing; {block}")
        least = (first + 1) * size
        if trials < least or trials % size:
            below = trials - trials % size
            allowed = f"{below} or {below + size}" if below >= least else f"at least {least}"
            raise ConfigError(f"[budget] trials = {trials}: {block}; allowed: {allowed}")
        return trials

    def place(self, number: int) -> tuple[int, int]:
        """The block of a trial, negative if it was enqueued, and its level."""
        block, level = divmod(number, len(self.levels))
        return block - len(self.enqueue), level

    def parameters(self, number: int) -> dict[str, Value]:
        """The values of a trial under the names of its parameters, such as ``lr@sgd``."""
        from pipeline.seeds import derive_seed  # numpy, which a check of a study file does not need

        block, level = divmod(number, len(self.levels))
        given = {**self.levels[level], **(self.enqueue[block] if block < len(self.enqueue) else {})}
        found: dict[str, Value] = {}

        def suggest(name: str, form: Choices | Range) -> Value:
            key = key_of(name)
            # 53 bits are a number below 1.
            found[name] = given[key] if key in given else form.at((derive_seed(self.seed, block, key) >> 10) / 2**53)
            return found[name]

        self.space.resolve(suggest)
        return found

    def check_enqueued(self, entry: Mapping[str, Any], location: str) -> None:
        """Refuse a configuration that a block could not have: with every level, as `Space.check_enqueued`."""
        for key in self.over:
            if key in entry:
                raise ConfigError(f"{location}: {key} is compared, so a block has all its values; omit it")
        for level in self.levels:
            self.space.check_enqueued({**entry, **level}, location)
