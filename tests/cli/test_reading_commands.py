"""The commands that only read load no torch, nor any other large library that they have no use for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from studies_for_tests import Place

pytest_plugins = ["study_fixtures"]

COMMAND = """
import json, sys
from pipeline.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
HEAVY = {"torch", "torchvision", "mlflow", "optuna", "pandas", "matplotlib", "distributed"}
NEEDED = {
    ("list",): {"optuna"},
    ("list", "--json"): {"optuna"},
    ("show", "small"): {"optuna"},
    ("show", "small", "--json"): {"optuna"},
    ("effects", "small"): {"optuna"},
    ("export", "small", "-o", "table.csv"): {"optuna"},
    ("list", "--trainings"): {"optuna", "mlflow", "pandas"},  # mlflow imports pandas itself
    ("models",): {"mlflow", "pandas"},
}


@pytest.mark.parametrize("command", NEEDED, ids=" ".join)
def test_a_reading_command_loads_only_what_it_needs(command: tuple[str, ...], finished: Place, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", COMMAND, *command, "--home", str(finished.path)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & HEAVY == NEEDED[command]
