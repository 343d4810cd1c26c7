"""The tables of a study: one row per trial and baseline, or one per value of a searched key.

Comes in: a `StudySummary`. Goes out: a `Table`, which `export` renders. Imports no torch, no pandas and no MLflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import Value
from pipeline.config.choices import METRICS, Better, worth
from pipeline.config.messages import hint, shown
from pipeline.errors import InputError
from pipeline.results.summary import LABELS, STATES, Baseline, Configuration, StudySummary
from pipeline.search.records import EndedTrial, StoredTrial
from pipeline.study.reporter import shown_value

Cell = Value | None
FIGURES = ("psnr", "ssim", "class_kept", "sharpness")  # shown to people after the objective, where they are recorded
BASELINE = "BASELINE"  # the state of a baseline's row
DIGEST = 12  # characters of the data's digest in a caption


@dataclass(frozen=True)
class Column:
    """A column: its key in files for programs, and how people see it."""

    key: str
    heading: str
    unit: str = ""
    decimals: int | None = None  # None: as `shown_value` writes it
    better: Better | None = None
    kind: type = str  # of its values: bool, int, float or str
    brief: bool = False  # also in tables for people

    def text(self, row: Mapping[str, Cell]) -> str:
        """A row's cell as people see it; empty where there is no value."""
        value = row.get(self.key)
        if self.key == "number" and value is None:
            name = str(row.get("baseline") or "")
            return LABELS.get(name, name)
        if self.key == "state":
            return STATES.get(str(value), "baseline")
        if value is None or value != value:
            return ""
        if self.decimals is None or isinstance(value, str):
            return shown_value(value)
        return f"{value:,.{self.decimals}f}"


@dataclass(frozen=True)
class Table:
    """Rows for programs and for people. A row may have fewer keys than there are columns."""

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Cell], ...]
    caption: str = ""

    @property
    def brief(self) -> tuple[Column, ...]:
        """The columns of tables for people."""
        return tuple(column for column in self.columns if column.brief)

    @property
    def records(self) -> list[dict[str, Cell]]:
        """The rows for programs: every column's key, with None where there is no value."""
        return [{column.key: row.get(column.key) for column in self.columns} for row in self.rows]

    def select(self, keys: Iterable[str]) -> Table:
        """The columns with these keys or headings, in this order, for people too.

        Raises InputError, which lists the columns there are.
        """
        by_key = {column.key: column for column in self.columns}
        known = {column.heading: column for column in self.columns} | by_key
        chosen = list(dict.fromkeys(keys))
        for key in chosen:
            if key not in known:
                near = hint(key, known, listing=False)
                raise InputError(f"unknown column {shown(key)}; allowed: {', '.join(by_key)}{near}")
        return replace(self, columns=tuple(replace(known[key], brief=True) for key in chosen))

    def best(self, column: Column) -> frozenset[int]:
        """The rows that have the best value of a column, as it is shown; trials that are not complete do not count."""
        if column.better is None:
            return frozenset()
        cells = {
            index: (worth(float(value), column.better), column.text(row))
            for index, row in enumerate(self.rows)
            if row.get("state", "COMPLETE") in ("COMPLETE", BASELINE)
            and isinstance(value := row.get(column.key), int | float)
            and value == value
        }
        _, text = max(cells.values(), default=(0, ""))
        return frozenset(index for index, cell in cells.items() if cell[1] == text)


def study_table(
    summary: StudySummary,
    *,
    columns: Sequence[str] | None = None,
    top: int | None = None,
    state: Collection[str] | None = None,
    baselines: bool = False,
) -> Table:
    """One row per trial: complete ones by rank, then the others by number.

    Args:
        columns: keys of the columns in their order; without them all for programs, and the usual ones for people.
        top: only so many trials, the first ones.
        state: only trials in these states, of `STATES`' values.
        baselines: also one row per baseline, at its place among the complete trials.

    Returns:
        Columns ``rank`` (from 1; None for trials that are not complete), ``number``, ``baseline`` (a baseline's name;
        only with ``baselines``), ``state``, ``objective``, of replicated trials ``seeds`` (how many), ``seeds_failed``,
        ``seeds_mean``, ``seeds_sd``, ``seeds_low`` and ``seeds_high`` (the mean's 95 % interval), every ``val/…``
        metric at the best epoch, the searched keys, ``parameters`` and ``multiply_adds``, ``best_epoch``, ``epochs``,
        ``duration_s`` (of training alone), ``reason``, ``run_id``, ``started`` (ISO 8601 with the offset from UTC).

    Raises:
        InputError: an unknown column or state.
    """
    for name in state or ():
        if name not in STATES.values():
            near = hint(name, STATES.values(), listing=False)
            raise InputError(f"unknown state {shown(name)}; allowed: {', '.join(STATES.values())}{near}")
    ranks = {trial.number: rank for rank, trial in enumerate(summary.ranked, 1)}
    rows: list[Mapping[str, Cell]] = []
    trials = 0
    for entry in [*summary.standing, *(record for record in summary.records if record.number not in ranks)]:
        if isinstance(entry, Baseline):
            if baselines:
                rows.append(_baseline(summary, entry))
        elif (top is None or trials < top) and (not state or STATES[entry.state] in state):
            seeds = _of_seeds(summary.configurations.get(entry.number))
            rows.append({"rank": ranks.get(entry.number)} | _trial(entry) | seeds)
            trials += 1
    unusual = any(row["state"] not in ("COMPLETE", BASELINE) for row in rows)
    all_columns = [column for column in _columns(summary, unusual) if baselines or column.key != "baseline"]
    config, metric = summary.config, summary.metric
    caption = f"{trials} of {len(summary.records)} trials of study {summary.name} ({config.degrade.kind} on "
    caption += (
        f"{config.dataset}), ranked by {metric}; figures of the best epoch on the validation split, one seed each"
        f"{', but for the replicated, which come first by their mean' if summary.configurations else ''}"
    )
    table = Table(tuple(all_columns), tuple(rows), f"{caption}{_digest(summary)}")
    return table if columns is None else table.select(columns)


