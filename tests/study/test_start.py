"""The start of a run: what comes first, what is not started, and what is closed when something else fails."""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from studies_for_tests import Place

from pipeline.data import load
from pipeline.errors import InputError
from pipeline.evaluation.judge import find_judge, judge_of
from pipeline.search.lock import study_lock
from pipeline.tracking.store import connect
from pipeline.workers import DaskWorkers, Needs, Returned, start

pytest_plugins = ["study_fixtures"]

# The modules that a command has loaded when it ends, in the order of their first imports.
COMMAND = """
import json, sys
from pipeline.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(list(sys.modules)))
"""


def loaded_by_run(place: Place, *options: str) -> list[str]:
    words = ["run", str(place.file), "--workers", "1", "--no-report", *options, "--home", str(place.path)]
    done = subprocess.run([sys.executable, "-c", COMMAND, *words], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_workers_start_before_mlflow_is_loaded_and_figures_are_drawn_after_the_study(place: Place) -> None:
    loaded = loaded_by_run(place, "--trials", "1", "--set", "budget.epochs=1")
    order = [loaded.index(name) for name in ("distributed", "mlflow.store.tracking.sqlalchemy_store", "matplotlib")]
    assert order == sorted(order)


def test_a_study_that_is_being_run_starts_no_workers_and_loads_no_mlflow(place: Place) -> None:
    with study_lock(place.home, "small"):
        assert not {"distributed", "mlflow"} & set(loaded_by_run(place))


def test_a_complete_study_starts_no_workers(finished_copy: Place) -> None:
    assert "distributed" not in loaded_by_run(finished_copy)


def test_workers_are_closed_when_the_study_is_refused_while_they_start(place: Place) -> None:
    connect(place.home, create=True).create_experiment("small")  # another program's
    with pytest.raises(InputError, match="which is not this home's"):
        place.run(workers=1)
    assert multiprocessing.active_children() == []
    assert not list((place.path / "locks").glob("*.shared"))


def test_a_judge_of_a_worker_is_that_of_this_process(tmp_path: Path) -> None:
    data = load("mnist-5k", tmp_path)
    needs = Needs(tmp_path / "locks" / "small.shared", data.name, tmp_path, data.digest, "cpu", "float32")
    here = judge_of(data, tmp_path / "here")
    assert here is not None
    pool = start(1, needs, pytest.fail)
    assert isinstance(pool, DaskWorkers)
    pool.submit("judge", find_judge, data.name, tmp_path, tmp_path / "there")
    while (outcome := pool.wait(0.2)) is None:
        pass
    pool.close()
    assert outcome == Returned("judge", replace(here, path=here.path.replace("here", "there")))
