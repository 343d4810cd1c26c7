"""Results on standard output: tables and lines for people, JSON for scripts.

Comes in: rows, any document of JSON values. Goes out: text. May not import pandas or torch.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Container, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.home import DEFAULT_HOME, Home, open_home
from pipeline.study.reporter import printable, say, standard_output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


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
