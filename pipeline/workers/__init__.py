"""Where tasks run: in this process, on Dask workers of this machine, or on those of a cluster.

Comes in: functions and their arguments under a key. Goes out: `Returned`, `Raised` or `Lost` under the same key, as
they come. Nothing else in the program knows which kind of workers there is; no other part may import distributed.
"""

from pipeline.workers.cluster import Cluster, attach, cluster_at, preload, start
from pipeline.workers.dispatch import DaskWorkers
from pipeline.workers.needs import Needs
from pipeline.workers.process import ThisProcess, handle_signals
from pipeline.workers.tasks import Lost, Note, Outcome, Raised, Returned, Workers
from pipeline.workers.timed import Timed

__all__ = [
    "Cluster",
    "DaskWorkers",
    "Lost",
    "Needs",
    "Note",
    "Outcome",
    "Raised",
    "Returned",
    "ThisProcess",
    "Timed",
    "Workers",
    "attach",
    "cluster_at",
    "handle_signals",
    "preload",
    "start",
]