def grouped(summary: StudySummary, key: str) -> Table:
    """One row per value of a searched key, the best mean first: n, mean, standard deviation and best of the objective.

    Complete trials that have the key count. Raises InputError where the key is not searched.
    """
    searched = summary.config.space.searched()
    if key not in searched:
        near, allowed = hint(key, searched, listing=False), ", ".join(searched) or "none"
        raise InputError(f"--by {shown(key)}: not a searched key; allowed: {allowed}{near}")
    form, choices = summary.form, summary.choices(key)

    def figure(key: str, heading: str, better: Better | None) -> Column:
        return Column(key, heading, form.unit, form.decimals, better, float, brief=True)

    columns = (
        Column(key, key, kind=_kind(choice.value for choice in choices), brief=True),
        Column("n", "n", kind=int, brief=True),
        figure("mean", f"mean {summary.metric}", form.better),
        figure("sd", "sd", None),
        figure("best", "best", form.better),
    )
    rows: list[Mapping[str, Cell]] = [
        {key: choice.value, "n": choice.trials, "mean": choice.mean, "sd": choice.sd, "best": choice.best}
        for choice in sorted(choices, key=lambda choice: -summary.sign * choice.mean)
    ]
    caption = f"{sum(choice.trials for choice in choices)} complete trials of study {summary.name} by {key}: "
    caption += f"{summary.metric} of the best epoch on the validation split"
    caption += "; exploratory, since the search chose the trials" * summary.config.exploratory
    return Table(columns, tuple(rows), f"{caption}{_digest(summary)}")


def _columns(summary: StudySummary, state: bool) -> list[Column]:
    """All columns; for people, the state where it says something."""
    form, searched = summary.form, summary.config.space.searched()
    found = {name for trial in summary.ended for name in trial.summary.metrics}.union(*summary.baselines.values())
    usual = dict.fromkeys([summary.metric, *FIGURES])
    metrics = {
        name: Column(f"val/{name}", name, metric.unit, metric.decimals, metric.better, float, name in usual)
        for name, metric in METRICS.items()
        if f"val/{name}" in found
    }
    return [
        Column("rank", "rank", kind=int, brief=True),
        Column("number", "trial", kind=int, brief=True),
        Column("baseline", "baseline"),
        Column("state", "state", brief=state),
        Column("objective", "objective", form.unit, form.decimals, form.better, float),
        *_seed_columns(summary),
        *metrics.values(),
        *(
            Column(key, key, kind=_kind(r.params[key] for r in summary.records if key in r.params), brief=True)
            for key in searched
        ),
        Column("parameters", "parameters", decimals=0, kind=int, brief=True),
        Column("multiply_adds", "multiply-adds", decimals=0, kind=int),
        Column("best_epoch", "best epoch", kind=int),
        Column("epochs", "epochs", kind=int, brief=True),
        Column("duration_s", "time", "s", 1, kind=float),
        Column("reason", "reason"),
        Column("run_id", "run"),
        Column("started", "started"),
    ]


def _seed_columns(summary: StudySummary) -> list[Column]:
    """What several seeds of a configuration say of its objective; none where nothing was replicated."""
    form = summary.form
    if not summary.configurations:
        return []
    return [
        Column("seeds", "seeds", kind=int, brief=True),
        Column("seeds_failed", "seeds failed", kind=int),
        Column("seeds_mean", "mean of seeds", form.unit, form.decimals, form.better, float, True),
        Column("seeds_sd", "sd of seeds", form.unit, form.decimals + 1, None, float),
        Column("seeds_low", "95 % from", form.unit, form.decimals, None, float, True),
        Column("seeds_high", "to", form.unit, form.decimals, None, float, True),
    ]


def _of_seeds(replicated: Configuration | None) -> dict[str, Cell]:
    if replicated is None:
        return {}
    interval = replicated.interval
    found: dict[str, Cell] = {"seeds": len(replicated.seeds), "seeds_failed": replicated.failed}
    found |= {"seeds_mean": interval.mean, "seeds_sd": replicated.sd}
    return found | {"seeds_low": interval.low, "seeds_high": interval.high}


def _trial(record: StoredTrial) -> dict[str, Cell]:
    """What is known of a trial, by column."""
    started = record.started.astimezone().isoformat(timespec="seconds")
    known: dict[str, Cell] = {"number": record.number, "state": record.state, "started": started, **record.params}
    if not isinstance(record, EndedTrial):
        return known
    summary = record.summary
    fields = {name: getattr(summary, name) for name in ("best_epoch", "epochs", "duration_s", "reason", "run_id")}
    return known | {"objective": record.value} | summary.metrics | summary.cost | fields


def _baseline(summary: StudySummary, baseline: Baseline) -> dict[str, Cell]:
    return {"baseline": baseline.name, "state": BASELINE, "objective": summary.value(baseline), **baseline.metrics}


def _kind(values: Iterable[Any]) -> type:
    """The one type of all values; that of decimals for whole and decimal numbers, else that of text."""
    kinds = {type(value) for value in values}
    return kinds.pop() if len(kinds) == 1 else float if kinds == {int, float} else str


def _digest(summary: StudySummary) -> str:
    return f"; data sha256 {summary.facts.get('data.sha256', '')[:DIGEST]}"
