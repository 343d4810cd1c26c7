"""The program `study`: its application, the options that every command has, and how errors are reported.

What comes in: the words of the command line. What goes out: a call of one command's function, and an exit code.
No command module imports a heavy library at its top, so that ``study --help`` answers at once.
"""

import functools
import gc
import inspect
import io
import logging
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.errors import InputError, Interrupted, StudyError
from pipeline.home import STORAGE, TRACKING, Home, open_home, passwords, sqlite_file
from pipeline.study.reporter import printable

SHORTEST_PASSWORD = 4

app = typer.Typer(
    name="study",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _study_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names that the shell completes NAME with: those of a sqlite file, read without Optuna, which loads slowly."""
    try:
        given = (context.params.get(option) for option in ("home", "storage"))
        home, storage = (str(value) if value else None for value in given)
        file = sqlite_file(open_home(Path(home) if home else None, storage=storage).storage_url)
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            names = [name for (name,) in database.execute("SELECT study_name FROM studies ORDER BY study_name")]
    except (StudyError, OSError, sqlite3.Error):  # no home, no such file, a server
        return []
    return [name for name in names if name.startswith(incomplete) and name.isprintable()]


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The study's name.", autocompletion=_study_names)]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A study file (TOML).")]
RunArgument = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run: its id or the beginning of it, STUDY/TRIAL, or a name with --study."),
]
StudyOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="The study that RUN belongs to.", autocompletion=_study_names)
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as train.lr=1e-3.")
]
NameOption = Annotated[str | None, typer.Option(help="The study's name. [default: the file's]")]
QuietOption = Annotated[bool, typer.Option("-q", "--quiet", help="Print the result only.")]
VerboseOption = Annotated[
    bool, typer.Option("-v", "--verbose", help="Print every epoch, with all settings and metrics.")
]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")]


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"study {version('restoration-study')}")
        raise typer.Exit


@app.callback()
def program(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hyperparameter studies of image-restoration autoencoders: run, compare, promote, export."""


def main() -> None:
    """Entry point of ``study``."""
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # closed by the caller: the next file opened would take its place
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, "r" if descriptor == 0 else "w"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a letter
    app()


def command(
    name: str | None = None, group: typer.Typer = app, collect: bool = True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command, of the program or of a group of commands.

    The function receives the `Home` first. The command has the options of `_opened_home` in its place. Without
    ``collect`` it runs without Python's garbage collector, which takes a sixth of the time to load the libraries.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()
        common = inspect.signature(_opened_home, eval_str=True).parameters.values()
        parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *common)]

        @functools.wraps(function)
        def run_command(**arguments: Any) -> None:
            if not collect:
                gc.disable()
            with _opened_home(**{p.name: arguments.pop(p.name) for p in common}) as home:
                function(home, **arguments)

        run_command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run_command.__annotations__ = {p.name: p.annotation for p in parameters}
        group.command(name)(run_command)
        return function

    return register


@contextmanager
def _opened_home(
    home: Annotated[Path | None, typer.Option(help="Folder of the studies. [default: mlruns]")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets. [default: $STUDY_DATA_DIR, where it was before, or the cache]"),
    ] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow server. [default: $MLFLOW_TRACKING_URI or in the home]")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Optuna's database. [default: $OPTUNA_STORAGE or in the home]")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> Iterator[Home]:
    """The home that a command's options name. An error is one or two lines on stderr, and the command's exit code.

    The libraries' loggers are disabled meanwhile, because they would print tracebacks first: an error in a library
    arrives here as an exception.
    """
    disabled = logging.root.manager.disable
    logging.disable(disabled if debug else logging.CRITICAL)
    try:
        _check_working_directory()
        yield open_home(home, data_dir, tracking_uri, storage)
    except (typer.Exit, BrokenPipeError):  # typer ends the program quietly where the reader of a pipe has closed it
        raise
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        raise typer.Exit(Interrupted.exit_code) from None
    except Exception as last:
        error = _first(last)
        lines = [traceback.format_exc()] if debug else []
        lines.append(f"{'stopped' if isinstance(error, Interrupted) else 'error'}: {_explained(error)}")
        given = ((tracking_uri, TRACKING), (storage, STORAGE))
        secrets = passwords(*(url or os.environ.get(variable, "") for url, variable in given))
        print(_without(secrets, printable("".join(lines))), file=sys.stderr)
        raise typer.Exit(error.exit_code if isinstance(error, StudyError) else StudyError.exit_code) from None
    finally:
        logging.disable(disabled)


def _check_working_directory() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise InputError("the working directory was deleted; change into one that exists") from None


def _first(error: Exception) -> Exception:
    """The error to show: where the clean-up after one of this project's errors failed as well, that first one."""
    first, earlier = error, _before(error)
    while earlier is not None:
        first = earlier if isinstance(earlier, StudyError) else first
        earlier = _before(earlier)
    return first


def _before(error: BaseException) -> BaseException | None:
    """What an error followed from, or what was being handled when it was raised."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _explained(error: Exception) -> str:
    """An error as one or two lines; what the operating system refused needs no traceback."""
    if isinstance(error, StudyError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    reason = (str(error).strip() or "no message").splitlines()[0]
    return f"unexpected {type(error).__name__}: {reason}; --debug shows the traceback"


def _without(secrets: Sequence[str], text: str) -> str:
    """A text in which no password stands, wherever a library put it; shorter ones would be found in any word."""
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) >= SHORTEST_PASSWORD else text
    return text
