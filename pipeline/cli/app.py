"""The command line: parse, call one function, print, exit code.

Heavy imports stand inside the commands, so that ``study --help`` answers at once.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.errors import InputError, Interrupted, NotFoundError, StudyError
from pipeline.home import DEFAULT_HOME, Home, open_home

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.config import StudyConfig
    from pipeline.search.ask_tell import Search
    from pipeline.search.records import Record
    from pipeline.study.reporter import Reporter


app = typer.Typer(
    name="study",
    help="Hyperparameter studies of image-restoration autoencoders: run, compare, promote, export.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

data_app = typer.Typer(help="The data sets: what is there, and whether it is sound.", no_args_is_help=True)
app.add_typer(data_app, name="data")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A study file (TOML).")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.lr=1e-3.")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to train.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="An MLflow run id, of a trial or a single training.")]
SHOWN = 10  # trials on a leaderboard


def _everywhere(
    home: Annotated[Path | None, typer.Option("--home", help="Folder of the studies. [default: mlruns]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Folder of the data sets. [default: $STUDY_DATA_DIR or the cache]")
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow server. [default: $MLFLOW_TRACKING_URI or in the home]")
    ] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", help="Optuna's database. [default: $OPTUNA_STORAGE or in the home]")
    ] = None,
) -> Home:
    """The options that every command has, and what becomes of them."""
    return open_home(home, data_dir, tracking_uri, storage)


def command(name: str | None = None, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, of the program or of a group of commands.

    It receives the `Home` first, and gains the options of `_everywhere` and ``--debug``; its errors are reported.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        common = list(inspect.signature(_everywhere, eval_str=True).parameters.values())
        debug = inspect.Parameter(
            "debug",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
        )
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *common, debug)]

        def run_reported(**arguments: Any) -> None:
            with _reported(arguments.pop("debug")):
                where = _everywhere(**{p.name: arguments.pop(p.name) for p in common})
                function(where, **arguments)

        run_reported.__doc__ = function.__doc__
        run_reported.__name__ = function.__name__
        run_reported.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run_reported.__annotations__ = {p.name: p.annotation for p in parameters}
        group.command(name)(run_reported)
        return function

    return register


@command()
def run(
    where: Home,
    file: FileArgument,
    trials: Annotated[int | None, typer.Option("--trials", help="The study's total, in place of the file's.")] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", help="Processes; 0 trains in this one. [default: one a core or GPU]")
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Address of a running Dask scheduler.")] = None,
    overrides: SetOption = None,
    name: Annotated[str | None, typer.Option("--name", help="The study's name, in place of the file's.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Start a study, or go on with it. Ctrl-C stops it cleanly; the same command goes on."""
    from pipeline.config import load_study_file

    study_file = load_study_file(file, overrides or (), name, trials)
    console = _console()
    from pipeline.study.driver import Options, run_study

    options = Options(workers=workers, cluster=cluster, device=device)
    with _reporter(console) as reporter:
        outcome = run_study(study_file, where, options, reporter)
    config = outcome.config
    _print_leaderboard(console, config, outcome.records, outcome.baselines)
    if outcome.seconds:
        share = f"legs (training and validation) took {outcome.leg_share:.0%} of the workers' time"
        console.print(f"\n{outcome.seconds:.0f} s; {share}", highlight=False)
    _print_next(console, where, config, outcome.contact_sheet, outcome.best is not None)
    if outcome.best is None:
        raise StudyError(f"study {config.name}: no trial was completed; `study show {config.name}` has the reasons")


