"""The commands on data sets: ``data list``, ``data verify``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.program import JsonOption, app, command
from pipeline.cli.tables import make_table, print_result
from pipeline.errors import StudyError
from pipeline.home import Home

group = typer.Typer(help="List and verify the data sets.", no_args_is_help=True)
app.add_typer(group, name="data")


@command("list", group)
def list_data(home: Home, as_json: JsonOption = False) -> None:
    """List every data set: state, images, licence, location."""
    from pipeline.config.catalogue import CATALOGUE
    from pipeline.data import verify

    document, rows = [], []
    for entry in CATALOGUE.values():
        found = verify(entry.name, home.data_dir, quick=True)
        document.append(
            {
                "name": entry.name,
                "state": found.state,
                "where": found.places,
                "check": entry.check,
                "images": entry.images,
                "size": entry.size,
                "classes": entry.classes,
                "licence": entry.licence,
            }
        )
        figures = (f"{entry.images:,}", " x ".join(map(str, entry.size)), str(entry.classes))
        rows.append((entry.name, found.state, *figures, entry.licence, entry.check, ", ".join(found.places)))
    headings = ("name", "state", "images", "size", "classes", "licence", "verified by", "where")
    hint = f'data folder: {home.data_dir}; your own pictures: dataset = "folder:PATH"'
    print_result(as_json, document, [make_table(headings, rows, wrap=("where",)), hint])


@command("verify", group)
def verify_data(
    home: Home,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A data set. [default: all]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify the files of the data sets by their hashes.

    Fails where a data set is damaged, or where the one that was named is absent.
    """
    from pipeline.config.catalogue import CATALOGUE
    from pipeline.data import verify

    found = [verify(each, home.data_dir) for each in ([name] if name else CATALOGUE)]
    document, lines = [], []
    for s in found:
        files = [str(path) for path in s.paths]
        document.append({"name": s.name, "state": s.state, "files": files, "remark": s.remark})
        remark = s.remark if s.state == "damaged" or name else ""  # all absent sets lack the same
        lines.append(f"{s.name:16s} {s.state:9s} {remark or '; '.join(s.places)}".rstrip())
    print_result(as_json, document, lines)
    bad = [s.name for s in found if s.state == "damaged" or (name and s.state == "absent")]
    if bad:
        raise StudyError(f"not sound: {', '.join(bad)}")
