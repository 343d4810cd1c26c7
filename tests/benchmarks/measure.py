"""What all benchmarks share: options, the machine, runs in turn, and results as a table and as JSON.

A benchmark makes its parser with `options`, calls `begin`, measures, and calls `report` with rows of a table. Values
are text, numbers or `Spread`. Variants are measured in turn in every round (`in_turn`), and compared within a round
(`compared`), so that a change of the machine's speed affects all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.data import Dataset, load
from pipeline.errors import DataError
from pipeline.home import default_data_dir
from pipeline.provenance import git_state, hardware, versions
from pipeline.workers.machine import precision_here

REPOSITORY = Path(__file__).parents[2]
IDLE = 0.5  # the greatest load average of the last minute at which a machine counts as idle


@dataclass(frozen=True)
class Spread:
    """Several measurements of one quantity."""

    n: int
    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(len(found), statistics.median(found), min(found), max(found))

    def __str__(self) -> str:
        if self.n == 1:
            return _number(self.median)
        return f"{_number(self.median)} ({_number(self.least)} to {_number(self.greatest)})"


def options(description: str | None, runs: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; ``runs`` is the usual number of runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help=f"of each variant, in turn (default {runs})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--loaded", action="store_true", help="measure although the machine has other work")
    shared = REPOSITORY.parent / "shared" / "data"
    data_dir = shared if shared.is_dir() else default_data_dir()
    parser.add_argument("--data-dir", type=Path, default=data_dir, help="folder of the data sets (%(default)s)")
    return parser


def begin(arguments: argparse.Namespace) -> None:
    """Refuse a loaded machine, whose figures would mean nothing, unless ``--loaded`` is given."""
    load_average = os.getloadavg()[0]
    if load_average > IDLE and not arguments.loaded:
        sys.exit(
            f"the load average of the last minute is {load_average:.2f}, more than {IDLE}: wait until the machine is "
            "idle, or give --loaded, which the results will say"
        )


def mnist(data_dir: Path) -> Dataset:
    """Full MNIST if it is under the data folder, otherwise the 5,000 embedded digits; says so."""
    try:
        return load("mnist", data_dir)
    except DataError as error:
        print(f"the 5,000 embedded digits instead of full MNIST: {error}", file=sys.stderr)
        return load("mnist-5k", data_dir)


def in_turn(variants: dict[str, Callable[[], float]], runs: int, warm_up: bool = True) -> dict[str, list[float]]:
    """Measure all variants once per round, in alternating order; a first round is not counted."""
    found: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(0 if warm_up else 1, runs + 1):
        for name in sorted(variants, reverse=round_ % 2 == 0, key=list(variants).index):
            value = variants[name]()
            if round_:
                found[name].append(value)
    return found


def compared(found: dict[str, list[float]], unit: str, to: str | None = None) -> list[dict[str, Any]]:
    """Rows of a table: each variant's values, and their ratio to those of ``to`` (the first) in the same round."""
    reference = found[to or next(iter(found))]
    return [
        {
            "variant": name,
            unit: Spread.of(values),
            "ratio": Spread.of(a / b for a, b in zip(values, reference, strict=True)),
            "n": len(values),
        }
        for name, values in found.items()
    ]


def machine() -> dict[str, Any]:
    """The machine and what runs on it."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    auto = precision_here("cuda" if gpu else "cpu")
    return {"hardware": hardware(), "auto": auto, "gpu": gpu, **versions(), **git_state()}


def report(title: str, rows: list[dict[str, Any]], arguments: argparse.Namespace, **more: Any) -> None:
    """Print rows, whose keys are the columns, as a table, and write them as JSON where ``--json`` says.

    ``more`` is said below the table and stored with it. Several tables of one run are all kept in one file.
    """
    about = machine()
    table = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_shown(row.get(column, "")) for column in columns))
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    said = {"machine": about["hardware"], "gpu": about["gpu"], "torch": about["torch"], **more}
    if arguments.loaded:
        said["LOADED"] = "the machine had other work; these times are no result"
    for name, value in said.items():
        console.print(f"  {name}: {_shown(value)}", highlight=False, soft_wrap=True, markup=False)
    if arguments.json:
        earlier = _tables_of_this_run.setdefault(arguments.json, [])
        earlier.append({"title": title, "rows": rows, **more})
        result = {
            "machine": about,
            "options": {key: value for key, value in vars(arguments).items() if not callable(value)},
            "ended": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "tables": earlier,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=2, default=_as_json) + "\n")


_tables_of_this_run: dict[Path, list[dict[str, Any]]] = {}


def _shown(value: Any) -> str:
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Three significant digits, and no fewer digits than the whole part has."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _as_json(value: Any) -> Any:
    return asdict(value) if isinstance(value, Spread) else str(value)
