"""Tables as files: what is written reads back, whatever texts are in it, and the same table gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from summaries import BASELINES, record, running, summary_of

from pipeline.results.export import FOR_PEOPLE, FORMATS, frame, html_fragment, render
from pipeline.results.table import Column, Table, grouped, study_table

SUMMARY = summary_of(
    [
        record(0, 17.5, loss="bce", lr=1.1621474e-05, width="auto", batch_norm=True, batch_size=32),
        record(1, None, "FAIL", "=loss|is NaN", loss="mse", lr=0.1, width=512, batch_norm=False, batch_size=64),
        record(2, 18.25, loss="l1", lr=0.01, width=512, batch_norm=False, batch_size=32),
        running(3, loss="bce", lr=0.3, width=512, batch_norm=True, batch_size=64),
    ],
    BASELINES,
)
TABLE = study_table(SUMMARY, baselines=True)
TEXTS = st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=4)
HOSTILE = [
    ("=1+1", "@SUM(A1)"),
    ("\t=1", "\r-2+3"),
    ("</td><script>alert(1)</script>", '" onload="x'),
    ("a|b\\|c\\", "**bold** _it_ `code` [x](y) ![i](j) <b> &amp; $x$ # ~~s~~"),
    ("\\input{x} {}%$&#_^~", "``--'' ?` !` ,, --- << \"q\" [h] *"),
    ("\x1b[31mred\x07", "\u202eevil\u2028\x00\x85"),
    ("Zähne/图片 🦷", "http://example.org www.example.org a@b.c :smile:"),
    ("", " padded "),
]


def any_texts(test: Callable[[list[tuple[str, str]]], None]) -> Callable[[], None]:
    """A property of all texts, tried with the hostile ones too."""
    for pair in HOSTILE:
        test = example([pair])(test)
    return given(TEXTS)(test)


def table_of(texts: list[tuple[str, str]]) -> Table:
    """Two columns of text; heading, unit and caption have texts too."""
    columns = (
        Column("first", texts[0][0], f"unit {texts[0][1]}", brief=True),
        Column("reason", "reason", brief=True),
    )
    rows = tuple({"first": first, "reason": second} for first, second in texts)
    return Table(columns, rows, f"study {texts[0][1]}")


def escaped(text: str) -> str:
    """A text as tables for people and csv have it: on one line, control characters as Python writes them."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def cells(table: Table) -> list[list[str]]:
    """What people read in the rows of a table."""
    return [[escaped(column.text(row)) for column in table.brief] for row in table.rows]


# --- for programs -------------------------------------------------------------------------------------------------


def test_csv_json_and_parquet_hold_every_column_with_every_digit() -> None:
    records = TABLE.records
    read = json.loads(render(TABLE, "json"))
    assert read == records
    [head, *rows] = csv.reader(io.StringIO(render(TABLE, "csv").decode()))
    assert head == [column.key for column in TABLE.columns]
    for row, expected in zip(rows, records, strict=True):
        for key, cell in zip(head, row, strict=True):
            value = expected[key]
            assert cell == ("" if value is None else f"'{value}" if str(value).startswith("=") else str(value)), key
    parquet = pd.read_parquet(io.BytesIO(render(TABLE, "parquet")))
    pd.testing.assert_frame_equal(parquet, frame(TABLE), check_exact=True)


def test_columns_of_a_data_frame_have_the_types_of_their_values() -> None:
    data = frame(TABLE)
    types = {key: str(kind) for key, kind in data.dtypes.items()}
    assert types["rank"] == types["batch_size"] == types["parameters"] == "Int64"
    assert types["objective"] == types["lr"] == types["val/ssim"] == "float64"
    assert types["batch_norm"] == "boolean"
    assert types["loss"] == types["width"] == types["baseline"] == "str"
    assert data["width"].tolist()[0] == "512"
    assert str(frame(study_table(SUMMARY, top=1)).dtypes["batch_norm"]) == "boolean"
    assert len(frame(study_table(summary_of([])))) == 0


def test_json_has_no_nan_and_no_infinity() -> None:
    columns = (Column("x", "x", kind=float),)
    rows = tuple({"x": value} for value in (math.nan, math.inf, -math.inf, 1e300))
    assert json.loads(render(Table(columns, rows), "json")) == [{"x": None}, {"x": None}, {"x": None}, {"x": 1e300}]


@any_texts
def test_any_text_in_csv_stays_one_cell_that_no_spreadsheet_calculates(texts: list[tuple[str, str]]) -> None:
    content = render(table_of(texts), "csv").decode()
    _, *rows = csv.reader(io.StringIO(content, newline=""))
    assert len(content.splitlines()) == len(texts) + 1
    for row, pair in zip(rows, texts, strict=True):
        for cell, text in zip(row, pair, strict=True):
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
            assert cell == ("'" if escaped(text).startswith(("=", "+", "-", "@")) else "") + escaped(text)


