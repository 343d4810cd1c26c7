"""The commands that show what a home holds: ``list``, ``show``, ``ui``. They load no torch and change nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.hints import called_as
from pipeline.cli.program import JsonOption, NameArgument, command
from pipeline.cli.tables import leaderboard, make_table, print_result
from pipeline.errors import NotFoundError
from pipeline.home import Home

if TYPE_CHECKING:
    from pipeline.search.ask_tell import Search


@command("list")
def list_studies(home: Home, as_json: JsonOption = False) -> None:
    """List the studies of a home."""
    from pipeline.search.records import ranked
    from pipeline.search.studies import load_searches

    document, rows = [], []
    for search in load_searches(home):
        config = search.config
        best = next(iter(ranked(search.records(), config.objective.direction)), None)
        study = {
            "name": config.name,
            "dataset": config.dataset,
            "degrade": config.degrade.kind,
            "ended": search.told(),
            "trials": config.budget.trials,
            "metric": config.objective.metric,
            "best": best.value if best else None,
            "best_trial": best.number if best else None,
        }
        document.append(study)
        score = (f"{config.objective.metric} {best.value:.4g}", str(best.number)) if best else ("", "")
        rows.append((config.name, config.dataset, config.degrade.kind, f"{study['ended']}/{study['trials']}", *score))
    table = make_table(("study", "data set", "degradation", "trials", "best", "trial"), rows, wrap=("data set",))
    none = f"no studies in {home.path}; start one with: {called_as()} run FILE"
    print_result(as_json, document, [table if rows else none])


@command()
def show(home: Home, name: NameArgument, as_json: JsonOption = False) -> None:
    """Show one study: leaderboard, baselines, failures, importances."""
    from pipeline.results.table import summary_rows
    from pipeline.search.records import ended

    search = find_study(home, name)
    config, records = search.config, search.records()
    baselines, importances = search.baselines, search.importances()
    document = {
        "name": name,
        "config": config.canonical(),
        "trials": summary_rows(records, config.objective.direction),
        "baselines": baselines,
        "importances": importances,
    }
    lines = [f"trial {r.number} failed: {r.summary.reason}" for r in ended(records) if r.state == "FAIL"]
    if importances:
        lines.append(f"\nimportance for {config.objective.metric} (PED-ANOVA)")
        lines += [f"  {key:16s} {share:5.1%} {'█' * round(40 * share)}" for key, share in importances.items()]
        left_out = [key for key in config.space.searched() if key not in importances]
        if left_out:
            lines.append(f"  not compared, because some complete trials do not have them: {', '.join(left_out)}")
    print_result(as_json, document, [*leaderboard(config, records, baselines), *lines])


@command()
def ui(
    home: Home,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Open at this study.")] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 5000,
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """Serve the MLflow UI on this home, on 127.0.0.1, until Ctrl-C."""
    from pipeline.results.ui import serve

    serve(home, name, port, open_browser)


def find_study(home: Home, name: str) -> Search:
    """A study by its name.

    Raises:
        NotFoundError: there is none; the message says so where there are only single trainings of that name.
    """
    from pipeline.search.studies import load_search

    try:
        return load_search(home, name)
    except NotFoundError:
        from pipeline.tracking.store import experiment_names

        if name not in experiment_names(home):
            raise
        raise NotFoundError(
            f"{name} has single trainings only, no trials; look at them with: study ui {name}"
        ) from None
