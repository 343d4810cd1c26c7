"""Runs `study` commands in separate processes, forked from one that has already imported the whole program.

`studies_for_tests.Launcher` starts this file as a script. Each line on standard input is a request for one command.
The command runs in a fork: it can be killed like any process, and it starts in milliseconds. A request can also name
a text and a number n. The command then kills itself with SIGKILL just before it sends the n-th database statement that
contains the text, so that tests can kill it at an exact point.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any


def kill_before(text: str, count: int) -> None:
    """Kill this process before the ``count``-th statement that contains ``text``. A commit counts as ``COMMIT``."""
    import sqlalchemy

    seen = 0

    def before_statement(statement: str) -> None:
        nonlocal seen
        seen += text in statement
        if seen >= count:
            os.kill(os.getpid(), signal.SIGKILL)

    listen, engine = sqlalchemy.event.listen, sqlalchemy.engine.Engine
    listen(engine, "before_cursor_execute", lambda *given: before_statement(given[2]))
    listen(engine, "commit", lambda _: before_statement("COMMIT"))


def command(request: dict[str, Any]) -> None:
    """Run the requested command in this process, then exit."""
    os.setsid()
    for stream in ("stdout", "stderr"):
        os.dup2(os.open(request[stream], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), getattr(sys, stream).fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request["cwd"])
    sys.argv = ["study", *request["arguments"]]
    if request["kill_before"]:
        kill_before(*request["kill_before"])

    from pipeline.cli import main

    code = 1
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def reply(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def main() -> None:
    import pipeline.api

    assert pipeline.api
    assert threading.active_count() == 1, "a process with threads must not be forked"
    reply(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            command(request)
        reply(pid=pid)
        _, status = os.waitpid(pid, 0)
        Path(request["status"]).write_text(str(os.waitstatus_to_exitcode(status)))
        reply(ended=pid)


if __name__ == "__main__":
    main()
