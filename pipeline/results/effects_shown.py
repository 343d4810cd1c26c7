"""Effects as sentences, tables and JSON, which the terminal and the page share.

Comes in: what `effects` found. Goes out: text, `Table` objects and plain values. May not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.config.choices import METRICS
from pipeline.results.effects import DRAWS, MANY_BLOCKS, Effect, Effects, Exploratory, Pair, Paired, Unguided
from pipeline.results.table import Cell, Column, Table
from pipeline.search.ask_tell import IMPORTANCES_FROM


def foundation(found: Effects) -> Iterator[str]:
    """What the figures rest on, and how to read them. Plain text, also valid as Markdown."""
    if isinstance(found, Exploratory):
        yield (
            f"The search was guided or pruned, so it makes no claim about single choices. Importances (PED-ANOVA on "
            f"{found.trials} complete trials) are exploratory"
            + ("." if found.importances else f"; from {IMPORTANCES_FROM} ended trials on that differ.")
        )
    elif isinstance(found, Unguided):
        failed = f"; {found.failed} failed ones are left out, which favours what made them fail" * bool(found.failed)
        yield f"{found.trials} trials were drawn at random and trained to the end{failed}."
        yield (
            "Omega squared is the share of the variance that a key explains beside all others, from a type-II analysis "
            "of variance, with its 95 % interval. An interval from 0 on means that it may explain nothing."
        )
    else:
        yield (
            f"{found.blocks} blocks, each with all values on one draw of everything else. Intervals are 95 % t "
            "intervals over blocks, each by itself; p is that of sign flips, adjusted for the number of pairs (Holm)."
        )
        if found.blocks < MANY_BLOCKS:
            yield f"This rests on few blocks; {MANY_BLOCKS} are better."
        if any(level.failed for effect in found.effects for level in effect.levels):
            yield "A failed trial counts as if it returned its input untreated."


def texts_of(found: Effects) -> list[str]:
    """What the figures rest on, and what each effect shows."""
    shown = [said(effect, found) for effect in found.effects] if isinstance(found, Paired) else []
    return [*foundation(found), *shown]


def tables_of(found: Effects) -> list[Table]:
    """All tables, in the order in which they are shown."""
    if isinstance(found, Paired):
        shown = [table(effect, found) for effect in found.effects for table in (level_table, pair_table)]
    elif isinstance(found, Unguided):
        shown = [share_table(found), choice_table(found)]
    else:
        shown = [importance_table(found)]
    return [table for table in shown if table.rows]


def said(effect: Effect, found: Paired) -> str:
    """What an effect shows, in one sentence."""
    form, best = METRICS[found.metric], effect.levels[0]
    if not effect.pairs:
        count = len(effect.levels)
        return f"{effect.key}: {found.blocks} blocks cannot show anything about {count} values; {effect.needed} can."
    groups: dict[str, list[str]] = {}
    for pair in effect.pairs:
        if pair.first == best.name:
            groups.setdefault(verdict(pair, found), []).append(pair.second)
    text = "; ".join(f"{what} {', '.join(names)}" for what, names in groups.items())
    return f"{effect.key}: {best.name} has the best mean, {form.shown(best.mean)}: {text}."


def verdict(pair: Pair, found: Paired) -> str:
    """What is claimed about a pair; the words go before the name of its second level."""
    within = f"within {METRICS[found.metric].shown(found.margin)} of" if found.margin is not None else ""
    if pair.differs:
        return f"better than, but {within}" if pair.equivalent else "better than"
    return within if pair.equivalent else "undecided against"


def level_table(effect: Effect, found: Paired) -> Table:
    """One row per value of an effect's key, the best mean first."""
    form = METRICS[found.metric]

    def figure(key: str, heading: str, brief: bool = True) -> Column:
        better = None if key == "sd" else form.better
        return Column(key, heading, form.unit, form.decimals, better, float, brief)

    failed = any(level.failed for level in effect.levels)
    columns = (
        Column("level", effect.key, brief=True),
        figure("mean", f"mean {found.metric}"),
        figure("sd", "sd"),
        Column("failed", "failed", kind=int, brief=failed),
        figure("mean_without_failed", "without failed", failed),
        *(figure(f"best_of_{k}", f"best of {k}", k > 1) for k in DRAWS if k <= found.blocks),
    )
    rows = [
        _row(
            level=level.name,
            mean=level.mean,
            sd=level.sd,
            failed=level.failed,
            mean_without_failed=level.mean_without,
            **{f"best_of_{k}": value for k, value in level.best_of.items()},
        )
        for level in effect.levels
    ]
    return Table(columns, tuple(rows), f"{found.metric} by {effect.key}, {found.blocks} blocks")


