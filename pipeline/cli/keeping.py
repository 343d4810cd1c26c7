"""The commands that decide what is kept: ``promote``, ``models``, ``export``, ``delete``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.hints import serve_command
from pipeline.cli.program import JsonOption, NameArgument, command
from pipeline.cli.tables import counted, make_table, print_result
from pipeline.cli.viewing import find_study
from pipeline.errors import InputError
from pipeline.files import check_output
from pipeline.home import Home


@command()
def promote(
    home: Home,
    name: NameArgument,
    trial: Annotated[int | None, typer.Option("--trial", help="A trial other than the best.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote even if a baseline is better; recorded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a study's best model as champion.

    The test split is read once, here; its figures are reported and decide nothing.
    """
    from pipeline.results.promote import promote as promote_trial
    from pipeline.search.studies import load_search

    done = promote_trial(home, name, trial, force)
    metric = load_search(home, name).config.objective.metric
    replaced = f" (before: version {done.replaced})" if done.replaced else ""
    baselines = ", ".join(f"{baseline} {value:.4g}" for baseline, value in done.baselines.items())
    shown = [
        f"{done.model} version {done.version} is champion{replaced}: trial {done.trial} of {name}",
        f"select: {metric} {done.select[metric]:.4g} (baselines: {baselines})",
        "test, read once: " + ", ".join(f"{key} {value:.4g}" for key, value in done.test.items()),
        "note: one seed chosen among many is flattered on validation; the figures on select and test are not",
        f"serve it: {serve_command(home, done.model)}",
    ]
    print_result(as_json, asdict(done), shown)


@command()
def models(home: Home, as_json: JsonOption = False) -> None:
    """List the registered models and their versions."""
    from pipeline.tracking.models import registered

    versions = registered(home)
    tags = ("study.name", "trial.number", "test.psnr", "promoted")
    rows = [(v.model, v.version, ", ".join(v.aliases), *(v.tags.get(tag, "") for tag in tags)) for v in versions]
    table = make_table(("model", "version", "alias", "study", "trial", "test psnr", "promoted"), rows)
    none = "no registered models; promote one with: study promote NAME"
    print_result(as_json, [asdict(version) for version in versions], [table if versions else none])


@command()
def export(
    home: Home,
    name: NameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="A file; .csv, .md, .html or .json.")],
) -> None:
    """Write a study's summary table to a file."""
    from pipeline.results.table import WRITERS, summary_table, write_table

    search = find_study(home, name)
    check_output(output, WRITERS)
    table = summary_table(search.records(), search.config.objective.direction)
    write_table(table, output)
    print(f"{counted(len(table), 'trial')} of {name} written to {output}")


@command()
def delete(
    home: Home,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study.

    Its trials, runs, pictures, models and the versions registered from it cannot be restored.
    """
    from pipeline.study.delete import delete as delete_study
    from pipeline.study.delete import inventory

    found = inventory(home, name)
    versions = ", ".join(
        f"{v.model} version {v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in found.versions
    )
    what = f"study {name} ({counted(found.trials, 'trial')}, {counted(found.runs, 'run')}) with its pictures and models"
    what += f", and the registered {versions}" if versions else ""
    if not yes:
        print(f"This deletes {what}. It cannot be undone.")
        if not sys.stdin.isatty():
            raise InputError("nothing was deleted: no terminal to ask at; --yes deletes without asking")
        if not typer.confirm("Delete it?"):
            raise InputError("nothing was deleted")
    delete_study(home, name)
    print(f"deleted {what}")
