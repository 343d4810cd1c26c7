"""Results on standard output: tables and lines for people, JSON for scripts.

Comes in: rows, a study's records, any document of JSON values. Goes out: text. May not import pandas or torch.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.home import DEFAULT_HOME, Home, open_home
from pipeline.study.reporter import figure, printable, say, standard_output

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


def print_result(shown: Iterable[RenderableType], document: Any = None, as_json: bool = False) -> None:
    """Print a result: as a JSON document for scripts, else strings as they are, and tables fitted to the terminal."""
    if as_json:
        finite = json.loads(json.dumps(document), parse_constant=lambda _: None)  # JSON has no NaN and no infinity
        say(json.dumps(finite, indent=2, allow_nan=False))
        return
    for part in shown:
        if isinstance(part, str):
            say(part)
        else:
            with standard_output():
                console().print(part)


def make_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], right: Container[str] = (), wrap: Container[str] = ()
) -> Table:
    """A table without a frame; ``right`` aligns columns to the right, ``wrap`` lets a narrow terminal wrap them."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=heading not in wrap)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # not markup: a path may contain brackets
    return table


def leaderboard(
    config: StudyConfig, records: Sequence[StoredTrial], baselines: dict[str, dict[str, float]]
) -> Iterator[RenderableType]:
    """The best trials and the baselines, with as many columns as the terminal has room for."""
    from rich.text import Text

    from pipeline.config.choices import METRICS
    from pipeline.search.records import ranked

    states = [record.state for record in records]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in sorted(set(states)))
    yield Text.assemble("\n", (config.name, "bold"), f": {counted(len(records), 'trial')} ({counts})")

    best = ranked(records, config.objective.direction)[:TOP]
    scores = [*(trial.summary.metrics for trial in best), *baselines.values()]
    no_cells = [""] * len(baselines)

    def metrics(*names: str) -> dict[str, list[str]]:
        recorded = [name for name in names if any(f"val/{name}" in score for score in scores)]
        return {name: [figure(score.get(f"val/{name}")) for score in scores] for name in recorded}

    columns = {
        "rank": [*(str(rank) for rank, _ in enumerate(best, 1)), *no_cells],
        "trial": [*(str(trial.number) for trial in best), *baselines],
        **metrics(config.objective.metric, "psnr", "ssim", "class_kept"),
        "parameters": [*(f"{trial.summary.cost['parameters']:,}" for trial in best), *no_cells],
        **{key: [*(_cell(trial.params.get(key)) for trial in best), *no_cells] for key in config.space.searched()},
        **metrics("bce", "bce_excess", "sharpness", *METRICS),  # those above keep their places
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


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 trial``, ``2 trials``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def next_commands(home: Home, *commands: str) -> list[str]:
    """Commands to type next, one per line: as this program was called, with the options that name this home."""
    usual = open_home(home.path)
    given = {
        "--home": (home.path, DEFAULT_HOME.absolute()),
        "--data-dir": (home.data_dir, usual.data_dir),
        "--tracking-uri": (home.tracking_shown, usual.tracking_shown),
        "--storage": (home.storage_shown, usual.storage_shown),
    }
    options = [f" {option} {shlex.quote(str(value))}" for option, (value, default) in given.items() if value != default]
    return [f"  {called_as()} {command}{''.join(options)}" for command in commands]


def called_as() -> str:
    """How this program was called: by a path, by name, or as a module."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m pipeline"
    return str(called) if shutil.which("study") is None and called.exists() else "study"
