"""The commands on what a home holds: ``list``, ``show``, ``ui``, ``promote``, ``models``, ``delete``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.printing import Column, called_as, counted, fitted, make_table, minute, mlflow_command, print_result
from pipeline.cli.program import JsonOption, NameArgument, command
from pipeline.errors import GateError, InputError, NotFoundError
from pipeline.home import Home
from pipeline.study.reporter import say

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.evaluation.intervals import Interval
    from pipeline.results.gate import Verdict
    from pipeline.results.lookup import StoredTraining
    from pipeline.results.replication import Optimism
    from pipeline.results.summary import StudySummary
    from pipeline.search.ask_tell import Search

TrainingsOption = Annotated[bool, typer.Option("--trainings", help="Also show single trainings.")]


@command("list", collect=False)
def list_studies(home: Home, with_trainings: TrainingsOption = False, as_json: JsonOption = False) -> None:
    """List the studies of a home."""
    from pipeline.cli.leaderboard import training_table
    from pipeline.results.summary import summarise
    from pipeline.search.studies import load_searches
    from pipeline.study.lines import measured

    document: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for search in load_searches(home):
        summary = summarise(search)
        config, best, of = summary.config, summary.best, summary.config.budget.trials
        ended, active = len(summary.ended), _last_activity(search, summary)
        state = _state(home, summary)
        study = {"name": config.name, "dataset": config.dataset, "degrade": config.degrade.kind}
        progress = {"ended": ended, "trials": of, "metric": summary.metric, "state": state}
        score = {"best": best.value if best else None, "best_trial": best.number if best else None}
        document.append(study | progress | score | {"active": active.isoformat(timespec="seconds")})
        shown = (measured(summary.metric, summary.value(best)), str(best.number)) if best else ("", "")
        what = (config.degrade.kind, config.dataset)
        rows.append((config.name, f"{ended}/{of}", state, *shown, minute(active), *what))
    headings = ("study", "ended", "state", "best", "trial", "last active", "degradation", "data set")
    columns = [
        Column(heading, cells, left=heading not in ("ended", "best", "trial"))
        for heading, *cells in zip(headings, *rows, strict=True)
    ]
    none = f"no studies in {home.path}; start one with: {called_as()} run FILE"
    parts: list[RenderableType] = [*fitted(columns)] if rows else [none]
    if with_trainings:
        from pipeline.results.lookup import trainings

        found = trainings(home)
        document += [{"training": training.name, **_training(training)} for training in found]
        parts += training_table(found, studies=True) if found else ["no single trainings"]
    print_result(parts, document, as_json)


@command(collect=False)
def show(
    home: Home,
    name: NameArgument,
    top: Annotated[int, typer.Option(min=1, help="Show the best N trials.")] = 10,
    others: Annotated[bool, typer.Option("--all", help="Show every trial: also pruned, failed, unfinished.")] = False,
    with_front: Annotated[
        bool, typer.Option("--front", help="Also show the trials that none beats in size or in work.")
    ] = False,
    with_trainings: TrainingsOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show one study: leaderboard with baselines, failures, choices, importances.

    With --front also the trials that are not beaten by one with as few parameters, or as few multiply-adds.

    Of a name that has single trainings only, these are shown.
    """
    from pipeline.cli.leaderboard import choices, front_table, leaderboard, training_table
    from pipeline.results.front import COSTS, front
    from pipeline.results.summary import summarise
    from pipeline.results.table import study_table
    from pipeline.search.studies import load_search, warm_start_notes

    document: dict[str, Any] = {"name": name}
    parts: list[RenderableType] = []
    try:
        search = load_search(home, name)
    except NotFoundError:
        from pipeline.tracking.experiments import experiment_names

        if name not in experiment_names(home):
            raise
        with_trainings = True
    else:
        summary, importances = summarise(search), search.importances()
        document |= {
            "config": summary.config.canonical(),
            "facts": summary.facts,
            "trials": study_table(summary).records,
            "baselines": summary.baselines,
            "importances": importances,
            "state": _state(home, summary),
            "counts": summary.counts,
            "beating": summary.beating,
            "reasons": {state: summary.reasons(state) for state in ("PRUNED", "FAIL")},
            "answer": summary.answer(),
            "test_readings": search.test_readings,
            "refusals": search.refusals,
        }
        parts += leaderboard(summary, document["state"], len(summary.records) if others else top, others)
        parts += warm_start_notes(search)
        document["warm_start"] = search.warm_start if summary.config.warm_start else None
        if with_front:
            fronts = {name: front(summary, name) for name in COSTS}
            document["front"] = {
                name: [{"trial": trial.number, name: cost, summary.metric: value} for trial, cost, value in found]
                for name, found in fronts.items()
            }
            parts += front_table(summary, fronts)
        parts += [*choices(summary), *_importances(summary, importances), *_promotions(search)]
    if with_trainings:
        from pipeline.results.lookup import trainings

        found = trainings(home, name)
        document["trainings"] = [_training(training) for training in found]
        parts += training_table(found) if found else [f"no single trainings of {name}"]
    print_result(parts, document, as_json)


