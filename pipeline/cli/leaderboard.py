"""A study's tables in the terminal: its trials ranked among the baselines, what each choice did, its single trainings.

Comes in: a `StudySummary`. Goes out: tables fitted to the terminal, and lines. May not import pandas or torch.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.cli.printing import Column, counted, fitted, make_table, minute
from pipeline.config import Range
from pipeline.config.choices import METRICS
from pipeline.config.forms import DEFAULTS, parts_of
from pipeline.results.summary import STATES, Baseline, StudySummary
from pipeline.search.records import EndedTrial, RunningTrial
from pipeline.study.lines import measured
from pipeline.study.reporter import printable, shown_value

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.front import Costed
    from pipeline.results.lookup import StoredTraining

TOP = 10  # trials on a leaderboard
MOST_VALUES = 8  # of a range of whole numbers whose values are listed one by one
LONGEST = 60  # characters of a reason in a table
RUN_STATES = {"FINISHED": "complete", "FAILED": "failed"}  # of single trainings

Row = EndedTrial | RunningTrial | Baseline | int  # a number: of trials that are left out in this place


def leaderboard(summary: StudySummary, state: str, top: int = TOP, others: bool = False) -> Iterator[RenderableType]:
    """The best ``top`` trials among the baselines; with ``others`` also the trials that are not complete.

    ``state`` is the study's; the open trials of one that is not ``running`` are unfinished.
    """
    from rich.text import Text

    states = STATES | ({"RUNNING": "running"} if state == "running" else {})
    counts = summary.counts | {"running": 0}
    if state == "running":
        counts |= {"running": counts["unfinished"], "unfinished": 0}
    shown = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    of = summary.config.budget.trials
    text = f": {state}, {len(summary.ended)} of {of} trials ended" + (f" ({shown})" if shown else "")
    yield Text.assemble("\n", (summary.name, "bold"), text)
    rows = _rows(summary, top, others)
    if rows:
        dim = [not isinstance(row, EndedTrial | RunningTrial) for row in rows]
        yield from fitted(_columns(summary, rows, states, others), _importance(summary, others), dim)
    yield from (Text(printable(sentence)) for sentence in _sentences(summary))


def _rows(summary: StudySummary, top: int, others: bool) -> list[Row]:
    shown = {trial.number for trial in summary.ranked[:top]}
    rows: list[Row] = []
    for entry in summary.standing:
        if isinstance(entry, Baseline) or entry.number in shown:
            rows.append(entry)
        elif rows and isinstance(rows[-1], int):
            rows[-1] += 1
        else:
            rows.append(1)
    return rows + [record for record in summary.records if record.state != "COMPLETE"] if others else rows


def _columns(summary: StudySummary, rows: Sequence[Row], states: Mapping[str, str], others: bool) -> list[Column]:
    """Every column, in the order in which they are shown."""
    ranks = {trial.number: rank for rank, trial in enumerate(summary.ranked, 1)}
    ended = [row if isinstance(row, EndedTrial) else None for row in rows]
    scores = [row.metrics if isinstance(row, Baseline) else row.summary.metrics if row else {} for row in _known(rows)]
    params = [row.params if isinstance(row, EndedTrial | RunningTrial) else {} for row in rows]

    def name(row: Row) -> str:
        return f"{row} more" if isinstance(row, int) else row.label if isinstance(row, Baseline) else str(row.number)

    def state(row: Row) -> str:
        return "" if isinstance(row, int) else "baseline" if isinstance(row, Baseline) else states[row.state]

    def rank(row: Row) -> str:
        return "…" if isinstance(row, int) else "" if isinstance(row, Baseline) else str(ranks.get(row.number, ""))

    def gain(row: Row, score: Mapping[str, float]) -> str:
        if isinstance(row, RunningTrial | int) or (isinstance(row, EndedTrial) and row.value is None):
            return ""
        gap = summary.gap(summary.merit(row) if isinstance(row, EndedTrial) else score[summary.objective])
        return "" if gap is None else f"{round(gap, summary.form.decimals) + 0.0:+.{summary.form.decimals}f}"

    metric, rival, form = summary.metric, summary.best_baseline, summary.form
    several = [summary.configurations.get(row.number) if isinstance(row, EndedTrial) else None for row in rows]
    columns = [
        Column("rank", [rank(row) for row in rows]),
        Column("trial", [name(row) for row in rows]),
        Column("state", [state(row) for row in rows], left=True),
        _metric(metric, scores, summary.form.unit),
    ]
    if any(several):
        columns += [
            Column("mean of\nseeds", [form.shown(each.interval.mean, False) if each else "" for each in several]),
            Column("95 %\ninterval", [each.interval.shown(form.decimals) if each else "" for each in several]),
            Column("seeds", [each.counted if each else "" for each in several]),
        ]
    if rival is not None:
        columns.append(Column(f"gain vs\n{rival.name}", [gain(*pair) for pair in zip(rows, scores, strict=True)]))
    for key in summary.config.space.searched():
        columns.append(setting(key, [each.get(key) for each in params]))
    columns += [
        Column("epochs", [str(trial.summary.epochs) if trial else "" for trial in ended]),
        Column("time\ns", [f"{trial.summary.duration_s:,.1f}" if trial else "" for trial in ended]),
        Column("run", [trial.summary.run_id[:8] if trial else "" for trial in ended], left=True),
    ]
    if others:
        reasons = [trial.summary.reason if trial else "" for trial in ended]
        columns.append(
            Column("reason", [textwrap.shorten(reason, LONGEST, placeholder=" …") for reason in reasons], True)
        )
    columns += [
        _metric(name, scores, "dB" if METRICS[name].unit == "dB" else "")
        for name in ("psnr", "ssim", "class_kept", *METRICS)
        if name != metric and any(f"val/{name}" in score for score in scores)
    ]
    sizes = [trial.summary.cost.get("parameters") if trial else None for trial in ended]
    columns.append(Column("parameters", ["" if size is None else f"{size:,}" for size in sizes]))
    return list({column.name: column for column in columns}.values())


def _known(rows: Sequence[Row]) -> list[EndedTrial | Baseline | None]:
    return [row if isinstance(row, EndedTrial | Baseline) else None for row in rows]


def _importance(summary: StudySummary, others: bool) -> list[str]:
    """The columns that a narrow terminal shows first; the others follow in their own order."""
    state = ["state"] if others else []
    return [
        "rank",
        "trial",
        *state,
        summary.metric,
        "mean of",
        "95 %",
        "seeds",
        "gain vs",
        *summary.config.space.searched(),
    ]


def _metric(name: str, scores: Sequence[Mapping[str, float]], unit: str) -> Column:
    values = [score.get(f"val/{name}", math.nan) for score in scores]
    cells = ["" if math.isnan(value) else METRICS[name].shown(value, unit=False) for value in values]
    return Column(f"{name}\n{unit}" if unit else name, cells)


def setting(key: str, values: Sequence[Any]) -> Column:
    """A column of one key's values: words to the left, numbers with their digits below each other."""
    numbers = [abs(value) for value in values if isinstance(value, float) and math.isfinite(value) and value]
    text = any(isinstance(value, str) for value in values)
    if not numbers or text:
        return Column(key, [shown_value(value) for value in values], left=text)
    places = 2 - math.floor(math.log10(min(numbers)))  # three digits of the least
    form = f".{max(places, 0)}f" if places <= 6 and max(numbers) < 1e6 else ".2e"
    return Column(key, ["" if value is None else format(value, form) for value in values])


