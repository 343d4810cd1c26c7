"""The command ``restore``: a registered model restores the user's own pictures."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.printing import counted, print_result
from pipeline.cli.program import JsonOption, command
from pipeline.errors import StudyError
from pipeline.home import Home
from pipeline.study.reporter import one_line, say


@command()
def restore(
    home: Home,
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A registered model: NAME (its champion), NAME@ALIAS or NAME/VERSION."),
    ],
    pictures: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files, or folders of them.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The folder of the results.")],
    degrade: Annotated[
        bool, typer.Option("--degrade", help="The pictures are clean: apply the study's degradation first.")
    ] = False,
    invert: Annotated[
        bool, typer.Option("--invert", help="Exchange light and dark first, as for ink on paper.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Restore pictures of your own with a registered model.

    A picture becomes greyscale. It is scaled until it fits whole into the model's size, its aspect kept, and centred;
    the rest gets the median grey of its edge. So a photo becomes as small as the model's images, a picture of their
    size stays as it is, and dark on light stays so: give --invert if the model knows light on dark.

    For super-resolution the picture is the small one. With --degrade it is the clean one, and its noise is the same
    in every call.

    Of a.png, DIR gets a-restored.png and a-before-after.png. Files that are no pictures, broken or huge are named and
    skipped; the exit code is then 1. No file is replaced.
    """
    from pipeline.results.restore import Skipped, load_for_restoring, restore_files

    restorer = load_for_restoring(home, model, degrade, invert)
    done: list[dict[str, Any]] = []
    skipped: list[dict[str, Any]] = []
    for each in restore_files(restorer, pictures, output):
        entry = {key: str(value) for key, value in asdict(each).items()}
        if isinstance(each, Skipped):
            print(f"skipped {one_line(str(each.picture))}: {one_line(each.reason)}", file=sys.stderr)
            skipped.append(entry)
            continue
        done.append(entry)
        if not as_json:
            say(f"{one_line(str(each.picture))}: {one_line(str(each.restored))}")
    version = {"model": restorer.version.model, "version": restorer.version.version}
    print_result([], version | {"restored": done, "skipped": skipped}, as_json)
    if skipped:
        raise StudyError(f"{counted(len(skipped), 'file')} of {len(done) + len(skipped)} skipped")
