"""`study replicate`: train the best configurations of a study again with other seeds.

Comes in: a study's name, how many trials, how many seeds. Goes out: replicates, each an attribute of the study in
Optuna's database and a run in MLflow, nested under its trial's. The driver is the study's own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.config import StudyFile
from pipeline.errors import InputError
from pipeline.home import Home
from pipeline.search.ask_tell import Search
from pipeline.search.records import ranked
from pipeline.search.replicates import Replicate, stored_replicates
from pipeline.search.studies import check_owner, load_search
from pipeline.study.doctor.examine import examine
from pipeline.study.doctor.findings import repair
from pipeline.study.driver import Driver
from pipeline.study.replicas import replicas
from pipeline.study.reporter import Reporter
from pipeline.study.session import Options, Session, open_session
from pipeline.study.window import Window
from pipeline.tracking.uids import replicate_uid

FROM_TRIAL = ("study.file_sha256", "study.overrides")  # tags of a replicate's run that are those of its trial's


@contextmanager
def replicated(
    home: Home, name: str, top: int, seeds: int, epochs: int | None, options: Options, reporter: Reporter
) -> Iterator[Session]:
    """Train the best trials again, as `pipeline.api.replicate_study`; the session is what is left to work with."""
    home.check_writable()
    search = load_search(home, name)
    check_owner(home, search)
    keys = _wanted(search, top, seeds, epochs)
    file = StudyFile(Path(name), "", (), search.config)
    device = search.facts["device"]
    options = replace(options, device="cuda" if device == "cuda" else "cpu")
    with open_session(file, home, options, reporter, train=True) as session:
        repair(examine(session), reporter, session.stop)
        _train(session, keys)
        yield session


def _wanted(search: Search, top: int, seeds: int, epochs: int | None) -> list[Replicate]:
    """The replicates that are asked for: the first seed of every trial first, so that an early end leaves them even."""
    config = search.config
    best = ranked(search.records(), config.objective.direction)[:top]
    if not best:
        raise InputError(f"study {config.name} has no complete trial to replicate")
    epochs = epochs or config.budget.epochs
    return [Replicate(trial.number, epochs, seed) for seed in range(1, seeds + 1) for trial in best]


def _train(session: Session, keys: list[Replicate]) -> None:
    """Train those of these replicates that have not ended; those that were begun come first."""
    search, tracking = session.search, session.tracking
    known, uids = stored_replicates(search), {run.tags.get("trial.uid") for run in tracking.runs()}
    missing = [key for key in keys if key not in known]
    if not missing:
        return
    begun = [key for key in missing if replicate_uid(search.uid, key.trial, key.epochs, key.seed) in uids]
    rest = [key for key in missing if key not in begun]
    done = [key for key in keys if key in known]
    part = replicas(session, [*begun, *rest, *done])
    if (trial := tracking.read(search.ended(missing[0].trial).summary.run_id)) is not None:
        of_trial = {key: trial.tags[key] for key in FROM_TRIAL if key in trial.tags}
        part = replace(part, tags=session.tags | of_trial)
    workers = session.workers
    session.reporter.begun(part.config, session.data, [known[key] for key in done], workers.slots, 0.0)
    width = max(session.config.budget.concurrency, workers.slots, len(begun))
    Driver(part, workers, Window(len(missing), width, resumed=range(len(begun)))).run()
    search.published = None  # the ranking is another one now
