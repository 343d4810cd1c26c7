"""What to type next: commands as this program was called, with the options that name this home.

What comes in: a home and what was done. What goes out: lines of text.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from pipeline.home import DEFAULT_HOME, Home, open_home


def called_as() -> str:
    """How this program was called: by a path, by name, or as a module."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return "python -m pipeline"
    return str(called) if shutil.which("study") is None and called.exists() else "study"


def next_commands(home: Home, *commands: str) -> list[str]:
    """Commands of this program on this home, one per line."""
    return [f"  {called_as()} {command}{_home_options(home)}" for command in commands]


def mlflow_ui_command(home: Home) -> str:
    """How to open the MLflow UI on a local store without this program."""
    mlflow = "mlflow" if shutil.which("mlflow") else Path(sys.executable).with_name("mlflow")
    return f"{mlflow} ui --backend-store-uri {shlex.quote(home.tracking_uri)} --host 127.0.0.1"


def serve_command(home: Home, model: str) -> str:
    """How to serve a registered model's champion with MLflow."""
    return (
        f"MLFLOW_TRACKING_URI={shlex.quote(home.tracking_uri)} MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false "
        f"mlflow models serve -m models:/{model}@champion --env-manager local --host 127.0.0.1 -p 5001"
    )


def _home_options(home: Home) -> str:
    """The options that name this home, without those that have their default value."""
    usual = open_home(home.path)
    given = {
        "--home": (home.path, DEFAULT_HOME.absolute()),
        "--data-dir": (home.data_dir, usual.data_dir),
        "--tracking-uri": (home.tracking_uri, usual.tracking_uri),
        "--storage": (home.storage_url, usual.storage_url),
    }
    return "".join(
        f" {option} {shlex.quote(str(value))}" for option, (value, default) in given.items() if value != default
    )