@command()
def train(
    where: Home,
    file: FileArgument,
    overrides: SetOption = None,
    seed: Annotated[int | None, typer.Option("--seed", help="In place of the file's.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="The study's name, in place of the file's.")] = None,
    device: DeviceOption = "auto",
) -> None:
    """One training without a search. Keys the file leaves open take the first enqueued configuration's values."""
    from pipeline.config import load_study_file
    from pipeline.study.driver import Options
    from pipeline.study.single import train_one

    chosen = [*(overrides or ()), *([f"seed={seed}"] if seed is not None else [])]
    study_file, console = load_study_file(file, chosen, name), _console()
    with _reporter(console) as reporter:
        done = train_one(study_file, where, Options(device=device), reporter)
    if done.status != "FINISHED":
        raise StudyError(f"{done.name} failed: {done.reason}")
    print(f"{done.name}, best epoch {done.metrics['best_epoch']:.0f}: run {done.run_id}")
    for line in (f"evaluate {done.run_id}", f"ui {study_file.config.name}"):
        print(f"  {_program()} {line}{_options(where)}")


@command()
def evaluate(
    where: Home,
    run_id: RunArgument,
    picture: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the panel there, a PNG file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Metrics of a trained run's model on the validation split, beside those recorded for its best epoch."""
    from rich.table import Table

    from pipeline.results.pictures import check_picture, write_picture
    from pipeline.results.reproduce import evaluate as evaluate_run
    from pipeline.study.reporter import figure

    if picture is not None:
        check_picture(picture)
    done = evaluate_run(where, run_id)
    if picture is not None:
        write_picture(picture, done.panel)
    if as_json:
        _print_json({"run": done.run, "best_epoch": done.best_epoch, "val": done.figures})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{done.run}, epoch {done.best_epoch}")
    table.add_column("now", justify="right")
    table.add_column("recorded", justify="right")
    for key, value in done.figures.items():
        table.add_row(key, figure(value), figure(done.recorded.get(key)))
    _console().print(table)
    if picture is not None:
        print(f"panel (clean, degraded, restored, error): {picture}")


@command()
def prepare(
    where: Home,
    file: FileArgument,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a study's data set at hand: found or downloaded, verified, and fit for the study."""
    from pipeline.config import load_study_file

    config = load_study_file(file, overrides or ()).config
    from pipeline.config.catalogue import PICTURE_FOLDER
    from pipeline.data import copies, verify
    from pipeline.data.prepare import prepare as prepare_data
    from pipeline.search.samplers import check

    check(config)
    data = prepare_data(config, where.data_dir)
    # A folder of pictures was read whole just now, and there is nothing published to compare it with.
    found = verify(data.name, where.data_dir, quick=data.name.startswith(PICTURE_FOLDER))
    if as_json:
        document = {
            "name": data.name,
            "where": found.places,
            "image_size": data.image_size,
            "sizes": data.sizes,
            "classes": data.classes,
            "digest": data.digest,
        }
        _print_json(document)
        return
    height, width = data.image_size
    splits = ", ".join(f"{size:,} {split}" for split, size in data.sizes.items())
    print(f"{data.name}: {found.state} in {', '.join(found.places)}")
    print(f"images of {height} x {width}: {splits}; {data.classes or 'no'} classes")
    print(f"digest {data.digest}")
    if known := copies(data):
        print(f"note: {known:,} of the {len(data.val):,} val images are copies of training images")


@command("list", data_app)
def list_data(
    where: Home,
    as_json: JsonOption = False,
) -> None:
    """Every data set by name: whether it is there, where, its images, how it is verified, its licence."""
    from rich.markup import escape
    from rich.table import Table

    from pipeline.config.catalogue import CATALOGUE
    from pipeline.data import survey

    rows: list[dict[str, Any]] = []
    for found in survey(where.data_dir):
        entry = CATALOGUE[found.name]
        rows.append(
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
    if as_json:
        _print_json(rows)
        return
    table = Table(box=None)
    for heading in ("name", "state", "images", "size", "classes", "licence", "verified by", "where"):
        table.add_column(heading, no_wrap=heading != "where")
    for row in rows:
        size = " x ".join(map(str, row["size"]))
        places = escape(", ".join(row["where"]))
        figures = (f"{row['images']:,}", size, str(row["classes"]))
        table.add_row(row["name"], row["state"], *figures, row["licence"], row["check"], places)
    _console().print(table)
    print(f'data folder: {where.data_dir}; your own pictures: dataset = "folder:PATH"')


@command("verify", data_app)
def verify_data(
    where: Home,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A data set. [default: all]")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hash the data sets that are there; fails where one is damaged, or absent though it was named."""
    from pipeline.config.catalogue import CATALOGUE
    from pipeline.data import verify

    found = [verify(each, where.data_dir) for each in ([name] if name else CATALOGUE)]
    if as_json:
        rows = [
            {"name": s.name, "state": s.state, "files": [str(path) for path in s.paths], "remark": s.remark}
            for s in found
        ]
        _print_json(rows)
    else:
        for s in found:
            remark = s.remark if s.state == "damaged" or name else ""  # what all the absent ones lack is no news
            print(f"{s.name:16s} {s.state:9s} {remark or '; '.join(s.places)}".rstrip())
    bad = [s.name for s in found if s.state == "damaged" or (name and s.state == "absent")]
    if bad:
        raise StudyError(f"not sound: {', '.join(bad)}")


@command("list")
def list_studies(
    where: Home,
    as_json: JsonOption = False,
) -> None:
    """The studies of a home."""
    from rich.markup import escape
    from rich.table import Table

    from pipeline.search.ask_tell import load_search, study_names
    from pipeline.search.records import ranked

    rows = []
    for name in study_names(where):
        search = load_search(where, name)
        records, config = search.records(), search.config
        best = ranked(records, config.objective.direction)
        rows.append(
            {
                "name": name,
                "dataset": config.dataset,
                "degrade": config.degrade.kind,
                "ended": search.told(),
                "trials": config.budget.trials,
                "metric": config.objective.metric,
                "best": best[0].value if best else None,
                "best_trial": best[0].number if best else None,
            }
        )
    if as_json:
        _print_json(rows)
        return
    if not rows:
        print(f"no studies in {where.path}; start one with: {_program()} run FILE")
        return
    table = Table(box=None)
    for heading in ("study", "data set", "degradation", "trials", "best", "trial"):
        table.add_column(heading)
    for row in rows:
        best_shown = f"{row['metric']} {row['best']:.4g}" if row["best"] is not None else ""
        ended = f"{row['ended']}/{row['trials']}"
        trial = "" if row["best_trial"] is None else str(row["best_trial"])
        table.add_row(row["name"], escape(row["dataset"]), row["degrade"], ended, best_shown, trial)
    _console().print(table)


@command()
def show(
    where: Home,
    name: NameArgument,
    as_json: JsonOption = False,
) -> None:
    """One study: leaderboard, baselines, what failed, importances."""
    from pipeline.results.table import plain_rows, summary_table

    search = _search(where, name)
    config, records = search.config, search.records()
    baselines, importances = search.recall("baselines", {}), search.importances()
    if as_json:
        table = summary_table(records, config.objective.direction)
        document = {
            "name": name,
            "config": config.canonical(),
            "trials": plain_rows(table),
            "baselines": baselines,
            "importances": importances,
        }
        _print_json(document)
        return
    console = _console()
    _print_leaderboard(console, config, records, baselines)
    for record in records:
        if record.state == "FAIL" and record.summary:
            console.print(f"trial {record.number} failed: {record.summary.reason}", highlight=False, markup=False)
    if importances:
        console.print(f"\nimportance for {config.objective.metric} (PED-ANOVA)")
        for key, share in importances.items():
            console.print(f"  {key:16s} {share:5.1%} {'█' * round(40 * share)}", highlight=False)
        left = [key for key in config.space.searched() if key not in importances]
        if left:
            console.print(f"  not in every complete trial, so not compared: {', '.join(left)}", highlight=False)


@command()
def ui(
    where: Home,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Open at this study.")] = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 5000,
    open_browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open a browser window.")] = True,
) -> None:
    """The MLflow UI on this home, on 127.0.0.1, until Ctrl-C."""
    from pipeline.results.ui import serve

    serve(where, name, port, open_browser)


@command()
def promote(
    where: Home,
    name: NameArgument,
    trial: Annotated[int | None, typer.Option("--trial", help="A trial other than the best.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if a baseline is better; recorded.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Register a study's best model as champion; the test split is read once, here, and reported."""
    from dataclasses import asdict

    from pipeline.results import promote as registry
    from pipeline.search.ask_tell import load_search

    done = registry.promote(where, name, trial, force)
    if as_json:
        _print_json(asdict(done))
        return
    metric = load_search(where, name).config.objective.metric
    replaced = f" (before: version {done.replaced})" if done.replaced else ""
    print(f"{done.model} version {done.version} is champion{replaced}: trial {done.trial} of {name}")
    others = ", ".join(f"{b} {value:.4g}" for b, value in done.baselines.items())
    print(f"select: {metric} {done.select[metric]:.4g} (baselines: {others})")
    print("test, read once: " + ", ".join(f"{k} {v:.4g}" for k, v in done.test.items()))
    print("note: one seed chosen among many is flattered on validation; the figures on select and test are not")
    print(f"serve it: {_serve_command(where, done.model)}")


@command()
def models(
    where: Home,
    as_json: JsonOption = False,
) -> None:
    """The registered models and their versions."""
    from dataclasses import asdict

    from rich.table import Table

    from pipeline.tracking.registry import registered

    versions = registered(where)
    if as_json:
        _print_json([asdict(version) for version in versions])
        return
    if not versions:
        print("no registered models; promote one with: study promote NAME")
        return
    table = Table(box=None)
    for heading in ("model", "version", "alias", "study", "trial", "test psnr", "promoted"):
        table.add_column(heading)
    for version in versions:
        tags = [version.tags.get(key, "") for key in ("study.name", "trial.number", "test.psnr", "promoted")]
        table.add_row(version.model, version.version, ", ".join(version.aliases), *tags)
    _console().print(table)


@command()
def export(
    where: Home,
    name: NameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File; .csv, .md, .html or .json.")],
) -> None:
    """Write the summary table of a study."""
    from pipeline.results.table import summary_table, write_table

    search = _search(where, name)
    table = summary_table(search.records(), search.config.objective.direction)
    write_table(table, output)
    print(f"{_counted(len(table), 'trial')} of {name} written to {output}")


@command()
def delete(
    where: Home,
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a study for good: trials, runs, pictures, models, and the versions registered from it."""
    from pipeline.study.delete import delete as remove
    from pipeline.study.delete import inventory

    found = inventory(where, name)
    versions = ", ".join(
        f"{v.model} version {v.version}" + (f" ({', '.join(v.aliases)})" if v.aliases else "") for v in found.versions
    )
    what = (
        f"study {name} ({_counted(found.trials, 'trial')}, {_counted(found.runs, 'run')}) with its pictures and models"
    )
    what += f", and the registered {versions}" if versions else ""
    if not yes:
        print(f"This deletes {what}, for good.")
        if not sys.stdin.isatty():
            raise InputError("nothing was deleted: nobody can answer here; --yes does not ask")
        if not typer.confirm("Delete it?"):
            raise InputError("nothing was deleted")
    remove(where, name)
    print(f"deleted {what}")


@command()
def reproduce(
    where: Home,
    run_id: RunArgument,
) -> None:
    """Train a recorded trial again and compare every metric of every epoch."""
    from pipeline.results.reproduce import reproduce as train_again

    done = train_again(where, run_id)
    if done.reconstructed:
        print("the run was lost and made again by doctor: of most epochs it has the objective only")
    if done.identical:
        print(f"identical: {done.compared} figures of {done.epochs} epochs of {done.run}")
        if done.failure is not None:
            print(f"it failed as it did then: {done.failure[0]}")
        return
    print(
        f"{len(done.differences)} of {done.compared} figures of {done.run} differ" + (":" if done.differences else "")
    )
    for d in done.differences[:SHOWN]:
        print(f"  epoch {d.epoch} {d.metric}: recorded {d.recorded}, now {d.now}")
    if done.failure is not None:
        print(f"  it failed then: {done.failure[0]}; now: {done.failure[1]}")
    for line in done.surroundings or ["versions, hardware and code are the same as recorded"]:
        print(f"  {line}")
    raise StudyError(f"{done.run} was not reproduced")


@command()
def doctor(
    where: Home,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what is found.")] = False,
) -> None:
    """Compare Optuna, MLflow, checkpoints and artifacts; say what is amiss, and mend it with --repair."""
    from pipeline.study.doctor import examine_home

    found, mendable, mended = 0, 0, 0
    for name, finding in examine_home(where, lambda text: print(f"note: {text}")):
        found += 1
        mendable += finding.repair is not None
        if repair and finding.repair is not None:
            finding.repair()
            mended += 1
            print(f"{name}: mended: {finding.text}")
        else:
            print(f"{name}: {finding.text}" + ("" if finding.repair else " (not mendable here)"))
    if not found:
        print(f"{where.path}: all is well")
    elif mended < found:
        which = "them" if mendable == found else f"{mendable} of them"
        hint = f"; `study doctor --repair` mends {which}" if mendable and not repair else ""
        raise StudyError(_counted(found - mended, "finding") + hint)


def main() -> None:
    """Entry point of ``study``."""
    app()


@contextmanager
def _reported(debug: bool) -> Iterator[None]:
    """Errors as one or two lines on stderr and their exit code.

    The libraries' loggers are off meanwhile, for their tracebacks would come before: what fails in them comes back as
    an exception and is said here.
    """
    disabled = logging.root.manager.disable
    logging.disable(disabled if debug else logging.CRITICAL)
    try:
        yield
    except StudyError as error:
        if debug:
            traceback.print_exc()
        word = "stopped" if isinstance(error, Interrupted) else "error"
        print(f"{word}: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        raise typer.Exit(Interrupted.exit_code) from None
    except (typer.Exit, BrokenPipeError):  # the reader of a pipe may have seen enough, which typer ends quietly
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        first = (str(error).strip() or "no message").splitlines()[0]
        print(f"error: unexpected {type(error).__name__}: {first}; --debug shows where", file=sys.stderr)
        raise typer.Exit(1) from None
    finally:
        logging.disable(disabled)


def _search(where: Home, name: str) -> Search:
    """A study by its name; one of single trainings only has no table, and the message says so."""
    from pipeline.search.ask_tell import load_search

    try:
        return load_search(where, name)
    except NotFoundError:
        from pipeline.tracking.store import experiment_names

        if name not in experiment_names(where):
            raise
        raise NotFoundError(
            f"{name} has single trainings only, no trials; look at them with: study ui {name}"
        ) from None


def _print_leaderboard(
    console: Console, config: StudyConfig, records: list[Record], baselines: dict[str, dict[str, float]]
) -> None:
    """The best trials and the baselines; as many columns as the terminal has room for."""
    from rich.table import Table

    from pipeline.search.records import ranked
    from pipeline.study.reporter import figure

    order = ranked(records, config.objective.direction)
    best = [(record, record.summary) for record in order[:SHOWN] if record.summary is not None]
    states = [record.state for record in records]
    counts = ", ".join(f"{states.count(state)} {state.lower()}" for state in dict.fromkeys(sorted(states)))
    console.print(f"\n[bold]{config.name}[/]: {_counted(len(records), 'trial')} ({counts})", highlight=False)

    columns: dict[str, list[str]] = {
        "rank": [*(str(place) for place in range(1, len(best) + 1)), *("" for _ in baselines)],
        "trial": [*(str(record.number) for record, _ in best), *baselines],
    }
    scores = [*(summary.metrics for _, summary in best), *baselines.values()]

    def add_metrics(*names: str) -> None:
        for metric in names:
            if any(f"val/{metric}" in score for score in scores):  # there is no class_kept without classes
                columns[metric] = [figure(score.get(f"val/{metric}")) for score in scores]

    add_metrics(config.objective.metric, "psnr", "ssim", "class_kept")
    columns["parameters"] = [*(f"{summary.cost['parameters']:,}" for _, summary in best), *("" for _ in baselines)]
    for key in config.space.searched():
        columns[key] = [*(_shown(record.params.get(key)) for record, _ in best), *("" for _ in baselines)]
    add_metrics("bce", "bce_excess", "sharpness")
    table, room = Table(box=None, header_style="bold", pad_edge=False), console.width
    for heading, cells in columns.items():
        room -= max(map(len, [heading, *cells])) + 2
        if room < -2:
            break
        table.add_column(heading, justify="right", no_wrap=True)
    rows = list(zip(*list(columns.values())[: len(table.columns)], strict=True))
    for place, row in enumerate(rows):
        table.add_row(*row, style=None if place < len(best) else "dim")
    console.print(table)
    left = list(columns)[len(table.columns) :]
    if left:
        console.print(f"no room for: {', '.join(left)}; a wider terminal or `study export` has them", highlight=False)


@contextmanager
def _reporter(console: Console) -> Iterator[Reporter]:
    """What shows a run's progress: a table redrawn in place in a terminal, else plain lines."""
    from pipeline.cli.progress import LiveTable
    from pipeline.study.reporter import PlainLines

    if console.is_terminal:
        with LiveTable(console) as live:
            yield live
    else:
        yield PlainLines()


def _console() -> Console:
    """Standard output; a pipe or a file gets the whole width of every table."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=240)


def _print_next(console: Console, where: Home, config: StudyConfig, contact_sheet: Path | None, has_best: bool) -> None:
    """Where the pictures are, and the commands to type next, as this program was called."""
    study, name = _program(), config.name
    option = _options(where)
    verbs = [f"ui {name}", f"show {name}"]
    verbs += [f"promote {name}", f"export {name} -o {name}.csv"] if has_best else []
    lines = [f"pictures: {contact_sheet}"] if contact_sheet else []
    lines += ["next:", *(f"  {study} {verb}{option}" for verb in verbs)]
    if where.local_tracking:
        mlflow = "mlflow" if shutil.which("mlflow") else Path(sys.executable).with_name("mlflow")
        store = shlex.quote(where.tracking_uri)
        lines.append(f"  {mlflow} ui --backend-store-uri {store} --host 127.0.0.1   (the same UI by itself)")
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _options(where: Home) -> str:
    """The options that name this home, as the next command needs them; none that it would have by itself."""
    usual = open_home(where.path)
    given: dict[str, object] = {} if where.path == DEFAULT_HOME.absolute() else {"--home": where.path}
    given |= {"--data-dir": where.data_dir} if where.data_dir != usual.data_dir else {}
    given |= {"--tracking-uri": where.tracking_uri} if where.tracking_uri != usual.tracking_uri else {}
    given |= {"--storage": where.storage_url} if where.storage_url != usual.storage_url else {}
    return "".join(f" {option} {shlex.quote(str(value))}" for option, value in given.items())


def _print_json(document: Any) -> None:
    """JSON on standard output; what is no number there (the sharpness of flat images) is null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _program() -> str:
    """How this program was called: by a path, by name, or as a module."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m pipeline"
    return str(called) if shutil.which("study") is None and called.exists() else "study"


def _serve_command(where: Home, model: str) -> str:
    return (
        f"MLFLOW_TRACKING_URI={shlex.quote(where.tracking_uri)} MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false "
        f"mlflow models serve -m models:/{model}@champion --env-manager local --host 127.0.0.1 -p 5001"
    )


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
