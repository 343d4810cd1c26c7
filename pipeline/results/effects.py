"""What each choice is worth, by the design of the study: a claim with intervals, or what may be said without one.

Comes in: a `StudySummary`. Goes out: `Paired`, `Unguided` or `Exploratory`. The statistics are `effects_statistics`'.
May not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from pipeline.config import ByKey, Range, Value
from pipeline.config.choices import MARGIN_DB, METRICS, Metric, worth
from pipeline.config.design import Design
from pipeline.config.forms import parts_of
from pipeline.config.messages import hint, shown
from pipeline.errors import InputError, StudyError
from pipeline.results import effects_statistics as statistics
from pipeline.results.effects_statistics import ALPHA, Array, Share
from pipeline.results.summary import StudySummary
from pipeline.search.records import EndedTrial
from pipeline.study.reporter import shown_value

MANY_BLOCKS = 16  # from which on the intervals are right in simulations
DRAWS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Level:
    """A value of a compared key, or of several."""

    name: str
    values: Array  # by block, a failed trial valued at the untreated input
    failed: int
    mean: float
    mean_without: float  # without the failed trials; NaN if all failed
    sd: float
    best_of: dict[int, float]  # expected best of so many draws


@dataclass(frozen=True)
class Pair:
    """Two levels of an effect, the first the better on average; differences are first minus second, by block."""

    first: str
    second: str
    differences: Array
    mean: float
    low: float
    high: float
    better: float  # share of blocks in which the first is better
    p: float  # of no difference: sign flips, adjusted by Holm's method
    p_equivalent: float | None  # of a difference of at least the margin, likewise; None without a margin

    @property
    def differs(self) -> bool:
        return self.p <= ALPHA and self.low * self.high > 0

    @property
    def equivalent(self) -> bool:
        return self.p_equivalent is not None and self.p_equivalent <= ALPHA


@dataclass(frozen=True)
class Effect:
    """What the values of one key are worth, or of the combinations of two, the best mean first."""

    key: str
    levels: list[Level]
    pairs: list[Pair]  # none where the blocks are too few to show anything
    needed: int  # blocks for the pairs


@dataclass(frozen=True)
class Paired:
    """A designed comparison."""

    metric: str
    blocks: int
    margin: float | None
    effects: list[Effect]


@dataclass(frozen=True)
class Key:
    """A searched key of a study whose trials were drawn at random and trained to the end."""

    key: str
    share: Share
    choices: list[tuple[str, int, float, float]]  # of a listed key: value, trials, mean, standard deviation


@dataclass(frozen=True)
class Unguided:
    """A random search without a pruner."""

    metric: str
    trials: int
    failed: int  # which have no value and are left out
    keys: list[Key]


@dataclass(frozen=True)
class Exploratory:
    """A guided or pruned search: importances, and no claim."""

    trials: int  # complete ones, on which they rest
    importances: Mapping[str, float]


Effects = Paired | Unguided | Exploratory


def effects(
    summary: StudySummary,
    importances: Mapping[str, float],
    by: Sequence[str] = (),
    metric: str | None = None,
    margin: float | None = None,
) -> Effects:
    """What each choice of a study is worth.

    Args:
        importances: as `Search.importances` gives them.
        by: only these keys.
        metric: a validation metric; None takes the objective.
        margin: differences below it make no difference; None takes `MARGIN_DB` for metrics in dB, and none for others.

    Raises:
        InputError: an unknown key or metric.
        StudyError: there are too few ended trials to show anything.
    """
    name = metric or summary.metric
    if name not in METRICS:
        raise InputError(f"--metric {shown(name)} is unknown{hint(name, METRICS)}")
    design = summary.config.design
    allowed = summary.config.space.searched() if design is None else [key for keys in _compared(design) for key in keys]
    for key in by:
        if key not in allowed:
            what = "searched" if design is None else "compared"
            raise InputError(
                f"--by {shown(key)}: not a {what} key; allowed: {', '.join(dict.fromkeys(allowed)) or 'none'}"
            )
    if margin is not None and not 0 < margin < math.inf:
        raise InputError(f"--margin {margin}: must be a number above 0")
    if design is not None:
        if margin is None and METRICS[name].unit == "dB":
            margin = MARGIN_DB
        return _paired(summary, design, by, name, margin)
    if summary.config.exploratory:
        found = {key: share for key, share in importances.items() if not by or key.partition("@")[0] in by}
        return Exploratory(summary.counts["complete"], found)
    return _unguided(summary, by, name)


# --- a paired design --------------------------------------------------------------------------------------------------


def _compared(design: Design) -> list[tuple[str, ...]]:
    """The keys of each effect: one by one, and two together."""
    single: list[tuple[str, ...]] = [(key,) for key in design.over]
    return [*single, design.over] if len(design.over) > 1 else single


def _paired(summary: StudySummary, design: Design, by: Sequence[str], metric: str, margin: float | None) -> Paired:
    values, failed = _by_block(summary, design, metric)
    found = [
        _effect(design, keys, values, failed, METRICS[metric], margin)
        for keys in _compared(design)
        if not by or set(keys) == set(by) or (len(keys) == 1 and keys[0] in by)
    ]
    if not any(effect.pairs for effect in found):
        needed = min(effect.needed for effect in found)
        raise StudyError(
            f"study {summary.name} has {len(values)} complete blocks of {len(design.levels)} trials, which cannot show "
            f"anything: {needed} are needed, {MANY_BLOCKS} are better; "
            f"study run FILE --trials {(len(design.enqueue) + MANY_BLOCKS) * len(design.levels)}"
        )
    return Paired(metric, len(values), margin, found)


def _by_block(summary: StudySummary, design: Design, metric: str) -> tuple[Array, Array]:
    """The values ``[blocks, levels]`` of the blocks whose trials have all ended, and which of them failed."""
    key, size = f"val/{metric}", len(design.levels)
    blocks: dict[int, dict[int, EndedTrial]] = {}
    for trial in summary.ended:
        block, level = design.place(trial.number)
        if block >= 0:
            blocks.setdefault(block, {})[level] = trial
    rows = [[block[level] for level in range(size)] for _, block in sorted(blocks.items()) if len(block) == size]
    failed = np.array([[trial.value is None for trial in row] for row in rows], bool).reshape(-1, size)
    untreated = next((metrics for name, metrics in summary.baselines.items() if name != "linear"), {}).get(key)
    if failed.any() and untreated is None:
        raise StudyError(
            f"study {summary.name} has failed trials and no {metric} of the untreated input to value them at"
        )
    try:
        values = [[untreated if t.value is None else t.summary.metrics[key] for t in row] for row in rows]
    except KeyError:
        raise InputError(f"--metric {metric}: the trials of study {summary.name} have no {metric}") from None
    return np.array(values, float).reshape(-1, size), failed


def _effect(
    design: Design, keys: tuple[str, ...], values: Array, failed: Array, form: Metric, margin: float | None
) -> Effect:
    """One effect: over the trials of a block that have the same value of these keys, the mean is taken."""
    groups: dict[tuple[Value, ...], list[int]] = {}
    for index, level in enumerate(design.levels):
        groups.setdefault(tuple(level[key] for key in keys), []).append(index)
    names = [", ".join(map(shown_value, level)) for level in groups]
    if len(set(names)) < len(names):  # numbers that differ in their later digits
        names = [", ".join(map(str, level)) for level in groups]
    levels = [
        _level(name, values[:, group].mean(axis=1), values[:, group], failed[:, group], form)
        for name, group in zip(names, groups.values(), strict=True)
    ]
    levels.sort(key=lambda level: worth(level.mean, form.better), reverse=True)
    pairs = list(combinations(levels, 2))
    needed = statistics.blocks_needed(len(pairs))
    key = " and ".join(keys)
    if len(values) < needed:
        return Effect(key, levels, [], needed)
    differences = np.array([first.values - second.values for first, second in pairs])
    low, high = statistics.paired_interval(differences)
    p = statistics.holm(statistics.sign_flip_p(differences))
    same = None if margin is None else statistics.holm(statistics.equivalence_p(differences, margin))
    return Effect(
        key,
        levels,
        [
            Pair(
                first.name,
                second.name,
                differences[i],
                float(differences[i].mean()),
                float(low[i]),
                float(high[i]),
                float(np.mean(worth(first.values, form.better) > worth(second.values, form.better))),
                float(p[i]),
                None if same is None else float(same[i]),
            )
            for i, (first, second) in enumerate(pairs)
        ],
        needed,
    )


def _level(name: str, means: Array, values: Array, failed: Array, form: Metric) -> Level:
    ordered = np.array(sorted(means, key=lambda mean: worth(mean, form.better)))
    without = values[~failed]
    return Level(
        name,
        means,
        int(failed.sum()),
        float(means.mean()),
        float(without.mean()) if len(without) else math.nan,
        float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        {draws: statistics.expected_best(ordered, draws) for draws in DRAWS if draws <= len(means)},
    )


# --- a random search without a pruner ---------------------------------------------------------------------------------


def _unguided(summary: StudySummary, by: Sequence[str], metric: str) -> Unguided:
    space, drawn = summary.config.space, [t for t in summary.ended if t.number >= len(summary.config.enqueue)]
    trials = [trial for trial in drawn if trial.value is not None and f"val/{metric}" in trial.summary.metrics]
    values = np.array([trial.summary.metrics[f"val/{metric}"] for trial in trials])
    columns = {key: found for key in space.searched() if (found := _columns(summary, key, trials)).shape[1]}
    wide = 1 + sum(some.shape[1] for some in columns.values())
    if not columns or len(trials) < 2 * wide:
        raise StudyError(
            f"study {summary.name} has {len(trials)} complete trials drawn at random, too few for a model of {wide} "
            f"coefficients: {2 * wide} are needed"
        )
    shares = statistics.explained(values, columns)
    keys = []
    for key, share in shares.items():
        groups: dict[Value, list[float]] = {}
        if not any(isinstance(part, Range) for part in parts_of(space.dimension(key))):
            for trial, value in zip(trials, values, strict=True):
                if key in trial.params:
                    groups.setdefault(trial.params[key], []).append(float(value))
        choices = [(shown_value(v), len(g), float(np.mean(g)), _sd(g)) for v, g in groups.items()]
        keys.append(
            Key(key, share, sorted(choices, key=lambda choice: worth(choice[2], METRICS[metric].better), reverse=True))
        )
    keys.sort(key=lambda found: found.share.estimate, reverse=True)
    return Unguided(metric, len(trials), len(drawn) - len(trials), [k for k in keys if not by or k.key in by])


def _columns(summary: StudySummary, key: str, trials: Sequence[EndedTrial]) -> Array:
    """The columns of a key in the analysis of variance; those of the parts of a split key are nested in the other."""
    dimension = summary.config.space.dimension(key)
    of_trial = [
        (dimension.part(trial.values[dimension.by])[0] if isinstance(dimension, ByKey) else "")
        if key in trial.params
        else None
        for trial in trials
    ]
    found = [np.zeros((len(trials), 0))]
    for name in sorted({part for part in of_trial if part is not None}):
        form = dimension.parts[name] if isinstance(dimension, ByKey) else dimension
        here = np.array([part == name for part in of_trial])
        params: list[Any] = [trial.params[key] for trial, mine in zip(trials, here, strict=True) if mine]
        if isinstance(form, Range):
            params = [math.log(value) if form.log else float(value) for value in params]
        else:
            params = [shown_value(value) for value in params]
        found.append(statistics.within(params, here))
    columns = np.column_stack(found)
    return columns[:, columns.std(axis=0) > 0]


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
