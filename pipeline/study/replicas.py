"""The replicates of a study as a session of their own, in which each is a trial.

Comes in: a study's session. Goes out: one in which the driver, `finish` and `doctor` work on replicates: other labels,
other configurations, other folders for checkpoints; the same experiment, workers and lock.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.study_config import NoPruner
from pipeline.search.records import ended
from pipeline.search.replicates import Replicate, Replicates, stored_replicates
from pipeline.study.session import RunLabel, Session
from pipeline.tracking.uids import PARENT_TAG, replicate_uid


def replicas(session: Session, keys: Sequence[Replicate] | None = None) -> Session:
    """A session of these replicates; without ``keys`` of all that have ended. No model of theirs is kept exported."""
    keys = list(stored_replicates(session.search)) if keys is None else keys
    longest = max((key.epochs for key in keys), default=session.config.budget.epochs)
    budget = session.config.budget.model_copy(update={"trials": len(keys), "epochs": longest, "keep_models": 0})
    config = session.config.model_copy(update={"budget": budget, "pruner": NoPruner()})
    parents = {trial.number: trial.summary.run_id for trial in ended(session.search.records())}
    labels = [replicate_label(session, key, parents[key.trial]) for key in keys]
    return replace(session, config=config, search=Replicates(session.search, keys), label=labels.__getitem__)


def replicate_label(session: Session, key: Replicate, parent: str) -> RunLabel:
    """The label of a replicate; its run is nested under its trial's, which is ``parent``."""
    longer = "" if key.epochs == session.config.budget.epochs else f"-{key.epochs}-epochs"
    return RunLabel(
        replicate_uid(session.search.uid, key.trial, key.epochs, key.seed),
        f"trial-{key.trial:04d}-seed-{key.seed}{longer}",
        {"study.role": "replicate", "trial.number": str(key.trial), "replicate": str(key.seed), PARENT_TAG: parent},
        f"replicate-{key.trial}-{key.epochs}-{key.seed}",
        key.trial,
        {"replicate": key.seed, "epochs": key.epochs},
    )