def _sentences(summary: StudySummary) -> Iterator[str]:
    """How many trials beat each baseline, why trials are not complete, and what the machine decided."""
    complete, beating = summary.counts["complete"], summary.beating
    if complete and beating:
        parts = [f"{n or 'none'} beat{'s' if n <= 1 else ''} {name}" for name, n in beating.items()]
        yield f"Of {counted(complete, 'complete trial')}, {' and '.join(parts)}."
    for state in ("PRUNED", "FAIL"):
        found = summary.reasons(state).items()
        reasons = [f"{reason} ({n})" if len(found) > 1 else reason for reason, n in found]
        if reasons:
            yield f"{sum(summary.reasons(state).values())} {STATES[state]}: {'; '.join(reasons)}"
    if precision := summary.facts.get("precision"):
        yield f'precision = "auto" means {precision} in this study'


def choices(summary: StudySummary) -> Iterator[RenderableType]:
    """Per value of a listed key: of how many complete trials, and the median and best of their objectives."""
    space = summary.config.space
    listed = [key for key in space.searched() if _listed(summary, key) and summary.choices(key)]
    if not listed:
        return
    rows = [
        (
            key if i == 0 else "",
            shown_value(c.value),
            str(c.trials),
            *(summary.form.shown(x, False) for x in (c.median, c.best)),
        )
        for key in listed
        for i, c in enumerate(summary.choices(key))
    ]
    headings = ("choice", "value", "n", "median", "best")
    claim = "exploratory" if summary.config.exploratory else f"`study effects {summary.name}` compares them"
    yield f"\n{summary.metric} of the complete trials by choice; {claim}"
    yield make_table(headings, rows, right=headings[2:])
    if left_out := [key for key in space.searched() if key not in listed]:
        yield f"ranges are left out: {', '.join(left_out)}"


