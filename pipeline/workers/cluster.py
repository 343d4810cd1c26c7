"""The Dask scheduler and its workers: started on this machine, or found by an address.

Comes in: a number of processes, or an address, a scheduler file and TLS files. Goes out: `DaskWorkers`.
"""

import json
import logging
import os
import re
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from pipeline.errors import EngineError, InputError, first_line
from pipeline.workers.dispatch import DaskWorkers, Own
from pipeline.workers.needs import Needs
from pipeline.workers.process import ThisProcess
from pipeline.workers.tasks import Note, Workers

PAGES: dict[str, list[str]] = {f"distributed.{role}.http.routes": [] for role in ("scheduler", "worker")}  # none
FORKED = sys.platform == "linux"  # elsewhere a process that has loaded torch cannot be forked safely
PRELOADED = ["pipeline.workers.inside", "pipeline.epoch", "torch._dynamo"]  # what a worker needs
ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}  # as Dask gives its workers


@dataclass(frozen=True)
class Cluster:
    """A running Dask scheduler."""

    address: str
    tls: tuple[str, ...] = ()  # files of the authority, the certificate and the key


def cluster_at(
    where: str | Path | None, tls_ca: Path | None = None, tls_cert: Path | None = None, tls_key: Path | None = None
) -> Cluster | None:
    """The cluster that the options name. Raises InputError if a file is missing or they do not fit together."""
    options = {"--tls-ca": tls_ca, "--tls-cert": tls_cert, "--tls-key": tls_key}
    given = {option: path for option, path in options.items() if path is not None}
    missing = [option for option in options if option not in given]
    if given and where is None:
        raise InputError(f"{next(iter(given))}: belongs to --cluster")
    if given and missing:
        raise InputError(f"{next(iter(given))}: give {' and '.join(missing)} as well")
    if where is None:
        return None
    for option, path in given.items():
        if not path.is_file():
            raise InputError(f"{option} {path}: there is no such file")
    address = _address(str(where), "tls" if given else "tcp")
    if address.startswith("tls:") != bool(given):
        raise InputError(f"--cluster {address}: --tls-ca, --tls-cert and --tls-key belong to a tls:// address")
    return Cluster(address, tuple(map(str, given.values())))


def _address(where: str, protocol: str) -> str:
    """The address that a scheduler file contains, or that is given as it is."""
    if Path(where).is_file():
        try:
            return str(json.loads(Path(where).read_bytes())["address"])
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(f"--cluster {where}: not a scheduler file, as `dask scheduler` writes it") from None
    if "://" in where:
        return where
    if re.fullmatch(r"[\w.-]+:\d+", where):
        return f"{protocol}://{where}"
    raise InputError(f"--cluster {where}: neither an address, such as tcp://host:8786, nor a scheduler file")


def preload() -> None:
    """Begin to load what workers need, in a process of its own from which `start` forks them: once, for all of them.

    It reads and writes nothing else, and ends with this process. A second call has no effect.
    """
    if FORKED:
        own = dict(os.environ)
        forkserver.set_forkserver_preload(PRELOADED)
        os.environ.update(ONE_THREAD | own)
        forkserver.ensure_running()
        for name in ONE_THREAD.keys() - own.keys():
            del os.environ[name]


def start(count: int, needs: Needs, note: Note) -> Workers:
    """Start ``count`` processes on this machine, which admit this user only; 0 runs everything in this one.

    Raises:
        EngineError: the workers do not start.
    """
    if count == 0:
        return ThisProcess()
    preload()
    import dask
    from distributed import Client, LocalCluster, Security, WorkerPlugin

    class LeaveInterruptsToTheDriver(WorkerPlugin):
        """Ctrl-C reaches every process of a terminal; only the driver handles it."""

        def setup(self, worker: Any) -> None:  # noqa: ARG002
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    _silence()
    try:
        forked = {"distributed.worker.multiprocessing-method": "forkserver"} if FORKED else {}
        with ExitStack() as opened, dask.config.set(PAGES | forked):
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                protocol="tls://",
                security=Security.temporary(),  # who reaches a scheduler can run code; these keys are in memory only
                dashboard_address="127.0.0.1:0",  # its HTTP servers always listen
                scheduler_kwargs={"dashboard": False},
                memory_limit=0,
                silence_logs=logging.CRITICAL,
            )
            opened.callback(cluster.close)
            client = opened.enter_context(Client(cluster, set_as_default=False))
            client.register_plugin(LeaveInterruptsToTheDriver())
            workers = DaskWorkers(client, needs, note, Own(cluster, count))
            opened.pop_all()  # whoever uses the workers closes them
            return workers
    except (OSError, RuntimeError, TimeoutError, ValueError) as error:  # Dask's own is a RuntimeError
        raise EngineError(f"the workers did not start: {first_line(error)}") from None


def attach(cluster: Cluster, needs: Needs, note: Note) -> DaskWorkers:
    """Use the workers of a running scheduler, which share this home and data folder; there may be none yet.

    Raises:
        EngineError: the scheduler cannot be reached, or cannot import this package.
    """
    from distributed import Client, Security

    def importable() -> bool:
        from importlib.util import find_spec

        return find_spec("pipeline") is not None

    _silence()
    where = f"--cluster {cluster.address}"
    try:
        security = None
        if cluster.tls:
            ca, certificate, key = cluster.tls
            security = Security(
                tls_ca_file=ca, tls_client_cert=certificate, tls_client_key=key, require_encryption=True
            )
        with ExitStack() as opened:
            client = opened.enter_context(Client(cluster.address, timeout=10, set_as_default=False, security=security))
            if not client.run_on_scheduler(importable):
                raise EngineError(f"{where}: the scheduler cannot import this package; install it there too")
            if not cluster.address.startswith("tls:"):
                note(f"{where}: without TLS, so anyone who reaches the scheduler can run code as its user")
            workers = DaskWorkers(client, needs, note)
            opened.pop_all()
            return workers
    except (ImportError, OSError, TimeoutError, ValueError) as error:  # Dask's of a scheduler it cannot talk to
        raise EngineError(f"{where}: cannot be reached: {first_line(error)}") from None


def _silence() -> None:
    import dask

    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})  # weights are sent to be exported
