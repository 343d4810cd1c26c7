"""The commands on what a home holds: ``list``, ``show``, ``ui``, ``promote``, ``models``, ``delete``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.printing import called_as, counted, make_table, print_result
from pipeline.cli.program import JsonOption, NameArgument, command
from pipeline.errors import InputError, NotFoundError
from pipeline.home import Home
from pipeline.study.reporter import say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.results.summary import StudySummary
    from pipeline.search.ask_tell import Search


@command("list")
def list_studies(home: Home, as_json: JsonOption = False) -> None:
    """List the studies of a home."""
    from pipeline.search.records import ranked
    from pipeline.search.studies import load_searches

    document, rows = [], []
    for search in load_searches(home):
        config, objective, ended = search.config, search.config.objective, search.told()
        best = next(iter(ranked(search.records(), objective.direction)), None)
        study = {"name": config.name, "dataset": config.dataset, "degrade": config.degrade.kind}
        progress = {"ended": ended, "trials": config.budget.trials, "metric": objective.metric}
        score = {"best": best.value if best else None, "best_trial": best.number if best else None}
        document.append(study | progress | score)
        shown = (f"{objective.metric} {best.value:.4g}", str(best.number)) if best else ("", "")
        rows.append((config.name, config.dataset, config.degrade.kind, f"{ended}/{config.budget.trials}", *shown))
    table = make_table(("study", "data set", "degradation", "trials", "best", "trial"), rows, wrap=("data set",))
    none = f"no studies in {home.path}; start one with: {called_as()} run FILE"
    print_result([table if rows else none], document, as_json)


@command()
def show(
    home: Home,
    name: NameArgument,
    top: Annotated[int, typer.Option(min=1, help="Show the best N trials.")] = 10,
    others: Annotated[bool, typer.Option("--all", help="Show every trial: also pruned, failed, unfinished.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one study: leaderboard with baselines, failures, choices, importances."""
    from pipeline.cli.leaderboard import choices, leaderboard
    from pipeline.results.summary import summarise
    from pipeline.results.table import study_table

    search = find_study(home, name)
    summary, importances = summarise(search), search.importances()
    document = {
        "name": name,
        "config": summary.config.canonical(),
        "trials": study_table(summary).records,
        "baselines": summary.baselines,
        "importances": importances,
        "counts": summary.counts,
        "beating": summary.beating,
        "reasons": {state: summary.reasons(state) for state in ("PRUNED", "FAIL")},
        "answer": summary.answer(),
    }
    shown = leaderboard(summary, len(summary.records) if others else top, others)
    print_result([*shown, *choices(summary), *_importances(summary, importances)], document, as_json)


def _importances(summary: StudySummary, importances: dict[str, float]) -> Iterator[RenderableType]:
    complete = counted(summary.counts["complete"], "complete trial")
    if not importances:
        yield f"\nimportances: none, {complete} are too few or do not differ"
        return
    yield f"\nimportance for {summary.metric}, exploratory (PED-ANOVA on {complete})"
    rows = [(key, f"{share:.1%}") for key, share in importances.items()]
    yield make_table(("parameter", "share"), rows, right=("share",))


@command()
def ui(
    home: Home,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Open at this study.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 5000,
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Serve the MLflow UI on this home, on 127.0.0.1, until Ctrl-C."""
    from pipeline.results.ui import serve

    serve(home, name, port, open_browser)


@command()
def promote(
    home: Home,
    name: NameArgument,
    trial: Annotated[int | None, typer.Option(help="A trial other than the best.")] = None,
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
        "note: the best of many trials looks better on val than it is, since val chose it; select and test did not",
        f"serve it: MLFLOW_TRACKING_URI={shlex.quote(home.tracking_shown)} MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false "
        f"mlflow models serve -m models:/{done.model}@champion --env-manager local --host 127.0.0.1 -p 5001",
    ]
    print_result(shown, asdict(done), as_json)


@command()
def models(home: Home, as_json: JsonOption = False) -> None:
    """List the registered models and their versions."""
    from pipeline.tracking.registry import registered

    versions = registered(home)
    tags = ("study.name", "trial.number", "test.psnr", "promoted")
    rows = [(v.model, v.version, ", ".join(v.aliases), *(v.tags.get(tag, "") for tag in tags)) for v in versions]
    table = make_table(("model", "version", "alias", "study", "trial", "test psnr", "promoted"), rows)
    none = "no registered models; promote one with: study promote NAME"
    print_result([table if versions else none], [asdict(version) for version in versions], as_json)


@command()
def delete(
    home: Home,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study.

    Its trials, runs, pictures, models and the versions registered from it cannot be restored.
    """
    from pipeline.study import delete as deletion

    found = deletion.inventory(home, name)
    versions = ", ".join(
        f"{v.model} version {v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in found.versions
    )
    what = f"study {name} ({counted(found.trials, 'trial')}, {counted(found.runs, 'run')}) with its pictures and models"
    what += f", and the registered {versions}" if versions else ""
    if not yes:
        say(f"This deletes {what}. It cannot be undone.")
        if not sys.stdin.isatty():
            raise InputError("nothing was deleted: no terminal to ask at; --yes deletes without asking")
        if not typer.confirm("Delete it?"):
            raise InputError("nothing was deleted")
    deletion.delete(home, name)
    say(f"deleted {what}")


def find_study(home: Home, name: str) -> Search:
    """A study by its name; where there are only single trainings of that name, the error says so."""
    from pipeline.search.studies import load_search

    try:
        return load_search(home, name)
    except NotFoundError:
        from pipeline.tracking.experiments import experiment_names

        if name not in experiment_names(home):
            raise
        message = f"{name} has single trainings only, no trials; look at them with: study ui {name}"
        raise NotFoundError(message) from None
