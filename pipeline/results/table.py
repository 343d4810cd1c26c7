"""The summary table of a study, as a data frame and as a file.

Comes in: a study's records from Optuna's database. Goes out: a pandas DataFrame, CSV or Markdown … by the suffix.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.errors import InputError
from pipeline.files import write_output
from pipeline.search.records import EndedTrial, StoredTrial, ranked


def _filled(table: pd.DataFrame) -> pd.DataFrame:
    """Missing values as empty cells, whatever the column's type would print for them."""
    return table.astype(object).where(table.notna(), "")


def plain_rows(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Rows of JSON values, None for what is missing; with all their digits, where pandas' own JSON has ten decimals."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


WRITERS: dict[str, Callable[[pd.DataFrame], str]] = {
    ".csv": lambda table: table.to_csv(index=False),
    ".md": lambda table: _filled(table).to_markdown(index=False, floatfmt=".6g") + "\n",
    ".html": lambda table: _filled(table).to_html(index=False, float_format="{:.6g}".format),
    ".json": lambda table: json.dumps(plain_rows(table), indent=2) + "\n",
}


def summary_table(records: Sequence[StoredTrial], direction: str) -> pd.DataFrame:
    """One row a trial: complete trials by rank, then the others by number.

    Args:
        records: the study's trials.
        direction: ``maximize`` or ``minimize``, of the objective.

    Returns:
        Columns ``rank`` (from 1; empty for trials that are not complete), ``number``, ``state``, ``objective``, every
        ``val/…`` metric at the best epoch, the parameters that were searched, ``parameters`` and ``multiply_adds``,
        ``best_epoch``, ``epochs``, ``duration_s`` (training alone), ``run_id``, ``started`` (ISO 8601
        with the offset from UTC).
    """
    order = ranked(records, direction)
    rank = {record.number: place for place, record in enumerate(order, 1)}
    rest = [record for record in records if record.number not in rank]
    rows = [_row(record, rank.get(record.number)) for record in [*order, *rest]]
    keys = {name: list(dict.fromkeys(key for row in rows for key in row[name])) for name in ("metrics", "params")}
    columns = ["rank", "number", "state", "objective", *keys["metrics"], *keys["params"]]
    columns += ["parameters", "multiply_adds", "best_epoch", "epochs", "duration_s", "run_id", "started"]
    flat = [row["head"] | row["metrics"] | row["params"] | row["tail"] for row in rows]
    table = pd.DataFrame(flat, columns=columns)
    whole = ["rank", "number", "parameters", "multiply_adds", "best_epoch", "epochs"]
    whole += [key for key in keys["params"] if _all_integers(row["params"].get(key) for row in rows)]
    return table.astype(dict.fromkeys(whole, "Int64"))


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table in the format of the file's suffix; an older file is replaced whole.

    Raises:
        InputError: an unknown suffix, or a place that cannot be written.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"-o {path}: unknown format {path.suffix or '(no suffix)'!r}; allowed: {', '.join(WRITERS)}")
    write_output(path, writer(table).encode())


def _row(record: StoredTrial, rank: int | None) -> dict[str, dict[str, Any]]:
    summary = record.summary if isinstance(record, EndedTrial) else None
    state, value = (record.state, record.value) if isinstance(record, EndedTrial) else ("RUNNING", None)
    metrics = {k: v for k, v in (summary.metrics if summary else {}).items() if k.startswith("val/")}
    return {
        "head": {"rank": rank, "number": record.number, "state": state, "objective": value},
        "metrics": metrics,
        "params": record.params,
        "tail": {
            "parameters": summary.cost.get("parameters") if summary else None,
            "multiply_adds": summary.cost.get("multiply_adds") if summary else None,
            "best_epoch": summary.best_epoch if summary else None,
            "epochs": summary.epochs if summary else None,
            "duration_s": summary.duration_s if summary else None,
            "run_id": summary.run_id if summary else None,
            "started": record.started.astimezone().isoformat(timespec="seconds"),
        },
    }


def _all_integers(values: Any) -> bool:
    present = [value for value in values if value is not None]
    return bool(present) and all(isinstance(value, int) and not isinstance(value, bool) for value in present)
