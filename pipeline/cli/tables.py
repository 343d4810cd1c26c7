"""Results on standard output: tables and lines for people, JSON for scripts.

What comes in: rows, a study's records, or any document of JSON values. What goes out: text. Rich is imported where a
table is made; nothing here imports pandas or torch.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from pipeline.study.reporter import figure

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from pipeline.config import StudyConfig
    from pipeline.search.records import StoredTrial

TOP = 10  # trials on a leaderboard


def console() -> Console:
    """Standard output. A pipe or a file gets the full width of every table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=240)


def print_result(as_json: bool, document: Any, shown: Iterable[RenderableType]) -> None:
    """Print a result: as a JSON document for scripts, else as tables and lines for people."""
    if as_json:
        print(json.dumps(_finite(document), indent=2, allow_nan=False))
    else:
        print_shown(shown)


def print_shown(shown: Iterable[RenderableType]) -> None:
    """Print strings as they are; fit tables and rich texts to the terminal."""
    for part in shown:
        if isinstance(part, str):
            print(part)
        else:
            console().print(part)


def make_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str] = (), wrap: Container[str] = ()
) -> Table:
    """A table without a frame.

    Args:
        headings: one per column.
        rows: plain texts, one per column.
        right: headings of the columns that are aligned to the right.
        wrap: headings of the columns that a narrow terminal may wrap.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading not in wrap)
    for row in rows:
        table.add_row(*map(Text, row))  # texts are not markup: a path may contain brackets
    return table


def leaderboard(
    config: StudyConfig, records: Sequence[StoredTrial], baselines: dict[str, dict[str, float]]
) -> Iterator[RenderableType]:
    """The best trials and the baselines, with as many columns as the terminal has room for."""
    from rich.text import Text

    from pipeline.search.records import ranked

    states = [record.state for record in records]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(sorted(states)))
    yield Text.assemble("\n", (config.name, "bold"), f": {counted(len(records), 'trial')} ({counts})")

    order = ranked(records, config.objective.direction)
    best = [(record, record.summary) for record in order[:TOP]]
    scores = [*(summary.metrics for _, summary in best), *baselines.values()]
    no_cells = [""] * len(baselines)

    def metrics(*names: str) -> dict[str, list[str]]:
        recorded = [name for name in names if any(f"val/{name}" in score for score in scores)]
        return {name: [figure(score.get(f"val/{name}")) for score in scores] for name in recorded}

    columns = {
        "rank": [*(str(rank) for rank, _ in enumerate(best, 1)), *no_cells],
        "trial": [*(str(record.number) for record, _ in best), *baselines],
        **metrics(config.objective.metric, "psnr", "ssim", "class_kept"),
        "parameters": [*(f"{summary.cost['parameters']:,}" for _, summary in best), *no_cells],
        **{key: [*(_cell(record.params.get(key)) for record, _ in best), *no_cells] for key in config.space.searched()},
        **metrics("bce", "bce_excess", "sharpness"),
    }
    widths = accumulate(max(map(len, [heading, *cells])) + 2 for heading, cells in columns.items())
    room = console().width + 2  # the last column needs no gap
    shown = [heading for heading, width in zip(columns, widths, strict=True) if width <= room]
    table = make_table(shown, zip(*(columns[heading] for heading in shown), strict=True), right=shown)
    for row in table.rows[len(best) :]:
        row.style = "dim"
    yield table
    left_out = list(columns)[len(shown) :]
    if left_out:
        yield Text(f"no room for: {', '.join(left_out)}; a wider terminal or `study export` shows them")


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 trial``, ``2 trials``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _finite(value: Any) -> Any:
    """A document with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
