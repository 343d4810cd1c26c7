"""A study with a champion is harmed again and again, and must end with the numbers of an uninterrupted one.

    python tests/soak.py [--minutes 30 | --harms 12] [--servers] [--seed 0] [--only driver_killed,worker_killed]

The harms are the functions of `soak_harms`: a driver or a worker is killed or stopped, servers are away, somebody edits
in MLflow's UI, copies the home or restores a backup. They come in random order, all before the first comes again. After
each, the same `study run` must complete the study, `study doctor` must find nothing, and the champion must restore the
same image to the last bit. At the end every number is compared with an uninterrupted study on plain files. Beside the
home are a second home and a foreign folder whose paths stand in the database, and neither may change.

With ``--servers`` both homes are on one MLflow server and one PostgreSQL. Prints a table of harms and outcomes. The
exit code is 1 if anything was not as expected; the folder is then kept.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from servers import MlflowServer, Served, postgres_programs, running_postgres
from soak_harms import HARMS, PLAIN_ONLY, SERVERS_ONLY
from soak_world import NAME, Soak
from studies_for_tests import Launcher


def chosen(arguments: argparse.Namespace, chance: random.Random) -> Iterator[str]:
    """The names of harms: all in random order, then all in another order, until the time is over."""
    started, count = time.monotonic(), 0
    unfit = PLAIN_ONLY if arguments.servers else SERVERS_ONLY
    names = arguments.only or [name for name in HARMS if name not in unfit]
    while True:
        for name in chance.sample(names, len(names)):
            over = count >= arguments.harms if arguments.harms else time.monotonic() - started > 60 * arguments.minutes
            if over:
                return
            count += 1
            yield name
        if arguments.only and not arguments.harms:
            return


def soaked(soak: Soak, arguments: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Each harm's name and what went wrong, if anything; then the checks at the end."""
    soak.begin()
    for name in chosen(arguments, soak.chance):
        started = time.monotonic()
        problem = ""
        try:
            HARMS[name](soak)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}".removeprefix("AssertionError: ")
        print(f"{name:34s} {time.monotonic() - started:4.0f} s  {problem or 'as expected'}", flush=True)
        yield name, problem
    try:
        soak.settle()
        plain = Served(soak.folder / "undisturbed", soak.file)
        soak.make(NAME, soak.trials, plain)
        soak.ask("promote", NAME, "--trial", str(soak.promoted), place=plain)
        yield "numbers differ", "\n".join(soak.differences(plain))
    except Exception as error:
        yield "the end", f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def opened(folder: Path, arguments: argparse.Namespace) -> Iterator[Soak]:
    with contextlib.ExitStack() as stack:
        (folder / "commands").mkdir()
        launcher = stack.enter_context(contextlib.closing(Launcher(folder / "commands")))
        servers = None
        if arguments.servers:
            programs = postgres_programs()
            if programs is None:
                sys.exit("--servers: no PostgreSQL in /usr/lib/postgresql")
            postgres = stack.enter_context(running_postgres(programs))
            (folder / "server").mkdir()
            server = MlflowServer(folder / "server", postgres.database())
            stack.callback(server.kill)
            server.start()
            servers = postgres, server
        yield Soak(folder, arguments.seed, launcher, servers)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--harms", type=int, help="this many harms instead")
    parser.add_argument("--only", type=lambda text: text.split(","), help="only these harms, once each")
    parser.add_argument("--servers", action="store_true", help="on PostgreSQL and an MLflow server")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(words)
    if unknown := set(arguments.only or ()) - set(HARMS):
        parser.error(f"unknown {', '.join(sorted(unknown))}; harms: {', '.join(HARMS)}")
    folder, started = Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    with opened(folder, arguments) as soak:
        outcomes = list(soaked(soak, arguments))
        trials = soak.trials
    failed = [(name, problem) for name, problem in outcomes if problem]
    counts = {name: [n for n, _ in outcomes].count(name) for name in HARMS}
    print(f"\n{'harm':34s} times  not as expected")
    for name, count in counts.items():
        if count:
            wrong = sum(1 for other, _ in failed if other == name)
            print(f"{name:34s} {count:5d}  {wrong or ''}")
    where, seconds = "servers" if arguments.servers else "plain files", time.monotonic() - started
    print(f"\n{sum(counts.values())} harms in {seconds:.0f} s on {where}, {trials} trials, seed {arguments.seed}")
    if failed:
        print(f"the folder is kept: {folder}")
        for name, problem in failed:
            print(f"{name}: {problem[:2000]}")
        return 1
    shutil.rmtree(folder)
    print(
        "numbers identical to an uninterrupted study's; the champion loads; doctor: all is well; neighbours unchanged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
