"""The MLflow UI on a home, served on 127.0.0.1 only by a process that ends with the command."""

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Mapping
from contextlib import suppress

from pipeline.errors import InputError, NotFoundError, StudyError
from pipeline.home import Home
from pipeline.study.reporter import say
from pipeline.tracking.experiments import find_by_name, home_experiments, settle_move
from pipeline.tracking.views import TAG, VIEWS, page, studies_page
from pipeline.workers import handle_signals

START_SECONDS = 60  # until the server answers
STOP_SECONDS = 5  # until its processes are killed
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last where the terminal is closed
HINT = "where a page shows GenAI at the top left, choose Model training there once; the browser remembers it"


def serve(home: Home, study: str | None, port: int, open_browser: bool) -> None:
    """Serve the UI until the user interrupts it, opened at a study's leaderboard, or at a list of the studies.

    Raises:
        NotFoundError: the home has no tracking store yet, or no such study.
        InputError: the port is taken.
        StudyError: the server did not start, it ended unasked, or a moved home left its artifacts behind.
    """
    page, lines = _pages(home, study)
    if not home.local_tracking:
        base = f"{home.tracking_shown.rstrip('/')}/"
        say("\n".join(["the tracking server has its own UI", *(f"{what}: {base}{where}" for what, where in lines)]))
        return
    port = _free(port)
    settle_move(home)  # the server finds pictures by the stored paths
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # The server's job runners, for evaluating language models, would be eight more processes.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    null = subprocess.DEVNULL
    server = None
    with handle_signals(signal.default_int_handler, ENDINGS):
        try:
            # Its processes do not end with it: they share a session, so that they can be ended together.
            server = subprocess.Popen(command, stdout=null, stderr=null, env=environment, start_new_session=True)
            _wait(server, port)
            base = f"http://127.0.0.1:{port}/"
            say("\n".join([*(f"{what}: {base}{where}" for what, where in lines), HINT, "press Ctrl-C to stop it"]))
            if open_browser:
                webbrowser.open(base + page)
            server.wait()
            raise StudyError(f"the MLflow server ended unexpectedly with exit code {server.returncode}")
        except KeyboardInterrupt:
            pass
        finally:
            if server is not None:
                _end(server)


def _pages(home: Home, study: str | None) -> tuple[str, list[tuple[str, str]]]:
    """The page to open, and what to print: pages with their names."""
    if study is not None and home.has_tracking():
        experiment = find_by_name(home, study)
        lines = _views(experiment.experiment_id, experiment.tags)
        return lines[0][1], lines
    found = sorted((e for e in home_experiments(home) if e.lifecycle_stage == "active"), key=lambda e: e.name)
    if not found:
        raise NotFoundError(f"there is no study in {home.path} yet; start one with: study run FILE")
    lines = [(e.name, _views(e.experiment_id, e.tags)[0][1]) for e in found]
    if len(lines) == 1:
        return lines[0][1], lines
    several = studies_page([e.experiment_id for e in found])
    return several, [("studies", several), *lines]


def _views(experiment_id: str, tags: Mapping[str, str]) -> list[tuple[str, str]]:
    """The saved views of a study by name; of one that has none yet, its runs."""
    if TAG + "leaderboard" not in tags:
        return [("runs", page(experiment_id))]
    return [(name.lower(), page(experiment_id, key)) for key, name in VIEWS.items()]


def _free(port: int) -> int:
    """The port, if it is free; a free one for 0."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InputError(f"--port {port}: taken on 127.0.0.1; give another, or 0 for a free one") from None
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Wait until the server answers, so that the address that is printed works."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StudyError(f"the MLflow server did not start (exit code {server.returncode})")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise StudyError(f"the MLflow server did not answer within {START_SECONDS} s")


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and every process that it started: by SIGTERM, then by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_SECONDS
        with suppress(ProcessLookupError):  # no process of the group is left
            os.killpg(server.pid, number)
            while time.monotonic() < deadline:
                server.poll()
                os.killpg(server.pid, 0)
                time.sleep(0.05)
