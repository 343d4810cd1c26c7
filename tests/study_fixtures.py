"""Fixtures with real, small studies and real servers. A module loads them by ``pytest_plugins = ["study_fixtures"]``.

The finished study is run once per session. No test may change its home; a test that has to change it uses a copy.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import MlflowServer, Postgres, Served, postgres_programs, running_postgres
from studies_for_tests import Launcher, Place, copied, new_place

from pipeline.data import load
from pipeline.evaluation.judge import judge_of
from pipeline.home import open_home
from pipeline.tracking.store import connect


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a judge and empty databases, shared because creating these takes longer than a small study."""
    path = tmp_path_factory.mktemp("migrated") / "home"
    home = open_home(path)
    home.prepare()
    connect(home, create=True)
    judge_of(load("mnist-5k", home.data_dir), home.judges)
    return path


@pytest.fixture
def place(migrated: Path, tmp_path: Path) -> Place:
    """A home without studies, and a study file next to it, for one test."""
    return new_place(migrated, tmp_path)


@pytest.fixture(scope="session")
def finished(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The small study, run without interruption in one process. Tests must not change it."""
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL. A test that stops it starts it again."""
    pytest.importorskip("psycopg")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL in /usr/lib/postgresql")
    with running_postgres(programs) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> str:
    """The URL of an empty database."""
    return postgres.database()


@pytest.fixture
def server(migrated: Path, tmp_path: Path) -> Iterator[MlflowServer]:
    """A running MLflow server with a folder and a sqlite file of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(migrated / "mlflow.db", folder)
    server = MlflowServer(folder)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def served(place: Place, server: MlflowServer) -> Served:
    (place.path / "mlflow.db").unlink()
    return Served(place.path, place.file, server.uri, server.artifacts)
