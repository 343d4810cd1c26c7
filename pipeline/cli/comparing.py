"""The command ``effects``: what each choice is worth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.printing import make_table, print_result
from pipeline.cli.program import JsonOption, NameArgument, command
from pipeline.cli.stored import find_study
from pipeline.home import Home

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.effects import Effects
    from pipeline.results.table import Table


@command(collect=False)
def effects(
    home: Home,
    name: NameArgument,
    by: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Only this key; may be given again.")] = None,
    metric: Annotated[str | None, typer.Option(help="A validation metric. [default: the objective]")] = None,
    margin: Annotated[
        float | None, typer.Option(help="Smaller differences make no difference. [default: 0.1 where the unit is dB]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what each choice is worth, with intervals where the study's design allows a claim."""
    from pipeline.results.effects import effects as find
    from pipeline.results.effects_shown import document
    from pipeline.results.summary import summarise

    search = find_study(home, name)
    summary = summarise(search)
    found = find(summary, search.importances(), by or (), metric, margin)
    print_result(_shown(found), document(name, found), as_json)


def _shown(found: Effects) -> Iterator[RenderableType]:
    from pipeline.results.effects_shown import tables_of, texts_of

    yield from texts_of(found)
    for table in tables_of(found):
        yield f"\n{table.caption}"
        yield _table(table)


def _table(table: Table) -> RenderableType:
    """A table for the terminal, with the units below the headings."""
    headings = [f"{column.heading}\n{column.unit}".rstrip() for column in table.brief]
    right = {heading for heading, column in zip(headings, table.brief, strict=True) if column.kind is not str}
    return make_table(headings, ([column.text(row) for column in table.brief] for row in table.rows), right)
