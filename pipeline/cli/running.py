"""The commands that train or prepare training: ``run``, ``replicate``, ``train``, ``evaluate``, ``prepare``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.printing import make_table, mlflow_command, next_commands, print_result
from pipeline.cli.program import (
    DeviceOption,
    FileArgument,
    JsonOption,
    NameArgument,
    NameOption,
    QuietOption,
    RunArgument,
    SetOption,
    StudyOption,
    VerboseOption,
    command,
)
from pipeline.errors import InputError, StudyError
from pipeline.home import Home
from pipeline.study.reporter import say, split_sizes

if TYPE_CHECKING:
    from pipeline.study.single import Origin
    from pipeline.workers import Cluster


WorkersOption = Annotated[
    int | None, typer.Option(help="Worker processes; 0 trains in this one. [default: one per core or GPU]")
]
ClusterOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS|FILE", help="A running Dask scheduler: its address, or its file.")
]
TlsCaOption = Annotated[Path | None, typer.Option(help="The cluster's TLS certificate authority (PEM).")]
TlsCertOption = Annotated[Path | None, typer.Option(help="Your TLS certificate for it (PEM).")]
TlsKeyOption = Annotated[Path | None, typer.Option(help="The key of that certificate (PEM).")]


@command(collect=False)  # `run_study` turns it on
def run(
    home: Home,
    file: FileArgument,
    trials: Annotated[int | None, typer.Option(help="Total number of trials. [default: the file's]")] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    overrides: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Make the report at the end.")] = True,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Start or resume a study. Ctrl-C stops it cleanly; run the same command again to resume."""
    from pipeline.config import load_study_file

    study_file = load_study_file(file, overrides or (), name, trials)
    _say_starting(study_file.config.name, quiet, verbose)
    scheduler = _scheduler(workers, cluster, tls_ca, tls_cert, tls_key)

    from pipeline.api import run_study
    from pipeline.cli.leaderboard import leaderboard
    from pipeline.cli.progress import open_reporter
    from pipeline.results.summary import summarise
    from pipeline.search.studies import load_search
    from pipeline.study.pace import clock
    from pipeline.study.session import Options

    options = Options(workers, scheduler, device, report=report)
    with open_reporter(quiet, verbose) as reporter:
        outcome = run_study(study_file, home, options, reporter)
    config = outcome.config
    summary = summarise(load_search(home, config.name))
    print_result(leaderboard(summary, "complete"))
    if outcome.seconds:
        earlier = f" ({clock(outcome.elapsed)} in all sessions)" if outcome.elapsed > outcome.seconds + 1 else ""
        busy = f"training and validation took {outcome.shares['training']:.0%} of the workers' time"
        idle = f"idle {outcome.shares['window']:.0%} because of the window, {outcome.shares['end']:.0%} at the end"
        say(f"\n{clock(outcome.seconds)}{earlier}; {busy}; {idle}")
    if outcome.report:
        say(f"report: {outcome.report}")
    if not quiet:
        print_result(_next(home, config.name, complete=summary.best is not None))
    if summary.best is None:
        raise StudyError(f"study {config.name}: no trial was completed; `study show {config.name}` shows the reasons")


def _next(home: Home, name: str, complete: bool) -> Iterator[str]:
    """What can be typed next."""
    yield "next:"
    yield from next_commands(home, f"ui {name}", f"show {name}", f"report {name}")
    if complete:
        yield from next_commands(home, f"promote {name}", f"export {name} -o {name}.csv")
    if home.local_tracking:
        ui = f"{mlflow_command()} ui --backend-store-uri {shlex.quote(home.tracking_uri)} --host 127.0.0.1"
        yield f"  {ui}   (the same UI without this program)"


