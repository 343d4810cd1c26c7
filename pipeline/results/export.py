"""Tables as files: for programs csv, json and parquet with every digit, for people md, tex and html.

Comes in: a `Table`. Goes out: bytes, the same for the same table, in which no text can be read as anything but text.
Imports no torch, and pandas only for parquet and data frames.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from pipeline.results.table import BASELINE, Cell, Column, Table
from pipeline.study.reporter import md_text, one_line

if TYPE_CHECKING:
    import pandas as pd

FORMULA = ("=", "+", "-", "@")  # a spreadsheet calculates a cell that begins so; `one_line` escapes tab and CR
FRAME_TYPES = {bool: "boolean", int: "Int64", float: "float64", str: "str"}

TEX_SIGNS = {
    **{sign: f"\\{sign}" for sign in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "²": r"\textsuperscript{2}",
    **{sign: f"{{{sign}}}" for sign in "`'[]*\""},  # no ligature, and no option of the line end before
}
TEX_LETTERS = "ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöùúûüýÿßæøÆØ"  # every LaTeX has these

STYLE = """\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; }
div { overflow-x: auto; }
table { border-spacing: 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .8em; overflow-wrap: anywhere; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 3rem); }
tr { background: Canvas; }
tbody th { font-weight: normal; }
.trial { position: sticky; left: 0; background: inherit; }
th, td { padding: .3em .6em; text-align: left; white-space: nowrap; border-bottom: 1px solid #8886; }
thead th { vertical-align: bottom; }
th small { display: block; font-weight: normal; opacity: .8; }
.n { text-align: right; }
.baseline, tbody tr:hover { background: color-mix(in srgb, Canvas 87%, gray); }
.baseline { font-style: italic; }
@media (max-width: 40rem) {
  body { font-size: 13px; margin: .8rem; }
  th, td { padding: .3em .45em; }
}
@media print {
  body { font-size: 8pt; margin: 0; }
  div { overflow: visible; }
  th, td { padding: .15em .4em; white-space: normal; }
  tr { break-inside: avoid; }
}
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<div>
{table}</div>
</body>
</html>
"""


def render(table: Table, form: str) -> bytes:
    """The table as a file of one of `FORMATS`: every column for programs, the usual or chosen ones for people."""
    return FORMATS[form](table)


def frame(table: Table) -> pd.DataFrame:
    """All columns of the table as a pandas data frame; a missing whole number or boolean is ``pd.NA``."""
    import pandas as pd

    def values(column: Column) -> list[Cell]:
        cells = [row.get(column.key) for row in table.rows]
        return [None if cell is None else str(cell) for cell in cells] if column.kind is str else cells

    series = {c.key: pd.Series(values(c), dtype=FRAME_TYPES[c.kind]) for c in table.columns}
    return pd.DataFrame(series, columns=[column.key for column in table.columns])


def html_fragment(table: Table, links: Mapping[int, str] | None = None) -> str:
    """The ``<table>`` alone. The best of each column is bold, baselines have the class ``baseline``.

    Args:
        links: addresses by trial number.
    """
    best = {column.key: table.best(column) for column in table.brief}

    def tag(column: Column, name: str, content: str, more: str = "") -> str:
        kind = ' class="n trial"' if column.key == "number" else ' class="n"' if _right(column) else ""
        return f"<{name}{kind}{more}>{content}</{name}>"

    def cell(index: int, row: Mapping[str, Cell], column: Column) -> str:
        content = escape(one_line(column.text(row)))
        if column.key == "number":
            number = row.get("number")
            if links and isinstance(number, int) and number in links:
                content = f'<a href="{escape(links[number])}">{content}</a>'
            return tag(column, "th", content, ' scope="row"')
        return tag(column, "td", f"<strong>{content}</strong>" if index in best[column.key] else content)

    def head(column: Column) -> str:
        unit = f"<small>{escape(column.unit)}</small>" if column.unit else ""
        return tag(column, "th", escape(one_line(column.heading)) + unit, ' scope="col"')

    lines = [f"<caption><span>{escape(one_line(table.caption))}</span></caption>"] if table.caption else []
    lines.append(f"<thead><tr>{''.join(head(column) for column in table.brief)}</tr></thead>\n<tbody>")
    for index, row in enumerate(table.rows):
        kind = ' class="baseline"' if _is_baseline(row) else ""
        lines.append(f"<tr{kind}>{''.join(cell(index, row, column) for column in table.brief)}</tr>")
    return "\n".join(["<table>", *lines, "</tbody>", "</table>\n"])


def _html(table: Table) -> bytes:
    return PAGE.format(title=escape(one_line(table.caption)), style=STYLE, table=html_fragment(table)).encode()


def _csv(table: Table) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_csv_cell(column.key) for column in table.columns)
    writer.writerows([_csv_cell(cell) for cell in row.values()] for row in table.records)
    return text.getvalue().encode()


def _csv_cell(cell: Cell) -> Cell:
    """A text on one line that no spreadsheet calculates; anything else as it is, with NaN as a missing value."""
    if not isinstance(cell, str):
        return None if cell != cell else cell
    text = one_line(cell)
    return f"'{text}" if text.startswith(FORMULA) else text


def _json(table: Table) -> bytes:
    rows = [
        {key: None if isinstance(cell, float) and not math.isfinite(cell) else cell for key, cell in row.items()}
        for row in table.records
    ]
    return (json.dumps(rows, indent=2, allow_nan=False) + "\n").encode()


def _parquet(table: Table) -> bytes:
    file = io.BytesIO()
    frame(table).to_parquet(file, engine="pyarrow", index=False)
    return file.getvalue()


def _markdown(table: Table) -> bytes:
    heads = [md_text(column.heading) + (f" ({md_text(column.unit)})" if column.unit else "") for column in table.brief]
    lines = _texts(table, md_text, "**{}**".format, "*{}*".format)
    widths = [max(map(len, [head, *cells, "--:"])) for head, *cells in zip(heads, *lines, strict=True)]
    rights = [_right(column) for column in table.brief]

    def line(cells: Iterable[str]) -> str:
        sides = zip(cells, widths, rights, strict=True)
        return f"| {' | '.join(cell.rjust(width) if right else cell.ljust(width) for cell, width, right in sides)} |\n"

    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, rights, strict=True)]
    text = "".join(map(line, [heads, rule, *lines]))
    return (text + (f"\n{md_text(table.caption)}\n" if table.caption else "")).encode()


def _tex(table: Table) -> bytes:
    heads = [_tex_text(column.heading) for column in table.brief]
    units = [f"({_tex_text(column.unit)})" if column.unit else "" for column in table.brief]
    sides = "".join("r" if _right(column) else "l" for column in table.brief)
    rows = _texts(table, _tex_text, "\\textbf{{{}}}".format, "\\emph{{{}}}".format)
    lines = [
        "% needs \\usepackage{booktabs,graphicx}; the table is scaled down where it is wider than the text",
        "\\begin{table}",
        "\\centering",
        *([f"\\caption{{{_tex_text(table.caption)}}}"] if table.caption else []),
        "\\medskip",
        "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%",
        f"\\begin{{tabular}}{{{sides}}}",
        "\\toprule",
        *(f"{' & '.join(cells)} \\\\" for cells in [heads, *([units] if any(units) else [])]),
        "\\midrule",
        *(f"{' & '.join(cells)} \\\\" for cells in rows),
        "\\bottomrule",
        "\\end{tabular}}",
        "\\end{table}\n",
    ]
    return "\n".join(lines).encode()


FORMATS: dict[str, Callable[[Table], bytes]] = {
    "csv": _csv,
    "md": _markdown,
    "tex": _tex,
    "html": _html,
    "json": _json,
    "parquet": _parquet,
}
FOR_PEOPLE = ("md", "tex", "html")


def _texts(
    table: Table, escaped: Callable[[str], str], bold: Callable[[str], str], slanted: Callable[[str], str]
) -> list[list[str]]:
    """The cells for people: escaped, the best of each column bold, a baseline's name slanted."""
    best = {column.key: table.best(column) for column in table.brief}

    def cell(index: int, row: Mapping[str, Cell], column: Column) -> str:
        text = escaped(column.text(row))
        if index in best[column.key]:
            return bold(text)
        return slanted(text) if text and column.key == "number" and _is_baseline(row) else text

    return [[cell(index, row, column) for column in table.brief] for index, row in enumerate(table.rows)]


def _tex_text(text: str) -> str:
    """A text without meaning in LaTeX; a letter that not every LaTeX has is named by its number."""
    number = re.fullmatch(r"(-?)([0-9.,]+)(?:e([+-])0*([0-9]+))?", text)
    if number:
        minus, digits, sign, power = number.groups()
        times = f"$\\times 10^{{{sign.strip('+')}{power}}}$" if power else ""
        return f"{'$-$' if minus else ''}{digits}{times}"
    escaped = "".join(
        TEX_SIGNS.get(sign, sign if sign.isascii() or sign in TEX_LETTERS else f"U+{ord(sign):04X}")
        for sign in one_line(text)
    )
    return re.sub(r"([-,])(?=\1)", r"\1{}", escaped)  # two in a row would be another sign


def _right(column: Column) -> bool:
    return column.kind in (int, float)


def _is_baseline(row: Mapping[str, Cell]) -> bool:
    return row.get("state") == BASELINE
