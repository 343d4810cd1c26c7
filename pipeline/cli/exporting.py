"""The command ``export``: a study's summary table."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.printing import counted
from pipeline.cli.program import NameArgument, command
from pipeline.cli.stored import find_study
from pipeline.home import Home
from pipeline.study.reporter import say


@command()
def export(
    home: Home,
    name: NameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="A file; .csv, .md, .html or .json.")],
) -> None:
    """Write a study's summary table to a file."""
    from pipeline.results.table import summary_table, write_table

    search = find_study(home, name)
    table = summary_table(search.records(), search.config.objective.direction)
    write_table(table, output)
    say(f"{counted(len(table), 'trial')} of {name} written to {output}")
