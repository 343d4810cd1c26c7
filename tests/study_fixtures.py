"""Fixtures of real, small studies; a test module takes them by ``pytest_plugins = ["study_fixtures"]``.

The finished study is made once a session, in a home that no test may change; a test that needs to takes a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies_for_tests import Launcher, Place, copied, new_place

from pipeline.data import load
from pipeline.evaluation.judge import judge_of
from pipeline.home import open_home
from pipeline.tracking.store import connect


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a judge and empty databases: making these takes longer than a small study."""
    path = tmp_path_factory.mktemp("migrated") / "home"
    home = open_home(path)
    home.prepare()
    connect(home, create=True)
    judge_of(load("mnist-5k", home.data_dir), home.judges)
    return path


@pytest.fixture
def place(migrated: Path, tmp_path: Path) -> Place:
    """An empty home with a study file beside it, for one test."""
    return new_place(migrated, tmp_path)


@pytest.fixture(scope="session")
def finished(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The small study, run without interruption in one process. To be read, not changed."""
    place = new_place(migrated, tmp_path_factory.mktemp("finished"))
    place.run()
    return place


@pytest.fixture
def finished_copy(finished: Place, tmp_path: Path) -> Place:
    """A copy of the finished study that a test may change."""
    return copied(finished, tmp_path)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    with contextlib.closing(Launcher(tmp_path_factory.mktemp("commands"))) as launcher:
        yield launcher
