"""A study in a notebook, executed by a real kernel."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from studies_for_tests import Place

pytest_plugins = ["study_fixtures"]

CELLS = (
    "import numpy as np\nimport pipeline\nstudy = pipeline.load_study('small', home={home!r})\nstudy",
    "study.plot('curves')",
    "study.plot('restorations')",
    "print(study)",
    "print(study.best.restore(np.zeros((4, 4))).shape)",
    "study.plot('slices')",
)


@pytest.mark.slow
def test_a_notebook_shows_leaderboard_figures_and_restored_pictures(finished: Place) -> None:
    cells = [nbformat.v4.new_code_cell(cell.format(home=str(finished.path))) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, kernel_name="python3", allow_errors=True).execute()
    # Only what a cell returns or prints: mlflow's import may warn of a missing progress bar on stderr.
    outputs: list[list[Any]] = [[o for o in cell.outputs if o.get("name") != "stderr"] for cell in notebook.cells]
    [[leaderboard], [curves], [restorations], [printed], [shape], [refused]] = outputs
    assert "linear</th>" in leaderboard.data["text/html"]
    assert "trials are complete" in leaderboard.data["text/plain"]
    assert "image/png" in curves.data
    assert "image/png" in restorations.data
    assert "| rank |" in printed.text
    assert shape.text == "(28, 28)\n"
    assert "unknown plot 'slices'; allowed: curves, front, restorations" in refused.evalue
