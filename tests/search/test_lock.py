"""The lock on a study: one driver, whatever its home; lost with its connection and taken again."""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from servers import Postgres
from sqlalchemy.exc import OperationalError
from studies_for_tests import wait_for

from pipeline.errors import InputError, StudyError
from pipeline.home import Home, open_home
from pipeline.search.lock import StudyLock, study_holder, study_lock

pytest_plugins = ["study_fixtures"]

Storage = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def homes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Home, Home]:
    """Two homes with one storage."""
    if request.param == "sqlite":
        storage = f"sqlite:///{tmp_path / 'shared.db'}"
    else:
        storage = request.getfixturevalue("postgres").database()
    first, second = (open_home(tmp_path / name, storage=storage) for name in ("first", "second"))
    return first, second


def test_a_study_is_locked_for_every_home_of_a_storage(homes: tuple[Home, Home]) -> None:
    first, second = homes
    with study_lock(first, "small") as lock:
        lock.ensure()
        with (
            pytest.raises(InputError, match=r"study 'small' is being run by process \d+ on "),
            study_lock(second, "small"),
        ):
            pass
        assert re.match(r"process \d+ on ", study_holder(second, "small") or "")
        assert study_holder(second, "other") is None
        with study_lock(second, "other"):  # another study
            pass
        lock.ensure()
    assert study_holder(first, "small") is None
    with study_lock(second, "small"):
        pass


def hold(home: Home, ready: multiprocessing.synchronize.Event) -> None:
    with study_lock(home, "small"):
        ready.set()
        multiprocessing.Event().wait(60)


def test_a_killed_process_leaves_no_lock(homes: tuple[Home, Home]) -> None:
    first, second = homes
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(first, ready))
    process.start()
    assert ready.wait(60)
    with pytest.raises(InputError, match=f"process {process.pid} on "), study_lock(second, "small"):
        pass
    assert (study_holder(second, "small") or "").startswith(f"process {process.pid} on ")
    process.kill()
    process.join()
    wait_for(lambda: study_holder(second, "small") is None, "free lock")  # a server notices it after a while
    with acquired(second):
        pass


def acquired(home: Home) -> AbstractContextManager[StudyLock]:
    """The lock, once the server has noticed that its holder is gone."""
    for _ in range(100):
        try:
            lock = study_lock(home, "small")
            lock.__enter__()
        except InputError:
            continue
        lock.__exit__(None, None, None)
        return study_lock(home, "small")
    raise AssertionError("the lock is still held")


def test_a_study_may_have_the_name_of_a_model_s_lock(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    assert home.locks(home.storage_url, "studies") != home.locks(home.tracking_uri, "models")


def test_locks_lie_beside_a_database_that_homes_share(tmp_path: Path) -> None:
    home = replace(open_home(tmp_path / "home"), storage_url=f"sqlite:///{tmp_path}/shared/optuna.db")
    assert home.locks(home.storage_url, "studies") == tmp_path / "shared" / "locks" / "studies"
    assert home.locks("http://127.0.0.1:5000", "models") == tmp_path / "home" / "locks" / "models"


# --- PostgreSQL: the lock is lost with its connection --------------------------------------------------------------


def cut(storage: str) -> None:
    """End the sessions that hold locks, as a server does that is stopped."""
    engine = sqlalchemy.create_engine(storage, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        held = "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(sqlalchemy.text(held)).all()
    engine.dispose()


def test_a_lock_that_was_lost_is_taken_again(postgres: Postgres, tmp_path: Path) -> None:
    home = open_home(tmp_path, storage=postgres.database())
    with study_lock(home, "small") as lock:
        cut(home.storage_url)
        lock.ensure()
        with pytest.raises(InputError, match="is being run by"), study_lock(home, "small"):
            pass


def test_a_lock_that_another_process_took_meanwhile_ends_the_driver(postgres: Postgres, tmp_path: Path) -> None:
    home = open_home(tmp_path, storage=postgres.database())
    with study_lock(home, "small") as lock:
        cut(home.storage_url)
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        process = context.Process(target=hold, args=(home, ready))
        process.start()
        assert ready.wait(60)
        with pytest.raises(StudyError, match=f"now being run by process {process.pid} on"):
            lock.ensure()
        process.kill()
        process.join()


def test_a_server_that_is_down_is_an_error_that_waiting_may_cure(postgres: Postgres, tmp_path: Path) -> None:
    from pipeline.search.database import is_unreachable

    home = open_home(tmp_path, storage=postgres.database())
    with study_lock(home, "small") as lock:
        postgres.stop()
        try:
            with pytest.raises(OperationalError) as down:
                lock.ensure()
            assert is_unreachable(down.value)
            with pytest.raises(StudyError, match="the database cannot be used"), study_lock(home, "other"):
                pass
        finally:
            postgres.start()
        lock.ensure()