def front_table(summary: StudySummary, fronts: Mapping[str, Sequence[Costed]]) -> Iterator[RenderableType]:
    """The trials on the front of each cost, the best first, with the fronts that each is on."""
    on = {name: {trial.number for trial, *_ in found} for name, found in fronts.items()}
    trials = [trial for trial in summary.ranked if any(trial.number in numbers for numbers in on.values())]
    if not trials:
        yield "\nfront: no trial is complete yet"
        return
    shown = {name: name.replace("_", "-") for name in fronts}
    places = [", ".join(shown[name] for name in fronts if trial.number in on[name]) for trial in trials]
    columns = [
        Column("trial", [str(trial.number) for trial in trials]),
        _metric(summary.metric, [trial.summary.metrics for trial in trials], summary.form.unit),
        *(Column(shown[name], [f"{trial.summary.cost[name]:,}" for trial in trials]) for name in fronts),
        Column("not beaten with as few", places, left=True),
        *(setting(key, [trial.params.get(key) for trial in trials]) for key in summary.config.space.searched()),
    ]
    yield f"\nfront: no other complete trial has as good a {summary.metric} with as few {' or '.join(shown.values())}"
    yield from fitted(columns)


def _listed(summary: StudySummary, key: str) -> bool:
    """Whether a key's values are a list, or whole numbers so few that they can be listed."""
    ranges = [part for part in parts_of(summary.config.space.dimension(key)) if isinstance(part, Range)]
    return all(each.integer and each.high - each.low < MOST_VALUES * (each.step or 1) for each in ranges)


def training_table(trainings: Sequence[StoredTraining], studies: bool = False) -> Iterator[RenderableType]:
    """Single trainings with their figures, and the settings that are not the defaults in each of them.

    With ``studies`` there is a column of the studies' names.
    """
    params = [training.config.params() if training.config else {} for training in trainings]
    changed = [key for key, default in DEFAULTS.items() if any(p.get(key, default) != default for p in params)]
    best = [training.metrics.get("best_epoch") for training in trainings]
    scores = [(t.config.objective if t.config else "", t.metrics.get("objective")) for t in trainings]
    figures = [{f"val/{name}": t.metrics.get(f"best/{name}", math.nan) for name in METRICS} for t in trainings]
    names = [name for name in METRICS if not all(math.isnan(each[f"val/{name}"]) for each in figures)]
    columns = [
        *([Column("study", [training.study for training in trainings], left=True)] if studies else []),
        Column("training", [training.name for training in trainings], left=True),
        Column("state", [RUN_STATES.get(training.status, "unfinished") for training in trainings], left=True),
        Column("objective", [measured(*score) if score[0] else "" for score in scores]),
        Column("epochs", [str(each.get("epochs", "")) for each in params]),
        Column("best epoch", ["" if epoch is None or math.isnan(epoch) else f"{epoch:.0f}" for epoch in best]),
        Column("run", [training.run_id[:8] for training in trainings], left=True),
        *(setting(key, [each.get(key) for each in params]) for key in changed),
        *(_metric(name, figures, "dB" if METRICS[name].unit == "dB" else "") for name in names),
        Column("started", [minute(training.started) for training in trainings], left=True),
    ]
    yield "\nsingle trainings"
    yield from fitted(columns)
