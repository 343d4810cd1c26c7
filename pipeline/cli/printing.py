"""Results on standard output: tables and lines for people, JSON for scripts.

Comes in: rows, any document of JSON values. Goes out: text. May not import pandas or torch.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.home import DEFAULT_HOME, Home, open_home
from pipeline.study.reporter import printable, say, standard_output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

GAP = 2  # between two columns


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


@dataclass(frozen=True)
class Column:
    """A column as text; a second line of its heading has the unit."""

    heading: str
    cells: Sequence[str]
    left: bool = False  # aligned

    @property
    def name(self) -> str:
        return self.heading.partition("\n")[0]

    @property
    def width(self) -> int:
        from rich.cells import cell_len

        return max(cell_len(printable(text)) for text in (*self.heading.split("\n"), *self.cells))


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


def fitted(columns: Sequence[Column], first: Sequence[str] = (), dim: Iterable[bool] = ()) -> Iterator[RenderableType]:
    """A table of the columns that the terminal has room for, those named ``first`` before the others.

    The columns left out are named below it. Rows marked in ``dim`` are shown dimmed.
    """
    from rich.text import Text

    by_name = {column.name: column for column in columns}
    room, kept = console().width + GAP, set()
    for name in dict.fromkeys([*(name for name in first if name in by_name), *by_name]):
        if by_name[name].width + GAP <= room:
            room -= by_name[name].width + GAP
            kept.add(name)
    shown = [column for column in columns if column.name in kept]
    rows = zip(*(column.cells for column in shown), strict=True)
    right = {column.heading for column in shown if not column.left}
    table = make_table([column.heading for column in shown], rows, right)
    for row, dimmed in zip(table.rows, dim, strict=False):
        row.style = "dim" if dimmed else None
    yield table
    if left_out := [column.name for column in columns if column.name not in kept]:
        yield Text(f"no room for: {', '.join(left_out)}; a wider terminal shows them")


def minute(time: datetime) -> str:
    """A time as people read it, in local time."""
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: ``1 trial``, ``2 trials``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def next_commands(home: Home, *commands: str) -> list[str]:
    """Commands to type next, one per line: as this program was called, with the options that name this home.

    The data folder is none of these: the home remembers it.
    """
    usual = open_home(home.path)
    given = {
        "--home": (home.path, DEFAULT_HOME.absolute()),
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


def mlflow_command() -> str:
    """MLflow's program as it can be typed: by its name, or by the path of this interpreter's own."""
    return "mlflow" if shutil.which("mlflow") else shlex.quote(str(Path(sys.executable).with_name("mlflow")))