@any_texts
def test_any_text_in_json_and_parquet_is_itself(texts: list[tuple[str, str]]) -> None:
    table = table_of(texts)
    assert json.loads(render(table, "json")) == table.records
    assert render(table, "json").isascii()  # also on a terminal
    assert pd.read_parquet(io.BytesIO(render(table, "parquet"))).to_dict("records") == table.records


# --- for people ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The cells of a page's table row by row, and every tag on the page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[str] = []
        self.attributes: dict[str, set[str]] = {}
        self.caption, self._in = "", ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, set()).add(value or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("td", "th", "caption"):
            self._in = tag

    def handle_endtag(self, tag: str) -> None:
        self._in = "" if tag == self._in else self._in

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self.caption += data
        elif self._in:
            self.rows[-1][-1] += data


def markdown(content: str) -> tuple[list[list[str]], str]:
    """The cells of a Markdown table row by row and the paragraph below it, as a reader sees them."""
    rows: list[list[str]] = []
    below = ""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(content)
    for before, token in pairwise(tokens):
        if before.type == "tr_open":
            rows.append([])
        if token.type != "inline":
            continue
        plain = "".join(part.content for part in token.children or ())
        assert {part.type for part in token.children or ()} <= {"text", *MARKS}, token.content
        if before.type == "paragraph_open":
            below += plain
        else:
            rows[-1].append(plain)
    return rows, below


MARKS = {"strong_open", "strong_close", "em_open", "em_close"}
TEX_WORDS = {
    "textbackslash{}": "\\",
    "textasciitilde{}": "~",
    "textasciicircum{}": "^",
    "textbar{}": "|",
    "textless{}": "<",
    "textgreater{}": ">",
    "textsuperscript{2}": "²",
}


def tex(content: str) -> tuple[list[list[str]], str]:
    """The cells of a LaTeX table row by row and its caption; fails at anything else that LaTeX would act on."""
    found = re.fullmatch(
        r"% needs [^\n]*\n\\begin\{table\}\n\\centering\n(?:\\caption\{(.*)\}\n)?\\medskip\n\\resizebox\{[^\n]*\{%\n"
        r"\\begin\{tabular\}\{([lr]*)\}\n\\toprule\n(.*)\\midrule\n(.*)\\bottomrule\n\\end\{tabular\}\}\n\\end\{table\}\n",
        content,
        re.DOTALL,
    )
    assert found, content
    caption, sides, head, body = found.groups()
    rows = []
    for line in (head + body).splitlines():
        assert line.endswith(" \\\\"), line
        row = [plain_tex(cell.strip(" ")) for cell in re.split(r"(?<!\\)&", line.removesuffix(" \\\\"))]
        assert len(row) == len(sides)
        rows.append(row)
    return rows, plain_tex(caption or "")


def plain_tex(text: str) -> str:
    """What LaTeX prints of a text; fails at a command, a group or a sign that is not a text's."""
    text = re.sub(r"^\\(?:textbf|emph)\{(.*)\}$", r"\1", text)
    text = re.sub(r"\$-\$", "-", text)
    text = re.sub(r"\$\\times 10\^\{(-?\d+)\}\$", lambda m: f"e{int(m[1]):+03d}", text)
    text = re.sub(r"([-,])\{\}(?=[-,])", r"\1", text)
    pattern = re.compile(r"\\(text[a-z]+\{2?\})|\\([{}$&#_%])|\{([`'\[\]*\"])\}|([^\\{}$&#_%^~`'\[\]*\"<>|])")
    printed, at = "", 0
    while at < len(text):
        found = pattern.match(text, at)
        assert found, text[at:]
        word, sign, held, plain = found.groups()
        printed += TEX_WORDS[word] if word else sign or held or plain
        at = found.end()
    assert not re.search(r"--|,,", re.sub(r"\{\}", "#", "")), text
    return printed


def named(text: str) -> str:
    """A text as LaTeX tables have it: signs that it may lack by their numbers."""
    known = "ÀÁÂÃÄÅÇÈÉÊËÌÍÎÏÑÒÓÔÕÖÙÚÛÜÝàáâãäåçèéêëìíîïñòóôõöùúûüýÿßæøÆØ²"
    return "".join(sign if sign.isascii() or sign in known else f"U+{ord(sign):04X}" for sign in text)


@any_texts
def test_any_text_in_html_is_text(texts: list[tuple[str, str]]) -> None:
    table = table_of(texts)
    plain = Page(render(table_of([("a", "b")] * len(texts)), "html").decode())
    page = Page(render(table, "html").decode())
    assert page.tags == plain.tags
    assert page.attributes == plain.attributes
    assert page.rows[1:] == cells(table)
    assert page.caption == escaped(table.caption)


@any_texts
def test_any_text_in_markdown_is_text(texts: list[tuple[str, str]]) -> None:
    table = table_of(texts)
    (_, *rows), below = markdown(render(table, "md").decode())
    assert rows == [[cell.strip() for cell in row] for row in cells(table)]
    assert below == escaped(table.caption).strip()


@any_texts
def test_any_text_in_latex_is_text(texts: list[tuple[str, str]]) -> None:
    table = table_of(texts)
    rows, caption = tex(render(table, "tex").decode())
    assert rows[-len(texts) :] == [[named(cell).strip(" ") for cell in row] for row in cells(table)]
    assert caption == named(escaped(table.caption))


READERS = {
    "html": lambda content: Page(content).rows,
    "md": lambda content: markdown(content)[0],
    "tex": lambda content: tex(content)[0],
}


@pytest.mark.parametrize("form", FOR_PEOPLE)
def test_people_get_the_usual_columns_with_fixed_decimals_and_units(form: str) -> None:
    head, *rows = READERS[form](render(TABLE, form).decode())
    if form == "tex":  # units have a row of their own
        head = [f"{name} {unit}".strip() for name, unit in zip(head, rows.pop(0), strict=True)]
    assert [" ".join(re.findall(r"\w+", text.replace("dB", " dB"))) for text in head][:4] == [
        "rank",
        "trial",
        "state",
        "psnr dB",
    ]
    assert rows[0][:5] == ["1", "2", "complete", "18.25", "0.1825"]
    assert rows[1][:5] == ["2", "0", "complete", "17.50", "0.1750"]
    assert rows[2][:5] == ["", "linear", "baseline", "17.00", "0.9000"]
    assert "1.16e-05" in rows[1]
    assert {row[2] for row in rows[4:]} == {"failed", "unfinished"}
    assert not [cell for row in rows for cell in row if cell.lower() in ("nan", "none", "<na>")]


@pytest.mark.parametrize(
    ("form", "bold"), [("md", "**18.25**"), ("tex", r"\textbf{18.25}"), ("html", "<strong>18.25</strong>")]
)
def test_the_best_of_each_metric_is_bold_and_baselines_are_set_apart(form: str, bold: str) -> None:
    content = render(TABLE, form).decode()
    assert bold in content
    assert bold.replace("18.25", "0.9000") in content  # a baseline's
    assert len(re.findall(re.escape(bold).replace(r"18\.25", r"[\d.]+"), content)) == 3  # psnr, ssim, sharpness
    assert {"md": "*linear*", "tex": r"\emph{linear}", "html": '<tr class="baseline">'}[form] in content


def test_a_page_is_self_contained_and_a_fragment_is_the_table_alone() -> None:
    content = render(TABLE, "html").decode()
    page = Page(content)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not re.search(r"https?:|url\(|@import", content)
    fragment = html_fragment(TABLE, {2: 'http://127.0.0.1/#/?a="1"&b'})
    assert fragment in content.replace(">2</th>", '><a href="http://127.0.0.1/#/?a=&quot;1&quot;&amp;b">2</a></th>', 1)
    assert Page(fragment).attributes["href"] == {'http://127.0.0.1/#/?a="1"&b'}
    assert fragment.startswith("<table>")


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_study_gives_the_same_bytes(form: str) -> None:
    again = study_table(summary_of(list(SUMMARY.records), dict(reversed(BASELINES.items()))), baselines=True)
    assert render(again, form) == render(TABLE, form)
    assert render(grouped(SUMMARY, "loss"), form) == render(grouped(SUMMARY, "loss"), form)


@pytest.mark.parametrize("form", FORMATS)
def test_an_empty_table_and_one_of_groups_can_be_written(form: str) -> None:
    assert render(study_table(summary_of([])), form)
    assert render(replace(grouped(SUMMARY, "loss"), caption=""), form)


def has_booktabs() -> bool:
    found = shutil.which("pdflatex") and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).stdout
    return bool(found)


@pytest.mark.skipif(not has_booktabs(), reason="needs pdflatex with booktabs")
def test_latex_compiles(tmp_path: Path) -> None:
    tables = [TABLE, grouped(SUMMARY, "loss"), *(table_of([pair]) for pair in HOSTILE)]
    body = "".join(render(table, "tex").decode() for table in tables)
    head = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    (tmp_path / "page.tex").write_text(f"{head}{body}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env={**os.environ, "TEXMFVAR": str(tmp_path)})
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
    assert (tmp_path / "page.pdf").stat().st_size > 0