@command()
def replicate(
    home: Home,
    name: NameArgument,
    top: Annotated[int, typer.Option(min=1, help="How many trials, the best first.")] = 3,
    seeds: Annotated[int, typer.Option(min=2, help="How many other seeds of each.")] = 5,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of each. [default: the study's]")] = None,
    workers: WorkersOption = None,
    cluster: ClusterOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train a study's best configurations again with other seeds; mean and interval of each.

    The leaderboard then ranks by the mean. Ctrl-C stops it cleanly; run the same command again to resume.
    """
    _say_starting(name, quiet, verbose)
    scheduler = _scheduler(workers, cluster, tls_ca, tls_cert, tls_key)

    from pipeline.api import replicate_study
    from pipeline.cli.leaderboard import leaderboard
    from pipeline.cli.progress import open_reporter
    from pipeline.results.summary import summarise
    from pipeline.search.studies import load_search
    from pipeline.study.session import Options

    options = Options(workers, scheduler)
    with open_reporter(quiet, verbose) as reporter:
        replicate_study(home, name, top, seeds, epochs, options, reporter)
    print_result(leaderboard(summarise(load_search(home, name)), "replicated", max(top, 10)))
    if not quiet:
        print_result(["next:", *next_commands(home, f"show {name}", f"promote {name} --check", f"promote {name}")])


@command()
def train(
    home: Home,
    file: Annotated[Path, typer.Argument(metavar="FILE|STUDY/TRIAL", help="A study file (TOML), or a study's trial.")],
    overrides: SetOption = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs. [default: the file's, or the study's]")] = None,
    seed: Annotated[int | None, typer.Option(help="The seed. [default: the file's]")] = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Train one configuration without a search.

    Keys that the file leaves open take the values of its first [[enqueue]] entry. STUDY/TRIAL, such as quickstart/11,
    trains the configuration of that trial; with --epochs longer, and its learning rate schedule is stretched.
    """
    from pipeline.config import load_study_file

    given = {"budget.epochs": epochs, "seed": seed}
    chosen = [*(overrides or ()), *(f"{key}={value}" for key, value in given.items() if value is not None)]
    origin: Origin | None = None
    if not file.exists():
        from pipeline.study.single import find_trial

        origin = find_trial(home, str(file))
    study_file = origin.file(chosen, name) if origin else load_study_file(file, chosen, name)
    _say_starting(study_file.config.name, quiet, verbose)

    from pipeline.cli.progress import open_reporter
    from pipeline.study.session import Options
    from pipeline.study.single import train_one

    with open_reporter(quiet, verbose) as reporter:
        done = train_one(study_file, home, Options(device=device), reporter, origin)
    if done.status != "FINISHED":
        raise StudyError(f"{done.name} failed: {done.reason}")
    say(f"{done.name}, best epoch {done.metrics['best_epoch']:.0f}: run {done.run_id}")
    if not quiet:
        print_result(next_commands(home, f"evaluate {done.run_id}", f"ui {study_file.config.name}"))


def _say_starting(name: str, quiet: bool, verbose: bool) -> None:
    """Said first, since the libraries need seconds to load."""
    if quiet and verbose:
        raise InputError("--quiet and --verbose exclude each other")
    if not quiet:
        say(f"study {name}: starting")


def _scheduler(
    workers: int | None, cluster: str | None, tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None
) -> Cluster | None:
    """The cluster that is named, if any; else workers of this machine start, while this process loads its libraries."""
    from pipeline.workers import cluster_at, preload

    found = cluster_at(cluster, tls_ca, tls_cert, tls_key)
    if found is None and workers != 0:
        preload()
    return found


@command()
def evaluate(
    home: Home,
    run: RunArgument,
    study: StudyOption = None,
    picture: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also write the panel to this PNG file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a run's model on the validation split.

    The metrics are printed beside those recorded for the run's best epoch.
    """
    from pipeline.results.lookup import find_run
    from pipeline.results.reproduce import evaluate as evaluate_run

    done = evaluate_run(home, find_run(home, run, study), picture)
    headings = (f"{done.run}, epoch {done.best_epoch}", "now", "recorded")
    rows = [(name, *(_shown(name, figures) for figures in (done.figures, done.recorded))) for name in done.figures]
    panel = [f"panel (clean, degraded, restored, error): {picture}"] if picture is not None else []
    document = {"run": done.run, "best_epoch": done.best_epoch, "val": done.figures}
    print_result([make_table(headings, rows, right=headings[1:]), *panel], document, as_json)


def _shown(name: str, figures: Mapping[str, float]) -> str:
    from pipeline.config.choices import METRICS

    return METRICS[name.removeprefix("val/")].shown(figures[name], unit=False) if name in figures else ""


@command()
def prepare(home: Home, file: FileArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Find or download a study's data set, and verify it.

    A data set that the study cannot be run on is refused.
    """
    from pipeline.config import load_study_file
    from pipeline.config.catalogue import PICTURE_FOLDER
    from pipeline.data import copies, verify
    from pipeline.data.prepare import prepare as prepare_data
    from pipeline.search.samplers import check

    config = load_study_file(file, overrides or ()).config
    check(config)
    home = home.with_data(config.dataset)
    data = prepare_data(config, home.data_dir)
    home.remember_data(config.dataset)
    # A folder of pictures was just read completely, and nothing published exists to compare it with.
    found = verify(data.name, home.data_dir, quick=data.name.startswith(PICTURE_FOLDER))
    height, width = data.image_size
    shown = [
        f"{data.name}: {found.state} in {', '.join(found.places)}",
        f"images of {height} x {width}: {split_sizes(data)}; {data.classes or 'no'} classes",
        f"digest {data.digest}",
    ]
    if not as_json and (known := copies(data)):
        shown.append(f"note: {known:,} of the {len(data.val):,} val images are copies of training images")
    document = {"name": data.name, "where": found.places, "image_size": data.image_size, "sizes": data.sizes}
    print_result(shown, document | {"classes": data.classes, "digest": data.digest}, as_json)
