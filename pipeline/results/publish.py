"""The study's own run in MLflow: its file, its resolved form and the contact sheet of the best trials.

Comes in: a session and the outcome of its driver. Goes out: artifacts of the run ``study``. A step that can be
repeated: nothing is done where the results of all trials are published already.
"""

from __future__ import annotations

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
from pipeline.tracking.runs import CONTACT_SHEET
from pipeline.tracking.uids import baseline_uid, study_run_uid


def publish(session: Session, file: StudyFile, outcome: StudyOutcome) -> StudyOutcome:
    """Write the study's own run; the outcome with the contact sheet's location."""
    search, tracking = session.search, session.tracking
    uid, trials = study_run_uid(search.uid), ended(outcome.records)
    run = tracking.find(uid)
    run_id = run.run_id if run else None
    if run_id is None or search.published != len(trials):
        tags = session.tags | {"study.role": "study"}
        params = {"dataset": session.config.dataset}  # not the total: it may grow, and params cannot change
        run_id = tracking.run(uid, "study", tags, params, session.data, time.time())
        tracking.log_text(run_id, file.text, "study.toml")
        tracking.log_text(run_id, json.dumps(session.config.canonical(), indent=2), "study.json")
        panels = _panels(session, outcome)
        if panels:
            tracking.log_picture(run_id, contact_sheet(panels), CONTACT_SHEET)
        states = [trial.state for trial in trials]
        counts = {f"trials_{state.lower()}": float(states.count(state)) for state in ("COMPLETE", "PRUNED", "FAIL")}
        tracking.log_figures(run_id, counts)
        tracking.end(run_id, "COMPLETE")
        search.published = len(trials)
    return replace(outcome, contact_sheet=tracking.local_file(run_id, CONTACT_SHEET))


def _panels(session: Session, outcome: StudyOutcome) -> dict[str, np.ndarray]:
    """Panels by label: baselines, then the best trials; those of earlier runs are read back from MLflow."""
    tracking, found = session.tracking, {}

    def label(what: str, metrics: Mapping[str, float]) -> str:
        return f"{what}\n{session.config.objective.metric} {metrics[session.objective]:.4g}"

    for name, metrics in sorted(outcome.baselines.items()):
        if name != "degraded":  # the sheet's second row shows it already
            panel = outcome.panels.get(name)
            if panel is None and (run := tracking.find(baseline_uid(session.search.uid, name))):
                panel = tracking.panel(run.run_id, 0)
            found[label(f"baseline {name}", metrics)] = panel
    for trial in ranked(outcome.records, session.config.objective.direction)[:SHEET_TRIALS]:
        summary, panel = trial.summary, outcome.panels.get(trial.number)
        if panel is None:
            panel = tracking.panel(summary.run_id, summary.best_epoch)
        found[label(f"trial {trial.number}", summary.metrics)] = panel
    return {label: panel for label, panel in found.items() if panel is not None}