def _promotions(search: Search) -> Iterator[str]:
    """How often the test split was read, and which candidates were refused."""
    readings, refusals = search.test_readings, search.refusals
    times = ", ".join(f"{each['at']} (trial {each['trial']})" for each in readings)
    read = f"was read {counted(len(readings), 'time')}: {times}" if readings else "was never read"
    yield f"\nthe test split {read}"
    for each in refusals:
        yield f"not promoted at {each['at']}: {each['verdict']}"


def _state(home: Home, summary: StudySummary) -> str:
    """Whether a study is ``complete``, ``running`` or ``stopped``."""
    from pipeline.search.lock import study_holder

    if len(summary.ended) >= summary.config.budget.trials:
        return "complete"
    return "running" if study_holder(home, summary.name) else "stopped"


def _last_activity(search: Search, summary: StudySummary) -> datetime:
    """When a trial last started or ended, else when the study was created; in local time."""
    times = [trial.started for trial in summary.records] + [trial.ended for trial in summary.ended]
    return max(times, default=datetime.fromisoformat(search.created)).astimezone()


def _training(training: StoredTraining) -> dict[str, Any]:
    """A single training as JSON."""
    config = training.config.params() if training.config else {}
    known = {"study": training.study, "name": training.name, "run_id": training.run_id, "status": training.status}
    return known | {"started": training.started.isoformat(), "params": config, "metrics": training.metrics}


