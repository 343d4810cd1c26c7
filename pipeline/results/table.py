"""The summary table of a study: rows, a pandas DataFrame, or a file in the format of its suffix.

Imports no torch, and pandas only where a data frame is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.files import check_output, write_output
from pipeline.search.records import EndedTrial, StoredTrial, ended, ranked

if TYPE_CHECKING:
    import pandas as pd

COST = ("parameters", "multiply_adds")
SUMMARY = ("best_epoch", "epochs", "duration_s", "run_id")  # columns that are fields of a trial's summary
INTEGERS = ("rank", "number", *COST, "best_epoch", "epochs")

WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    ".csv": lambda table: table.to_csv(index=False),
    ".md": lambda table: _filled(table, "").to_markdown(index=False, floatfmt=".6g") + "\n",
    ".html": lambda table: _filled(table, "").to_html(index=False, float_format="{:.6g}".format),
    # pandas' own JSON has ten decimals
    ".json": lambda table: json.dumps(_filled(table, None).to_dict("records"), indent=2) + "\n",
}


def summary_rows(records: Sequence[StoredTrial], direction: str) -> list[dict[str, Any]]:
    """One row per trial with the columns of `summary_table`: complete trials by rank, then the others by number."""
    return _rows(records, direction)[1]


def summary_table(records: Sequence[StoredTrial], direction: str) -> pd.DataFrame:
    """The rows of `summary_rows` as a data frame.

    Returns:
        Columns ``rank`` (from 1; empty for trials that are not complete), ``number``, ``state``, ``objective``, every
        ``val/…`` metric at the best epoch, the searched parameters, ``parameters`` and ``multiply_adds``,
        ``best_epoch``, ``epochs``, ``duration_s`` (of training alone), ``run_id``, ``started`` (ISO 8601 with
        the offset from UTC).
    """
    import pandas as pd

    columns, rows = _rows(records, direction)
    searched = {key for record in records for key in record.params}
    integers = [*INTEGERS, *(key for key in searched if {type(row[key]) for row in rows} - {type(None)} == {int})]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(integers, "Int64"))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the file's suffix. InputError as in `check_output` and `write_output`."""
    check_output(path, WRITERS)
    write_output(path, WRITERS[path.suffix.lower()](table).encode())


def _rows(records: Sequence[StoredTrial], direction: str) -> tuple[list[str], list[dict[str, Any]]]:
    """The columns of the table in their order, and its rows."""
    best = ranked(records, direction)
    ranks = {record.number: rank for rank, record in enumerate(best, 1)}
    order = [*best, *(record for record in records if record.number not in ranks)]
    metrics = [name for record in ended(order) for name in record.summary.metrics if name.startswith("val/")]
    params = [key for record in order for key in record.params]
    found = dict.fromkeys([*metrics, *params])
    columns = ["rank", "number", "state", "objective", *found, *COST, *SUMMARY, "started"]
    rows = [_values(record) | {"rank": ranks.get(record.number)} for record in order]
    return columns, [{column: row.get(column) for column in columns} for row in rows]


def _values(record: StoredTrial) -> dict[str, Any]:
    """What is known of a trial, by column."""
    started = record.started.astimezone().isoformat(timespec="seconds")
    known: dict[str, Any] = {"number": record.number, "state": record.state, "started": started}
    if not isinstance(record, EndedTrial):
        return known | record.params
    summary, known["objective"] = record.summary, record.value
    return known | summary.metrics | record.params | summary.cost | {name: getattr(summary, name) for name in SUMMARY}


def _filled(table: pd.DataFrame, missing: str | None) -> pd.DataFrame:
    """The table with this in place of missing values, whatever the columns' types."""
    return table.astype(object).where(table.notna(), missing)
