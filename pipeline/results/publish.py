"""What MLflow shows of a study as a whole: its own run, ranks, colours, notes and saved views.

Comes in: a session and the outcome of its driver. Goes out: artifacts, tags and notes, made again when the study has
grown. Every step may be repeated.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.config import StudyFile
from pipeline.results.arrange import views
from pipeline.results.drawing import COLOURS, GREY, INK
from pipeline.results.export import render
from pipeline.results.figures import plots
from pipeline.results.material import Material, gather, stored_overrides, strips_of
from pipeline.results.notes import NOTE, REPORT_FILE, experiment_note, study_note, trial_note
from pipeline.results.pictures import contact_sheet
from pipeline.results.report import LINK_BASE, report
from pipeline.results.summary import StudySummary, summarise
from pipeline.results.table import study_table
from pipeline.study.driver import StudyOutcome
from pipeline.study.session import Session, experiment_heading
from pipeline.tracking.runs import CONTACT_SHEET, FILES_TAG, LEADERBOARD, STUDY_FILES, StoredRun
from pipeline.tracking.uids import study_run_uid
from pipeline.tracking.views import DRAWN, view_tags

RANK, COLOUR = "rank", "mlflow.runColor"


def publish(session: Session, file: StudyFile, outcome: StudyOutcome, with_report: bool) -> StudyOutcome:
    """Write all of it, unless the results of all trials are published; add where the report is.

    Without a report the page and the figures are left out.
    """
    search, tracking = session.search, session.tracking
    uid, told = study_run_uid(search.uid), search.told()
    run = tracking.find(uid)
    run_id = run.run_id if run else None
    if run_id is None or search.published != told:
        summary = summarise(search)
        tags = session.tags | {"study.role": "study"}
        params = {"dataset": session.config.dataset}  # not the total: it may grow, and params cannot change
        run_id = tracking.run(uid, f"study-{session.config.name}", tags, params, session.data, time.time())
        texts = (file.text, json.dumps(session.config.canonical(), indent=2))
        tracking.log_files(run_id, {name: text.encode() for name, text in zip(STUDY_FILES, texts, strict=True)})
        table = study_table(summary, baselines=True)
        tracking.log_files(run_id, {name: render(table, form) for form, name in LEADERBOARD.items()})
        written = [*STUDY_FILES, *LEADERBOARD.values()]
        if with_report:
            material = gather(session.home, search, summary, tracking)
            strips, page = material.strips, _report(session, summary, material)
            tracking.log_files(run_id, page)
            written += page
        else:
            strips = strips_of(summary, search.uid, tracking)
        if strips:
            tracking.log_files(run_id, {CONTACT_SHEET: contact_sheet(_labelled(summary, strips))})
        experiment_id = tracking.experiment_id
        tracking.tag(run_id, {FILES_TAG: " ".join(written)})  # so that `doctor` knows what is lost
        tracking.tag(run_id, {NOTE: study_note(summary, experiment_id, run_id, file.overrides, with_report)})
        runs = tracking.runs()
        _mark(session, summary, runs)
        note = experiment_note(
            summary,
            experiment_heading(session.config, session.data),
            experiment_id,
            run_id,
            file.overrides,
            with_report,
        )
        tracking.tag_experiment({NOTE: note} | view_tags(views(summary, runs), time.time()))
        tracking.end(run_id, "COMPLETE")
        search.published = told
    return replace(outcome, report=tracking.local_file(run_id, REPORT_FILE))


def publish_again(session: Session, with_report: bool) -> None:
    """Publish a study whose ranking has changed; one that was never published is left to `study run`."""
    tracking = session.tracking
    run = tracking.find(study_run_uid(session.search.uid))
    text = tracking.text(run.run_id, STUDY_FILES[0]) if run else None
    if run is not None and text is not None:
        file = StudyFile(Path(STUDY_FILES[0]), text, tuple(stored_overrides(run.tags)), session.config)
        publish(session, file, StudyOutcome(session.config), with_report)


def _report(session: Session, summary: StudySummary, material: Material) -> dict[str, bytes]:
    """The page and the figures, by path."""
    base = LINK_BASE if session.home.local_tracking else session.home.tracking_shown
    pictures = {f"plots/{name}": png for name, png in plots(summary, material).items()}
    return {REPORT_FILE: report(summary, material, base).encode(), **pictures}


def _labelled(summary: StudySummary, strips: Mapping[str | int, np.ndarray]) -> dict[str, np.ndarray]:
    """The strips of the contact sheet by label: clean, degraded, the baselines, the best trials."""
    values: dict[str | int, float] = {name: metrics[summary.objective] for name, metrics in summary.baselines.items()}
    values |= {trial.number: summary.value(trial) for trial in summary.ranked}
    found = {}
    for key, strip in strips.items():
        label = f"trial {key}" if isinstance(key, int) else f"baseline {key}" if key in values else key
        found[label + (f"\n{summary.metric} {summary.form.shown(values[key])}" if key in values else "")] = strip
    return found


def _mark(session: Session, summary: StudySummary, runs: Iterable[StoredRun]) -> None:
    """Give the runs of trials their rank, colour and note; what a run has already is not written again.

    The ten best have a colour each, the others are grey. A note is written once, so that a user may change it.
    """
    trials = {trial.summary.run_id: trial for trial in summary.ended}
    ranks = {trial.number: rank for rank, trial in enumerate(summary.ranked, 1)}
    for run in runs:
        wanted = {}
        if run.run_id in trials:
            trial = trials[run.run_id]
            rank = ranks.get(trial.number)
            wanted[COLOUR] = COLOURS[rank - 1] if rank is not None and rank <= DRAWN else GREY
            if rank is not None:
                wanted[RANK] = str(rank)
            if rank is not None and rank <= DRAWN and not run.tags.get(NOTE):
                wanted[NOTE] = trial_note(summary, trial, session.tracking.experiment_id)
        elif run.tags.get("study.role") == "baseline":
            wanted[COLOUR] = INK
        changed = {key: value for key, value in wanted.items() if run.tags.get(key) != value}
        if changed:
            session.tracking.tag(run.run_id, changed)
