"""Optuna's database: created once by many, and which of its errors are waited for."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier

import optuna
import psycopg
import pytest
import sqlalchemy
from optuna.exceptions import StorageInternalError
from servers import Postgres

from pipeline.home import open_home
from pipeline.search import _optuna
from pipeline.search.database import is_unreachable, open_storage

pytest_plugins = ["study_fixtures"]


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    storage = _optuna.Storage(f"sqlite:///{tmp_path / 'optuna.db'}", engine_kwargs={"connect_args": {"timeout": 0}})
    return optuna.create_study(storage=storage)


def error_of(study: optuna.Study) -> StorageInternalError:
    try:
        for number in range(100):
            study.set_user_attr(str(number), "x" * 2000)
    except StorageInternalError as error:
        return error
    raise AssertionError("the database took it")


def test_a_locked_sqlite_file_is_waited_for(study: optuna.Study, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "optuna.db")) as other:
        other.execute("begin exclusive")
        assert is_unreachable(error_of(study))


@pytest.mark.parametrize("damage", ["drop table study_user_attributes", "pragma max_page_count = 1"])
def test_a_missing_table_and_a_full_disk_are_not_waited_for(study: optuna.Study, tmp_path: Path, damage: str) -> None:
    if "drop" in damage:
        with closing(sqlite3.connect(tmp_path / "optuna.db")) as other:
            other.execute(damage)
    else:  # as a full disk: "database or disk is full"
        engine = study._storage._backend.engine  # type: ignore[attr-defined]
        sqlalchemy.event.listen(engine, "checkout", lambda connection, *_: connection.execute(damage))
    assert not is_unreachable(error_of(study))


def test_a_server_that_stops_or_has_no_free_connection_is_waited_for(postgres: Postgres) -> None:
    url = postgres.database()
    study = optuna.create_study(storage=open_storage(open_home(storage=url)))
    plain = url.replace("+psycopg", "")
    with ExitStack() as taken:
        study._storage._backend.engine.dispose()  # type: ignore[attr-defined]
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(plain))
        assert is_unreachable(error_of(study))
    postgres.stop()
    try:
        assert is_unreachable(error_of(study))
    finally:
        postgres.start()
    study.set_user_attr("text", "")


def test_many_can_create_the_tables_at_once(postgres: Postgres) -> None:
    home, barrier = open_home(storage=postgres.database()), Barrier(6)

    def create(_: int) -> int:
        barrier.wait()
        return len(open_storage(home).get_all_studies())

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(create, range(6))) == [0] * 6


@pytest.mark.parametrize(("old", "new"), [("/test_", "/absent_"), ("://study", "://nobody")])
def test_a_wrong_name_is_not_waited_for(postgres: Postgres, old: str, new: str) -> None:
    engine = sqlalchemy.create_engine(postgres.database().replace(old, new))
    with pytest.raises(sqlalchemy.exc.OperationalError) as caught:
        engine.connect()
    assert not is_unreachable(caught.value)


OPEN = """
import sys
from pathlib import Path
from pipeline.home import open_home
from pipeline.search.database import open_storage
home = open_home(Path(sys.argv[1]))
home.prepare()
print("ready", flush=True)
input()
open_storage(home).get_all_studies()
"""


@pytest.mark.slow
def test_many_can_create_a_database_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OPEN, str(tmp_path / "home")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen(command, text=True, **pipes) for _ in range(12)]  # type: ignore[call-overload]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 12
    for process in processes:  # all begin at once, as far as the cores allow
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 12
    assert sorted(path.name for path in (tmp_path / "home").iterdir()) == [
        ".gitignore",
        "home.json",
        "locks",
        "optuna.db",
    ]