def pair_table(effect: Effect, found: Paired) -> Table:
    """One row per pair of values: the mean difference with its interval, and what is claimed."""
    form = METRICS[found.metric]

    def figure(key: str, heading: str) -> Column:
        return Column(key, heading, form.unit, form.decimals + 1, None, float, True)

    columns = (
        Column("first", effect.key, brief=True),
        Column("verdict", "is", brief=True),
        Column("second", "", brief=True),
        figure("difference", "difference"),
        figure("low", "from"),
        figure("high", "to"),
        Column("better_in", "better in", "% of blocks", 0, None, float, True),
        Column("p", "p", "", 4, None, float, True),
        Column("p_equivalent", "p within margin", "", 4, None, float, found.margin is not None),
    )
    rows = [
        _row(
            first=pair.first,
            verdict=verdict(pair, found),
            second=pair.second,
            difference=pair.mean,
            low=pair.low,
            high=pair.high,
            better_in=100 * pair.better,
            p=pair.p,
            p_equivalent=pair.p_equivalent,
        )
        for pair in effect.pairs
    ]
    return Table(columns, tuple(rows), f"paired differences of {found.metric}, first minus second")


def share_table(found: Unguided) -> Table:
    """One row per key, the greatest share first."""
    columns = (
        Column("key", "key", brief=True),
        *(
            Column(key, heading, "%", 1, None, float, True)
            for key, heading in (("omega_squared", "omega squared"), ("low", "from"), ("high", "to"))
        ),
    )
    rows = [
        _row(key=k.key, omega_squared=100 * k.share.estimate, low=100 * k.share.low, high=100 * k.share.high)
        for k in found.keys
    ]
    return Table(columns, tuple(rows), f"share of the variance of {found.metric} that each key explains")


def choice_table(found: Unguided) -> Table:
    """One row per value of a listed key."""
    form = METRICS[found.metric]
    columns = (
        Column("key", "key", brief=True),
        Column("value", "value", brief=True),
        Column("n", "n", kind=int, brief=True),
        Column("mean", f"mean {found.metric}", form.unit, form.decimals, None, float, True),
        Column("sd", "sd", form.unit, form.decimals, None, float, True),
    )
    rows = [
        _row(key=key.key, value=value, n=n, mean=mean, sd=sd)
        for key in found.keys
        for value, n, mean, sd in key.choices
    ]
    return Table(columns, tuple(rows), f"{found.metric} by value")


def importance_table(found: Exploratory) -> Table:
    """One row per parameter, the most important first."""
    columns = (Column("parameter", "parameter", brief=True), Column("share", "share", "%", 1, None, float, True))
    rows = [_row(parameter=name, share=100 * share) for name, share in found.importances.items()]
    return Table(columns, tuple(rows), "importance, exploratory (PED-ANOVA)")


def _row(**cells: Cell) -> Mapping[str, Cell]:
    return cells


def document(name: str, found: Effects) -> dict[str, Any]:
    """Everything as JSON values."""
    head: dict[str, Any] = {"name": name, "read_as": list(foundation(found))}
    if isinstance(found, Exploratory):
        return head | {"design": "exploratory", "trials": found.trials, "importances": dict(found.importances)}
    if isinstance(found, Unguided):
        tables = {"keys": share_table(found).records, "values": choice_table(found).records}
        return (
            head | {"design": "random", "metric": found.metric, "trials": found.trials, "failed": found.failed} | tables
        )
    return head | {
        "design": "paired",
        "metric": found.metric,
        "blocks": found.blocks,
        "margin": found.margin,
        "effects": [
            {
                "key": effect.key,
                "said": said(effect, found),
                "levels": [
                    row | {"values": level.values.tolist()}
                    for row, level in zip(level_table(effect, found).records, effect.levels, strict=True)
                ],
                "pairs": pair_table(effect, found).records,
            }
            for effect in found.effects
        ],
    }
