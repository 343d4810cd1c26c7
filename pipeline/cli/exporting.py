"""The command ``export``: a study's table, in a file or on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.printing import counted
from pipeline.cli.program import NameArgument, command
from pipeline.cli.stored import find_study
from pipeline.errors import InputError
from pipeline.home import Home
from pipeline.study.reporter import say, standard_output

Format = Literal["csv", "md", "tex", "html", "json", "parquet"]


@command(collect=False)
def export(
    home: Home,
    name: NameArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file. [default: standard output]", show_default=False)
    ] = None,
    form: Annotated[Format | None, typer.Option("--format", help="[default: the file's suffix, or csv]")] = None,
    columns: Annotated[str | None, typer.Option(help="Columns in their order, such as rank,number,objective.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Only the best N trials.", metavar="N")] = None,
    state: Annotated[str | None, typer.Option(help="Only trials in these states, such as complete,pruned.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="KEY", help="One row per value of a searched key: n, mean, sd, best.")
    ] = None,
    baselines: Annotated[
        bool | None, typer.Option("--baselines/--no-baselines", help="Rows for the baselines. [default: md, tex, html]")
    ] = None,
) -> None:
    """Write a study's summary table to a file or to standard output."""
    from pipeline.files import check_output, write_output
    from pipeline.results.export import FOR_PEOPLE, FORMATS, render
    from pipeline.results.summary import summarise
    from pipeline.results.table import grouped, study_table

    if by is not None and (top, state, baselines) != (None, None, None):
        raise InputError("--by summarises all complete trials: leave out --top, --state and --baselines")
    search = find_study(home, name)
    chosen = form or ("csv" if output is None else output.suffix.lower().removeprefix("."))
    if output is not None:
        suffix = output.suffix.lower()
        if form is not None and suffix not in ("", f".{form}"):
            raise InputError(f"-o {output} contradicts --format {form}; allowed: .{form}, or no suffix")
        check_output(output, [suffix] if form else [f".{allowed}" for allowed in FORMATS])
    elif chosen == "parquet" and sys.stdout.isatty():
        raise InputError("parquet is not text; write it to a file with -o, or choose another --format")

    summary, keys, states = summarise(search), _listed(columns), _listed(state)
    if by is not None:
        table = grouped(summary, by)
        table = table if keys is None else table.select(keys)
    else:
        with_baselines = chosen in FOR_PEOPLE and not state if baselines is None else baselines
        table = study_table(summary, columns=keys, top=top, state=states, baselines=with_baselines)
    content = render(table, chosen)
    if output is not None:
        write_output(output, content)
        say(f"{counted(len(table.rows), 'row')} of {name} written to {output}")
        return
    with standard_output():
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _listed(text: str | None) -> list[str] | None:
    """The names in an option that takes several."""
    return None if text is None else [name.strip() for name in text.split(",")]
