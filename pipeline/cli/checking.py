"""The commands that check runs, homes and data sets: ``reproduce``, ``doctor``, ``data list``, ``data verify``."""

from typing import Annotated

import typer

from pipeline.cli.printing import Column, counted, fitted, print_result
from pipeline.cli.program import JsonOption, RunArgument, StudyOption, app, command
from pipeline.errors import InputError, StudyError
from pipeline.home import Home
from pipeline.study.reporter import say

SHOWN = 10  # differing figures that `reproduce` prints

data_commands = typer.Typer(help="List and verify the data sets.", no_args_is_help=True)
app.add_typer(data_commands, name="data")


@command()
def reproduce(home: Home, run: RunArgument, study: StudyOption = None) -> None:
    """Train a recorded trial again and compare every metric."""
    from pipeline.results.lookup import find_run
    from pipeline.results.reproduce import reproduce as train_again

    done = train_again(home, find_run(home, run, study))
    if done.reconstructed:
        say("the run was lost and rebuilt by doctor: for most epochs it has the objective only")
    if done.identical:
        say(f"identical: {done.compared} figures of {done.epochs} epochs of {done.run}")
        if done.failure:
            say(f"it failed as recorded: {done.failure[0]}")
        return
    differ = f"{len(done.differences)} of {done.compared} figures of {done.run} differ"
    say(differ + (":" if done.differences else ""))
    for (epoch, metric), (recorded, now) in list(done.differences.items())[:SHOWN]:
        say(f"  epoch {epoch} {metric}: recorded {recorded}, now {now}")
    if done.failure:
        say(f"  failure: recorded {done.failure[0]!r}, now {done.failure[1]!r}")
    for line in done.surroundings or ["versions, hardware and code are the same as recorded"]:
        say(f"  {line}")
    raise StudyError(f"{done.run} was not reproduced")


@command()
def doctor(
    home: Home,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Runs that MLflow lost for good may be trained again.")
    ] = False,
    adopt: Annotated[bool, typer.Option("--adopt", help="First make a copied home a home of its own.")] = False,
) -> None:
    """Find where Optuna, MLflow, checkpoints and artifacts disagree."""
    from pipeline.study.doctor.examine import adopt_home, examine_home
    from pipeline.study.lines import PlainLines

    if retrain and not repair:
        raise InputError("--retrain: goes with --repair")
    if adopt:
        adopt_home(home)
        say(f"{home.path}: is a home of its own now")
    if repair:
        home.check_writable()
    found, repairable = 0, 0
    for name, finding in examine_home(home, PlainLines(), retrain):
        found += 1
        repairable += finding.repair is not None
        if finding.repair is None:
            say(f"{name}: {finding.text} (cannot be repaired here)")
        elif repair:
            finding.repair()
            say(f"{name}: repaired: {finding.text}")
        else:
            say(f"{name}: {finding.text}")
    if not found:
        say(f"{home.path}: all is well")
    left = found - repairable if repair else found
    if left:
        which = "them" if repairable == found else f"{repairable} of them"
        hint = f"; `study doctor --repair` repairs {which}" if repairable and not repair else ""
        raise StudyError(counted(left, "finding") + hint)


@command("list", data_commands)
def list_data(home: Home, as_json: JsonOption = False) -> None:
    """List every data set: state, images, licence, location."""
    from pipeline.config.catalogue import CATALOGUE
    from pipeline.data import verify

    document, rows = [], []
    for entry in CATALOGUE.values():
        found = verify(entry.name, home.data_dir, quick=True)
        state = {"name": entry.name, "state": found.state, "where": found.places, "check": entry.check}
        size = {"images": entry.images, "size": entry.size, "classes": entry.classes}
        document.append(state | size | {"licence": entry.licence})
        figures = (f"{entry.images:,}", " x ".join(map(str, entry.size)), str(entry.classes))
        rows.append((entry.name, found.state, *figures, entry.licence, entry.check, ", ".join(found.places)))
    headings = ("name", "state", "images", "size", "classes", "licence", "verified by", "where")
    columns = [
        Column(heading, cells, left=heading not in ("images", "classes"))
        for heading, *cells in zip(headings, *rows, strict=True)
    ]
    hint = f'data folder: {home.data_dir}; your own pictures: dataset = "folder:PATH"'
    print_result([*fitted(columns, ("name", "state", "where")), hint], document, as_json)


@command("verify", data_commands)
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

    document, lines, bad = [], [], []
    for s in [verify(each, home.data_dir) for each in ([name] if name else CATALOGUE)]:
        document.append({"name": s.name, "state": s.state, "files": list(map(str, s.paths)), "remark": s.remark})
        remark = s.remark if s.state == "damaged" or name else ""  # all absent sets lack the same
        lines.append(f"{s.name:16s} {s.state:9s} {remark or '; '.join(s.places)}".rstrip())
        if s.state == "damaged" or (name and s.state == "absent"):
            bad.append(s.name)
    print_result(lines, document, as_json)
    if bad:
        raise StudyError(f"not sound: {', '.join(bad)}")
