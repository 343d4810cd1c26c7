"""The MLflow UI on a home, served on 127.0.0.1 only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from contextlib import suppress

from pipeline.errors import InputError, NotFoundError, StudyError
from pipeline.home import Home

STARTING_S = 60
POLITELY_S = 5


def serve(home: Home, study: str | None, port: int, open_browser: bool) -> None:
    """Serve the UI until it is interrupted.

    Args:
        home: whose tracking store is shown.
        study: open at this study's runs; None at the list of experiments.
        port: on 127.0.0.1; 0 takes a free one.
        open_browser: also open a browser window, where there is one.

    Raises:
        NotFoundError: the home has no tracking store yet, or no such study.
        InputError: the port is taken.
        StudyError: the server ended by itself.
    """
    from pipeline.tracking.runs import read_tracking

    if not home.has_tracking():
        raise NotFoundError(f"there is no study in {home.path} yet; start one with: study run FILE")
    page = f"/#/experiments/{read_tracking(home, study).experiment_id}/runs" if study else "/"
    if not home.local_tracking:
        print(f"the tracking server has its own UI: {home.tracking_uri.rstrip('/')}{page}")
        return
    port = _free(port)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", home.tracking_uri]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # A session of its own, because the server starts further processes and ending it does not end them.
    # Its job runners (for evaluating language models) are eight more processes that a study has no use for.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    nowhere = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=nowhere, stderr=nowhere, env=environment, start_new_session=True)
    before = {which: signal.signal(which, signal.default_int_handler) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        _wait(server, port)
        address = f"http://127.0.0.1:{port}{page}"
        print(f"MLflow UI: {address}\nCtrl-C ends it", flush=True)
        if open_browser:
            webbrowser.open(address)
        server.wait()
        raise StudyError(f"the MLflow server ended by itself with exit code {server.returncode}")
    except KeyboardInterrupt:
        pass
    finally:
        _end(server)
        for which, handler in before.items():
            signal.signal(which, handler)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and all that it started; politely, then not."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, how)
        deadline = time.monotonic() + POLITELY_S
        while time.monotonic() < deadline and _group_alive(server):
            time.sleep(0.05)


def _group_alive(server: subprocess.Popen[bytes]) -> bool:
    server.poll()
    try:
        os.killpg(server.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _free(port: int) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise InputError(f"--port {port}: taken on 127.0.0.1; give another, or 0 for a free one") from None
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], port: int) -> None:
    """Until the server answers, so that the address that is printed works."""
    deadline = time.monotonic() + STARTING_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise StudyError(f"the MLflow server did not start (exit code {server.returncode})")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise StudyError(f"the MLflow server did not answer within {STARTING_S} s")
