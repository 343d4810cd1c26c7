"""What `pipeline.tracking._mlflow` assumes of MLflow and MLflow does not document.

A failure here after an upgrade of MLflow names what the upgrade broke.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from studies_for_tests import Place, artifact

from pipeline.results.promote import promote
from pipeline.tracking._mlflow import ADDED_BY_LOADING, LOCATIONS, image_files, image_key_and_step, relocate
from pipeline.tracking.runs import IMAGES_TAG
from pipeline.tracking.store import connect, is_unreachable, local_path

pytest_plugins = ["study_fixtures"]


def located(database: Path, uri: str) -> set[tuple[str, str]]:
    """The (table, column) pairs of a database in which a URI occurs."""
    found = set()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for _, column, *_ in connection.execute(f"pragma table_info('{table}')").fetchall():
                query = f'select count(*) from "{table}" where instr(cast("{column}" as text), ?)'
                if connection.execute(query, (uri,)).fetchone()[0]:
                    found.add((table, column))
    return found


def test_a_moved_home_needs_no_other_columns_of_the_database_changed(finished_copy: Place) -> None:
    """Otherwise `study doctor --repair` would leave artifacts of a moved home that cannot be found."""
    promote(finished_copy.home, "small", force=True)
    database, here = finished_copy.path / "mlflow.db", finished_copy.home.artifacts.as_uri()
    known = located(database, here)
    assert known
    assert known <= set(LOCATIONS)
    changed = relocate(database, here, "file:///elsewhere/artifacts")
    assert changed > len(known)
    assert located(database, here) == set()
    assert located(database, "file:///elsewhere/artifacts") == known


def test_every_column_that_is_changed_exists(migrated: Path) -> None:
    """Otherwise `study doctor --repair` of a moved home ends in an error of the database."""
    assert relocate(migrated / "mlflow.db", "file:///nowhere", "file:///elsewhere") == 0


def test_logged_images_are_recognised_by_their_names(finished_copy: Place) -> None:
    """Otherwise panels would be logged twice after a kill, and `study doctor` would delete images of runs."""
    [run, *_] = finished_copy.runs("study")
    image = np.zeros((4, 4), np.uint8)
    finished_copy.client().log_image(run.info.run_id, image, key="panel", step=12, synchronous=True)
    files = [file.name for file in artifact(finished_copy, run, "images").iterdir()]
    assert {image_key_and_step(name) for name in files} == {("panel", 12)}
    ours = image_files("panel", image, 12)
    assert {image_key_and_step(name) for name in ours} == {("panel", 12)}
    varying = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9]{8,}")  # the time and a random id
    assert sorted(varying.sub("", name) for name in ours) == sorted(varying.sub("", name) for name in files)
    assert dict(IMAGES_TAG).items() <= finished_copy.client().get_run(run.info.run_id).data.tags.items()


@pytest.mark.parametrize(
    ("name", "key_and_step"),
    [
        ("panel+step+3+timestamp+17+a1-b2.png", ("panel", 3)),
        ("panel%step%3%timestamp%17%a1-b2%compressed.webp", ("panel", 3)),
        ("panel+step+3%timestamp+17+a1-b2.png", None),
        ("panel+step+3+timestamp+17+a1-b2.txt", None),
        ("notes.txt", None),
    ],
)
def test_names_of_images(name: str, key_and_step: tuple[str, int] | None) -> None:
    assert image_key_and_step(name) == key_and_step


def test_loading_a_registered_model_adds_one_known_file(finished_copy: Place, tmp_path: Path) -> None:
    """Otherwise every model that is loaded through the registry would be refused as changed."""
    done = promote(finished_copy.home, "small", force=True)
    logged = json.loads(finished_copy.client().get_run(done.run_id).data.tags["zz.model.sha256"])
    connect(finished_copy.home)
    there = tmp_path / "downloaded"
    there.mkdir()
    folder = Path(mlflow.artifacts.download_artifacts("models:/small@champion", dst_path=str(there)))
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert files - set(logged) == {ADDED_BY_LOADING}


@contextlib.contextmanager
def answering(status: int) -> Iterator[str]:
    """The address of a server that answers every request with one status."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(("status", "unreachable"), [(500, True), (502, True), (503, True), (404, False), (400, False)])
def test_the_errors_of_a_server_that_is_down_are_recognised(status: int, unreachable: bool) -> None:
    """Otherwise a study would end when its MLflow server is restarted, instead of waiting for it."""
    with answering(status) as address, pytest.raises(Exception) as caught:  # noqa: PT011
        MlflowClient(address, address).search_experiments(max_results=1)
    assert is_unreachable(caught.value) == unreachable


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 400, 401, 403, 404, 413])
def test_the_errors_of_an_artifact_server_are_told_apart(status: int, tmp_path: Path) -> None:
    """Otherwise a study waits for two minutes for a file that does not exist, or ends when the server is restarted."""
    from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

    (tmp_path / "a.txt").write_text("a")
    with answering(status) as address:
        repository = HttpArtifactRepository(f"{address}/api/2.0/mlflow-artifacts/artifacts/1")
        for request in (
            lambda: repository.list_artifacts("images"),
            lambda: repository.download_artifacts("a.txt", str(tmp_path)),
            lambda: repository.log_artifact(str(tmp_path / "a.txt")),
        ):
            with pytest.raises(Exception) as caught:  # noqa: PT011
                request()
            assert is_unreachable(caught.value) == (status in (408, 429) or status >= 500), caught.value


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/srv/home/artifacts", "/srv/home/artifacts"),
        ("file:///srv/my%20home/artifacts", "/srv/my home/artifacts"),
        ("file:/srv/home", "/srv/home"),
        ("mlflow-artifacts:/1/models", None),
        ("mlflow-artifacts://host/1", None),
        ("s3://bucket/1", None),
        ("http://127.0.0.1/1", None),
        ("dbfs:/1", None),
    ],
)
def test_only_file_uris_and_plain_paths_are_local(uri: str, path: str | None) -> None:
    assert local_path(uri) == (None if path is None else Path(path))
