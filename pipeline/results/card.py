"""What a registered version is, in Markdown: what it restores, how well, beside what, and where it comes from.

Comes in: a study's summary, a trial, the gate's verdict and figures with their intervals. Goes out: the description
that MLflow's page of the version shows. May not import torch or mlflow.
"""

import shlex
from collections.abc import Mapping
from functools import partial

from pipeline.config.choices import METRICS
from pipeline.evaluation.intervals import Interval
from pipeline.results.gate import Verdict
from pipeline.results.summary import Configuration, StudySummary
from pipeline.search.records import EndedTrial
from pipeline.study.reporter import degradation, md_text, shown_value
from pipeline.tracking.runs import PANEL_FILE, StoredRun
from pipeline.tracking.views import run_page

LENGTH = 5000  # characters that a store takes
MOST_CLASSES = 12  # that are shown
WORST_FILE = "select-worst.png"  # of the run


def card(
    summary: StudySummary,
    trial: EndedTrial,
    verdict: Verdict,
    splits: Mapping[str, Mapping[str, Interval]],
    baselines: Mapping[str, Mapping[str, float]],
    classes: Mapping[str, float],
    reason: str,
    run: StoredRun,
    store: tuple[str, str],
) -> str:
    """The description of a version.

    Args:
        summary: the study.
        trial: the trial that was promoted.
        verdict: of the gate.
        splits: its figures on *select* and on *test*, by heading and metric.
        baselines: the baselines' figures on *select*.
        classes: the share kept per class on *select*; empty without classes.
        reason: why it was promoted, in the user's words.
        run: its run.
        store: the id of its experiment, and MLflow's store as it may be printed.
    """
    config, best = summary.config, trial.summary
    place = [each.number for each in summary.ranked].index(trial.number) + 1
    replicated = summary.configurations.get(trial.number)
    order = "best" if place == 1 else f"number {place}"
    name, page = config.model_name, partial(run_page, store[0], run.run_id)
    settings = ", ".join(f"{key} {md_text(shown_value(value))}" for key, value in trial.params.items())
    cost = f"{best.cost['parameters']:,} parameters, {best.cost['multiply_adds']:,} multiply-adds per image"
    serve = f"MLFLOW_TRACKING_URI={shlex.quote(store[1])} \\\n"
    serve += "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false \\\n"
    serve += f"mlflow models serve -m models:/{name}@champion --env-manager local --host 127.0.0.1 -p 5001"
    kept = ", ".join(f"{label} {share:.1%}" for label, share in classes.items())
    lines = [
        f"**{verdict.candidate.capitalize()} of study {md_text(summary.name)}** restores images of "
        f"{md_text(config.dataset)} after {degradation(config.degrade)}. It is {order} of {len(summary.ranked)} "
        "complete trials on val.",
        _figures(best.metrics, splits, baselines),
        "val chose the epoch and the trial, so its figures flatter; select decided whether to promote it; test was "
        "read for this table only. In brackets: 95 % intervals over images, which hold for these weights.",
        f"**Gate**: {md_text(verdict.text)}.",
        *([] if verdict.passed else ["**Promoted by force.**"]),
        *([_seeds(summary, replicated)] if replicated else []),
        f"**Beyond these weights**: {md_text(verdict.about_configurations)}.",
        *([f"**Why**: {md_text(reason)}"] if reason else []),
        *([f"**Class kept on select**: {kept}."] if 0 < len(classes) <= MOST_CLASSES else []),
        f"**Settings**: {settings or 'no searched key'}; {cost}; epoch {best.best_epoch} of {best.epochs}.",
        f"**From** this [run]({page()}), with its [picture]({page(PANEL_FILE)}) and the [worst restorations of select]"
        f"({page(WORST_FILE)}); sha256 of the study file `{run.tags.get('study.file_sha256', 'unknown')[:12]}`, of the "
        f"data `{summary.facts['data.sha256'][:12]}`.",
        f'While it is champion, `pipeline.load_model("{name}")` loads it in Python, and this serves it:',
        f"```sh\n{serve}\n```",
    ]
    return "\n\n".join(lines)[:LENGTH]


def _seeds(summary: StudySummary, replicated: Configuration) -> str:
    form, found = summary.form, replicated.interval
    return (
        f"**Seeds**: {summary.metric} on val {form.shown(found.mean)} {found.shown(form.decimals)}, the mean of "
        f"{replicated.counted} seeds with Student's 95 % interval; standard deviation {replicated.sd:.3g}."
    )


def _figures(
    val: Mapping[str, float],
    splits: Mapping[str, Mapping[str, Interval]],
    baselines: Mapping[str, Mapping[str, float]],
) -> str:
    """A table of every metric: of the version on each split, and of the baselines on *select*."""
    headings = ["on val", *splits, *(f"baseline {name}, on select" for name in baselines)]
    table = [["", *(f"&emsp;{name}&emsp;" for name in headings)], ["---"] * (len(headings) + 1)]  # MLflow sets no space
    for key in splits["on test"]:
        form = METRICS[key]
        cells = [form.shown(val[f"val/{key}"])]
        cells += [f"{form.shown(each[key].mean)} {each[key].shown(form.decimals)}" for each in splits.values()]
        table.append([key, *cells, *(form.shown(each[key]) for each in baselines.values())])
    return "\n".join(f"| {' | '.join(row)} |" for row in table)
