"""Runs as a user names them: by the beginning of an id, by study and trial, by name; and a home's single trainings.

Comes in: a home and what was typed. Goes out: a run id, or the trainings that MLflow has. Imports no torch.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import ValidationError

from pipeline.config import TrialConfig
from pipeline.errors import InputError, NotFoundError
from pipeline.home import Home
from pipeline.search.records import EndedTrial, numbered
from pipeline.search.studies import load_search
from pipeline.tracking.experiments import STUDY_TAG
from pipeline.tracking.runs import StoredRun, find_runs
from pipeline.tracking.uids import CONFIG_TAG

FORMS = "a run id or its beginning, STUDY/TRIAL, or a run's name with --study"
MOST_NAMED = 4  # runs in a message


@dataclass(frozen=True)
class StoredTraining:
    """A single training as MLflow has it."""

    study: str
    name: str
    run_id: str
    status: str  # of the run
    started: datetime
    metrics: dict[str, float]
    config: TrialConfig | None  # None where somebody edited it


def find_run(home: Home, run: str, study: str | None = None) -> str:
    """The id of the run that is named by an id, the beginning of one, STUDY/TRIAL, or its name in ``study``.

    Of a name the beginning will do as well, if no other run of the study begins so. An id of 32 characters is returned
    as it is.

    Raises:
        NotFoundError: there is no such study, trial or run.
        InputError: several runs are meant, or none can be; the message says what is allowed.
    """
    if re.fullmatch("[0-9a-f]{32}", run):
        return run
    if study is None and "/" in run:
        study, _, run = run.partition("/")
    if study is not None and re.fullmatch("[0-9]{1,6}", run):
        return _of_trial(home, study, int(run))
    found: list[StoredRun] = []
    if study is None:
        if not re.fullmatch("[0-9a-f]{1,31}", run):
            raise InputError(f"RUN {run[:80]!r}: allowed are {FORMS}")
        found = find_runs(home, f"attributes.run_id LIKE '{run}%'")
    elif re.fullmatch(r"[\w.-]+", run):
        begins = [r for r in find_runs(home, f"attributes.run_name LIKE '{run}%'", study) if r.name.startswith(run)]
        found = [r for r in begins if r.name == run] or begins
    where = f"study {study}" if study else str(home.path)
    if not found:
        raise NotFoundError(f"no run of {where} is named {run!r}, nor begins so; allowed are {FORMS}")
    if len(found) > 1:
        named = [f"{r.run_id[:12]} ({r.name} of {r.tags.get(STUDY_TAG, 'no study')})" for r in found[:MOST_NAMED]]
        more = ", …" if len(found) > MOST_NAMED else ""
        raise InputError(f"RUN {run!r} begins {len(found)} runs: {', '.join(named)}{more}; give more of one")
    return found[0].run_id


def _of_trial(home: Home, study: str, number: int) -> str:
    record = numbered(load_search(home, study).records(), number, study)
    if not isinstance(record, EndedTrial):
        raise InputError(f"trial {number} of {study} has not ended")
    return record.summary.run_id


def trainings(home: Home, study: str | None = None) -> list[StoredTraining]:
    """The single trainings of a home, or of one name, in the order of their starts. Raises as `find_runs`."""
    return [
        StoredTraining(
            run.tags.get(STUDY_TAG, ""),
            run.name,
            run.run_id,
            run.status,
            datetime.fromtimestamp(run.started, UTC),
            run.metrics,
            _config(run),
        )
        for run in find_runs(home, "tags.`study.role` = 'train'", study)
    ]


def _config(run: StoredRun) -> TrialConfig | None:
    try:
        return TrialConfig.model_validate_json(run.tags.get(CONFIG_TAG, ""))
    except ValidationError:
        return None