def _importances(summary: StudySummary, importances: dict[str, float]) -> Iterator[RenderableType]:
    from pipeline.search.ask_tell import IMPORTANCES_FROM

    ended, complete = len(summary.ended), counted(summary.counts["complete"], "complete trial")
    if importances:
        yield f"\nimportance for {summary.metric}, exploratory (PED-ANOVA on {complete})"
        rows = [(key, f"{share:.1%}") for key, share in importances.items()]
        yield make_table(("parameter", "share"), rows, right=("share",))
    elif not summary.config.exploratory:
        return  # the choices before name `study effects`
    elif ended < IMPORTANCES_FROM:
        yield f"\nimportances: from {IMPORTANCES_FROM} ended trials on; {ended} have ended"
    else:
        yield f"\nimportances: none, since {complete} do not differ"


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
    check: Annotated[
        bool, typer.Option("--check", help="Print the verdict and its exit code; change nothing.")
    ] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; recorded.")] = "",
    margin: Annotated[
        float | None,
        typer.Option(min=0.0, help="The least gain, in the objective's unit. [default: 0.1 of dB, else 0]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Promote whatever the gate says; recorded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a study's best model as champion, if it passes the gate.

    On the split *select* it must be better than every baseline and than the champion. The test split is read once,
    here; its figures are reported and decide nothing.
    """
    from pipeline.results.promote import check as check_trial
    from pipeline.results.promote import promote as promote_trial

    if check:
        verdict, optimism = check_trial(home, name, trial, margin)
        shown = [*_verdict(verdict, optimism), f"exit code {GateError.exit_code * (not verdict.passed)}"]
        document = asdict(verdict) | {"optimism": asdict(optimism) if optimism else None}
        print_result(shown, document | {"passed": verdict.passed, "text": verdict.text}, as_json)
        if not verdict.passed:
            raise typer.Exit(GateError.exit_code)
        return
    done = promote_trial(home, name, trial, force, reason, margin)
    replaced = f" (before: version {done.replaced})" if done.replaced else ""
    figures = [(key, _with_interval(key, done.select[key]), _with_interval(key, done.test[key])) for key in done.test]
    shown = [
        f"{done.model} version {done.version} is champion{replaced}: trial {done.trial} of {name}",
        *_verdict(done.verdict, done.optimism),
        make_table(("", "on select", "on test"), figures),
        *_serving(home, name, done.model),
    ]
    print_result(shown, asdict(done), as_json)


def _verdict(verdict: Verdict, optimism: Optimism | None) -> Iterator[RenderableType]:
    """The gate's verdict: a line, and every comparison; and what can be said beyond these weights."""
    from pipeline.config.choices import METRICS

    rows = [(each.rival, verdict.shown(each), each.outcome) for each in verdict.comparisons]
    yield make_table((f"gain in {verdict.metric} over", "mean and 95 % interval", "verdict"), rows, right=("mean",))
    if verdict.incomparable:
        yield verdict.incomparable
    yield f"{verdict.candidate} {'passes' if verdict.passed else 'does not pass'} the gate: {verdict.rule}"
    yield verdict.about_configurations
    if " seed " not in verdict.candidate:
        yield f"{verdict.candidate} is one seed chosen among many trials; `study replicate` trains others"
    if optimism is not None:
        form = METRICS[verdict.metric]
        flattered = form.shown(round(optimism.flattered, form.decimals) + 0.0)
        others = f"{counted(optimism.baselines, 'baseline')} and {counted(optimism.trials, 'other trial')}"
        yield f"val flatters trial {optimism.trial}, the best of the search, by {flattered}, beside {others} on select"


def _with_interval(metric: str, found: Interval) -> str:
    from pipeline.config.choices import METRICS

    form = METRICS[metric]
    return f"{form.shown(found.mean)} {found.shown(form.decimals)}"


def _serving(home: Home, study: str, model: str) -> Iterator[str]:
    """How to serve a champion, and to ask it."""
    from pipeline.data import load
    from pipeline.data.degrade import input_size
    from pipeline.search.studies import load_search

    config = load_search(home, study).config
    data = load(config.dataset, home.with_data(config.dataset).data_dir)
    height, width = input_size(data.image_size, config.degrade)
    mlflow = mlflow_command()
    environment = f"MLFLOW_TRACKING_URI={shlex.quote(home.tracking_shown)} MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false"
    if mlflow != "mlflow":  # it looks for its server by name
        environment += f" PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    grey = f"import json; print(json.dumps({{'inputs': [[[[0.5] * {width}] * {height}]]}}))"
    yield (
        f"serve it: {environment} {mlflow} models serve -m models:/{model}@champion --env-manager local "
        "--host 127.0.0.1 -p 5001"
    )
    yield (
        f'ask it (one grey image, [N, 1, {height}, {width}] in [0, 1]): {shlex.quote(sys.executable)} -c "{grey}" | '
        "curl -s -H 'Content-Type: application/json' -d @- http://127.0.0.1:5001/invocations"
    )


@command(collect=False)
def models(home: Home, as_json: JsonOption = False) -> None:
    """List the registered models: every version, when and why it was promoted, and by what margin."""
    from pipeline.tracking.registry import registered

    versions = registered(home)
    columns = {
        "model": [v.model for v in versions],
        "version": [v.version for v in versions],
        "alias": [", ".join(v.aliases) for v in versions],
        "study": [v.tags.get("study.name", "") for v in versions],
        "trial": [v.tags.get("trial.number", "") for v in versions],
        "promoted": [_promoted(v.tags) for v in versions],
        "gain": [v.tags.get("gate.gain", "") for v in versions],
        "why": [_why(v.tags) for v in versions],
        "test psnr\ndB": [v.tags.get("test.psnr", "") for v in versions],
    }
    left = ("model", "alias", "study", "promoted", "gain", "why")
    table = fitted([Column(heading, cells, heading in left) for heading, cells in columns.items()])
    none = "no registered models; promote one with: study promote NAME"
    print_result(table if versions else [none], [asdict(version) for version in versions], as_json)


def _promoted(tags: Mapping[str, str]) -> str:
    """When a version was promoted, in local time; as it stands where somebody edited it."""
    try:
        return minute(datetime.fromisoformat(tags.get("promoted", "")))
    except ValueError:
        return tags.get("promoted", "")


def _why(tags: Mapping[str, str]) -> str:
    from pipeline.tracking.registry import STATUS_TAG

    forced = "forced" if tags.get("forced") == "true" else "passed the gate"
    status = "" if tags.get(STATUS_TAG, "approved") == "approved" else f", {tags[STATUS_TAG]}"
    reason = f": {tags['reason']}" if tags.get("reason") else ""
    return f"{forced}{status}{reason}"


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
        message = f"{name} has single trainings only, no trials; look at them with: study show {name}"
        raise NotFoundError(message) from None
