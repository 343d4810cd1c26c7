"""The study's own run in MLflow: its file, its resolved form and the contact sheet of the best trials.

Comes in: a session and the outcome of its driver. Goes out: artifacts of the run ``study``.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.config import StudyFile
from pipeline.results.pictures import contact_sheet
from pipeline.search.records import ended, ranked
from pipeline.study.driver import SHEET_TRIALS, StudyOutcome
from pipeline.study.session import Session
from pipeline.tracking.runs import CONTACT_SHEET, STUDY_FILES
from pipeline.tracking.uids import baseline_uid, study_run_uid


def publish(session: Session, file: StudyFile, outcome: StudyOutcome) -> StudyOutcome:
    """Write the study's own run, unless the results of all trials are published; add where the contact sheet is."""
    search, tracking = session.search, session.tracking
    uid, trials = study_run_uid(search.uid), ended(outcome.records)
    run = tracking.find(uid)
    run_id = run.run_id if run else None
    if run_id is None or search.published != len(trials):
        tags = session.tags | {"study.role": "study"}
        params = {"dataset": session.config.dataset}  # not the total: it may grow, and params cannot change
        run_id = tracking.run(uid, "study", tags, params, session.data, time.time())
        for name, text in zip(STUDY_FILES, (file.text, json.dumps(session.config.canonical(), indent=2)), strict=True):
            tracking.log_text(run_id, text, name)
        if panels := _panels(session, outcome):
            tracking.log_picture(run_id, contact_sheet(panels), CONTACT_SHEET)
        states = [trial.state for trial in trials]
        counts = {f"trials_{state.lower()}": float(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")}
        tracking.log_figures(run_id, counts)
        tracking.end(run_id, "COMPLETE")
        search.published = len(trials)
    return replace(outcome, contact_sheet=tracking.local_file(run_id, CONTACT_SHEET))


def _panels(session: Session, outcome: StudyOutcome) -> dict[str, np.ndarray]:
    """Panels by label: baselines, then the best trials; those of earlier runs are read back from MLflow."""
    search, tracking, found = session.search, session.tracking, {}

    def add(what: str, metrics: Mapping[str, float], key: str | int, run_id: str, epoch: int) -> None:
        panel = outcome.panels[key] if key in outcome.panels else tracking.panel(run_id, epoch)
        if panel is not None:
            found[f"{what}\n{session.config.objective.metric} {metrics[session.objective]:.4g}"] = panel

    for name, metrics in sorted(outcome.baselines.items()):
        run = tracking.find(baseline_uid(search.uid, name))
        if run is not None and name != "degraded":  # the sheet's second row shows it already
            add(f"baseline {name}", metrics, name, run.run_id, 0)
    for trial in ranked(outcome.records, session.config.objective.direction)[:SHEET_TRIALS]:
        summary = trial.summary
        add(f"trial {trial.number}", summary.metrics, trial.number, summary.run_id, summary.best_epoch)
    return found
