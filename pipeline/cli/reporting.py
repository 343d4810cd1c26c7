"""The command ``report``: a study's page."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.program import NameArgument, command
from pipeline.cli.stored import find_study
from pipeline.errors import InputError
from pipeline.home import Home
from pipeline.study.reporter import say


@command()
def report(
    home: Home,
    name: NameArgument,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="An .html file. [default: NAME-report.html]", show_default=False),
    ] = None,
    links: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="The MLflow UI that trials link to. [default: http://127.0.0.1:5000, or the server]"
        ),
    ] = None,
) -> None:
    """Write a study's page: one HTML file with its answer, pictures, figures, tables and how to reproduce it."""
    from pipeline.files import check_output, write_output
    from pipeline.results.material import gather
    from pipeline.results.report import LINK_BASE
    from pipeline.results.report import report as page
    from pipeline.results.summary import summarise
    from pipeline.tracking.runs import read_tracking

    base = links or (LINK_BASE if home.local_tracking else home.tracking_shown)
    if not base.startswith(("http://", "https://")):
        raise InputError(f"--links {base}: must be the address of an MLflow UI, such as {LINK_BASE}")
    search = find_study(home, name)
    file = output or Path(f"{name}-report.html")
    check_output(file, [".html", ".htm"])
    summary = summarise(search)
    material = gather(home, search, summary, read_tracking(home, name, search.uid))
    write_output(file, page(summary, material, base).encode())
    say(f"the page of {name}: {file}")
