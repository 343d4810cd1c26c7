"""A whole study on an ordinary MLflow server, which serves the artifacts itself, and on PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from servers import MlflowServer, Postgres, Served
from studies_for_tests import Launcher, Place, Printed, assert_same_as, assert_sound, copied, facts, models, study

from pipeline.api import load_model
from pipeline.results.promote import promote

pytest_plugins = ["study_fixtures"]

MORE = 8  # trials, after the first 6


@pytest.fixture(scope="session")
def grown(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The small study on plain files, promoted and then run with more trials."""
    place = copied(finished, tmp_path_factory.mktemp("grown"))
    promote(place.home, "small")
    place.run(trials=MORE)
    return place


@pytest.fixture
def server_on_postgres(postgres: Postgres, tmp_path: Path) -> Iterator[MlflowServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    server = MlflowServer(folder, postgres.database())
    server.start()
    yield server
    server.kill()


@pytest.fixture
def on_postgres(place: Place, server_on_postgres: MlflowServer, postgres: Postgres) -> Served:
    """A place on two databases of PostgreSQL: MLflow's, behind its server, and Optuna's."""
    (place.path / "mlflow.db").unlink()
    server = server_on_postgres
    return Served(place.path, place.file, server.uri, server.artifacts, postgres.database())


def stored(place: Place) -> dict[str, tuple[str, ...]]:
    """What would change if a trial was trained again: its run, its model and the digests of the model's files."""
    ready = {model.source_run_id: model.model_id for model in models(place)}
    return {
        run.info.run_name: (run.info.run_id, ready.get(run.info.run_id, ""), run.data.tags.get("zz.model.sha256", ""))
        for run in place.runs()
    }


def ask(place: Served, command: str, *arguments: str) -> Printed:
    """Call a command that must succeed."""
    done = study(command, *arguments, *place.options)
    assert (done.code, done.stderr) == (0, ""), done
    return done


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on_postgres", "served"])
def test_the_whole_tour_retrains_nothing_and_has_the_numbers_of_a_study_on_files(
    finished: Place, grown: Place, where: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place: Served = request.getfixturevalue(where)
    run = ("run", str(place.file), "--workers", "0")
    ask(place, *run)
    assert {r.info.artifact_uri.partition(":")[0] for r in place.runs()} == {"mlflow-artifacts"}
    assert_sound(place)
    assert facts(place) == facts(finished)
    before = stored(place)

    assert "small" in ask(place, "list").stdout
    shown = json.loads(ask(place, "show", "small", "--json").stdout)
    assert len(shown["trials"]) == 6
    table = place.path.parent / "table.json"
    ask(place, "export", "small", "-o", str(table))
    assert {row["run_id"] for row in json.loads(table.read_text())} <= {run_id for run_id, *_ in before.values()}
    champion = json.loads(ask(place, "promote", "small", "--json").stdout)

    for _ in range(2):  # the second has nothing to add
        ask(place, *run, "--trials", str(MORE))
        assert {name: stored(place)[name] for name in before} == before
        assert ask(place, "doctor").stdout.splitlines()[-1].endswith("all is well")
    assert_sound(place, MORE)
    assert facts(place) == facts(grown)
    ask(place, "doctor", "--repair")
    assert {name: stored(place)[name] for name in before} == before

    monkeypatch.setenv("MLFLOW_TRACKING_URI", place.uri)
    restored = load_model("small", home=place.path)(torch.rand(3, 1, 4, 4))
    assert restored.shape == (3, 1, 28, 28)
    evaluated = json.loads(ask(place, "evaluate", champion["run_id"], "--json").stdout)
    recorded = place.client().get_run(champion["run_id"]).data.metrics
    assert evaluated["val"]["val/psnr"] == recorded["objective"]
    again = study("promote", "small", "--trial", str(champion["trial"]), *place.options)
    assert (again.code, "champion already" in again.stderr) == (2, True), again

    ask(place, "delete", "small", "--yes")
    assert ask(place, "list", "--json").stdout.strip() == "[]"
    assert place.client().search_registered_models() == []
    assert place.client().search_experiments(filter_string="name != 'Default'") == []
    ask(place, "doctor")


# A server that is killed alone is a case of test_drills.py. While PostgreSQL is stopped, this one answers with errors.
@pytest.mark.slow
@pytest.mark.parametrize(
    "stopped", [pytest.param(["postgres"], marks=pytest.mark.long), ["postgres", "server"]], ids=" and ".join
)
def test_servers_that_are_stopped_and_started_change_no_number(
    finished: Place,
    on_postgres: Served,
    postgres: Postgres,
    server_on_postgres: MlflowServer,
    launcher: Launcher,
    stopped: list[str],
) -> None:
    servers = {
        "postgres": (postgres.stop, postgres.start),
        "server": (server_on_postgres.kill, server_on_postgres.start),
    }
    command = launcher.start(*on_postgres.arguments("--workers", "0"))
    command.until("epoch 2/")
    for name in stopped:
        servers[name][0]()
    time.sleep(4)
    for name in stopped:
        servers[name][1]()
    assert command.code() == 0, (command.stdout, command.stderr)
    assert_same_as(finished, on_postgres)
    assert ask(on_postgres, "doctor").stdout.splitlines()[-1].endswith("all is well")
