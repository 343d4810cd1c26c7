"""The notes that MLflow shows of a study: of its experiment, of its own run, of its best trials.

Comes in: a `StudySummary` and the ids of MLflow's experiment and runs. Goes out: Markdown. What a study file says is
escaped. Links and pictures are relative to the page that shows the note, whatever its server. May not import mlflow.
"""

from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from pipeline.config.choices import METRICS
from pipeline.results.export import render
from pipeline.results.summary import StudySummary
from pipeline.results.table import FIGURES, study_table
from pipeline.search.records import EndedTrial
from pipeline.study.reporter import md_text, shown_value
from pipeline.tracking.runs import CONTACT_SHEET, PANEL_FILE, STUDY_FILES
from pipeline.tracking.views import VIEWS, page, run_page

NOTE = "mlflow.note.content"
NOTE_LENGTH = 8000  # characters that a store takes
TABLE_TRIALS = 10
TOO_WIDE = ("val/sharpness", "parameters", "epochs")  # for MLflow's page, which would break the words of the others
REPORT_FILE = "report.html"


def experiment_note(
    summary: StudySummary, asked: str, experiment_id: str, run_id: str, overrides: Sequence[str], report: bool
) -> str:
    """The experiment's heading. MLflow shows its first line, and the rest after a click.

    Args:
        summary: the study.
        asked: what it searches for, Markdown.
        experiment_id: the experiment's.
        run_id: of the study's own run.
        overrides: what ``--set`` changed of its file.
        report: whether that run has the report.
    """
    last = f" · {_report(experiment_id, run_id)}" if report else ""
    parts = [
        f"**{md_text(summary.name)}**: {_links(experiment_id)}{last}",
        _answer(summary),
        *([f"![restorations of the best trials]({_file(run_id, CONTACT_SHEET)})"] if summary.ranked else []),
        asked,
        "How to reproduce it:",
        _commands(summary, overrides),
    ]
    for trials in range(TABLE_TRIALS, -1, -1):  # a table with many long values may be too long
        table = study_table(summary, top=trials, state=("complete",), baselines=True)
        narrow = replace(table, columns=tuple(column for column in table.columns if column.key not in TOO_WIDE))
        note = "\n\n".join([*parts[:3], render(narrow, "md").decode().strip(), *parts[3:]])
        if len(note) <= NOTE_LENGTH:
            return note
    return "\n\n".join(parts)[:NOTE_LENGTH]


def study_note(summary: StudySummary, experiment_id: str, run_id: str, overrides: Sequence[str], report: bool) -> str:
    """The description of the study's own run."""
    with_report = f"{_report(experiment_id, run_id)} ({REPORT_FILE}), its figures (plots), " if report else ""
    counts = ", ".join(f"{number} {what}" for what, number in summary.counts.items() if number)
    parts = [
        f"**{md_text(summary.name)}**: {_links(experiment_id)}",
        _answer(summary),
        f"Trials: {counts or 'none'}. Under Artifacts: {with_report}the leaderboard and the study file "
        f"({STUDY_FILES[0]}).",
        *([f"![restorations of the best trials]({_file(run_id, CONTACT_SHEET)})"] if summary.ranked else []),
        _commands(summary, overrides),
    ]
    return "\n\n".join(parts)[:NOTE_LENGTH]


def trial_note(summary: StudySummary, trial: EndedTrial, experiment_id: str) -> str:
    """The description of a complete trial's run. It holds nothing that changes as the study grows."""
    metrics, found = trial.summary.metrics, trial.summary
    rival, value = summary.best_baseline, summary.value(trial)
    text = f"**Trial {trial.number} of {md_text(summary.name)}**: {summary.metric} {summary.form.shown(value)} on "
    text += f"validation, at epoch {found.best_epoch} of {found.epochs}"
    if rival is not None:
        text += f"; that is {summary.lead(value)} than {rival.name}"
    settings = [f"{key} {md_text(shown_value(value))}" for key, value in trial.params.items()]
    names = [name for name in FIGURES if name != summary.metric and f"val/{name}" in metrics]
    figures = [f"{name} {METRICS[name].shown(metrics[f'val/{name}'])}" for name in names]
    figures += [f"{value:,} {key.replace('_', '-')}" for key, value in found.cost.items()]
    picture = run_page(experiment_id, found.run_id, PANEL_FILE)  # itself it is too wide for the page
    parts = [
        f"{text}. See its [picture]({picture}), or it beside the others: {_links(experiment_id)}.",
        f"It has {', '.join(settings or ['no searched key'])}; {', '.join(figures)}.",
    ]
    return "\n\n".join(parts)[:NOTE_LENGTH]


def _answer(summary: StudySummary) -> str:
    return " ".join(map(md_text, summary.answer()))


def _links(experiment_id: str) -> str:
    return " · ".join(f"[{name.lower()}]({page(experiment_id, view)})" for view, name in VIEWS.items())


def _report(experiment_id: str, run_id: str) -> str:
    return f"[report]({run_page(experiment_id, run_id, REPORT_FILE)})"


def _file(run_id: str, file: str) -> str:
    """The address of an artifact, for a picture in a note."""
    return f"get-artifact?path={quote(file)}&run_uuid={run_id}"


def _commands(summary: StudySummary, overrides: Sequence[str]) -> str:
    return "\n".join(["```sh", *summary.commands(STUDY_FILES[0], overrides), "```"])
