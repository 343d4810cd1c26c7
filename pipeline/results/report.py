"""A study's page: one HTML file that needs no network and no script, from the question to how to reproduce it.

Comes in: a `StudySummary`, its `Material`, and where MLflow's UI is. Goes out: HTML, the same bytes for the same study.
Whatever the study file or the data says is escaped. May not import torch.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from html import escape
from itertools import takewhile

import numpy as np
from matplotlib.figure import Figure

from pipeline.config import ByKey, Range
from pipeline.config.forms import Dimension
from pipeline.errors import StudyError
from pipeline.files import png
from pipeline.results import figures
from pipeline.results.drawing import WIDTH, svg
from pipeline.results.effects import effects
from pipeline.results.effects_shown import tables_of, texts_of
from pipeline.results.export import html_fragment
from pipeline.results.figures import AGAINST
from pipeline.results.front import COSTS, front
from pipeline.results.material import Material
from pipeline.results.summary import STATES, StudySummary
from pipeline.results.table import study_table
from pipeline.search.ask_tell import IMPORTANCES_FROM
from pipeline.search.records import EndedTrial, StoredTrial
from pipeline.study.reporter import degradation, shown_value
from pipeline.tracking.runs import STUDY_FILES
from pipeline.tracking.views import run_page

LINK_BASE = "http://127.0.0.1:5000"  # where `study ui` serves
TOP = 20  # trials in the leaderboard; where all are at most half as many again, it has all
FEW = f"Importances need {IMPORTANCES_FROM} ended trials: with fewer, PED-ANOVA would compare a handful with all."


def report(summary: StudySummary, material: Material, link_base: str) -> str:
    """The page as HTML. Every trial links to its run in the MLflow UI at ``link_base``."""
    page = _Page(summary, material, link_base.rstrip("/"))
    sections = {title: body for title, make in SECTIONS.items() if (body := make(page))}
    contents = " · ".join(f'<a href="#{_anchor(title)}">{title}</a>' for title in sections)
    body = "\n".join(f'<section id="{_anchor(t)}"><h2>{t}</h2>\n{text}\n</section>' for t, text in sections.items())
    title, config = escape(summary.name), summary.config
    linked = f"<p>Trials link to the MLflow UI at {escape(link_base)}; <code>study ui {title}</code> starts it.</p>\n"
    what = f"{escape(config.degrade.kind)} on {escape(config.dataset)}, ranked by validation {escape(summary.metric)}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="color-scheme" '
        f'content="light dark">\n<title>{title}: report of a study</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<header><h1>{title}</h1>\n<p>{what}</p>\n{linked}<nav>{contents}</nav></header>\n<main>\n{body}\n</main>\n"
        "</body>\n</html>\n"
    )


class _Page:
    """The sections of a page. Each is HTML, or empty where the study has nothing for it."""

    def __init__(self, summary: StudySummary, material: Material, base: str) -> None:
        self.summary, self.material = summary, material
        self.links = {
            trial.number: f"{base}/{run_page(material.experiment, trial.summary.run_id)}"
            for trial in summary.ended
            if trial.summary.run_id and material.experiment
        }

    def question(self) -> str:
        config, summary = self.summary.config, self.summary
        asked = _header(self.material.file, "Question")
        budget, better = config.budget, "higher" if summary.sign > 0 else "lower"
        text = (
            f"{budget.trials} trials of up to {budget.epochs} epochs, sampled by {config.sampling}, pruned by "
            f"{config.pruner.name}; ranked by validation {summary.metric} ({summary.form.unit}), {better} is better."
        )
        searched = {key: _form(config.space.dimension(key)) for key in config.space.searched()}
        return (
            (f'<p class="lead">{escape(asked)}</p>' if asked else "")
            + f"<p>{escape(text)}</p>"
            + ("<p>Searched:</p>" + _pairs(searched) if searched else "<p>Nothing is searched.</p>")
        )

    def data(self) -> str:
        config, material = self.summary.config, self.material
        facts = {"data set": config.dataset, "degradation": degradation(config.degrade)}
        if material.image_size:
            facts["images"] = "{} x {} pixels, grey".format(*material.image_size)
            facts["splits"] = ", ".join(f"{size:,} {split}" for split, size in material.sizes.items())
        samples = [(name, material.strips[name], "") for name in ("clean", "degraded") if name in material.strips]
        return _pairs(facts) + _strips("Ten validation images", samples)

    def answer(self) -> str:
        summary = self.summary
        sentences = [escape(sentence) for sentence in summary.answer()]
        if summary.best:
            named = f"Trial {summary.best.number}"
            sentences[0] = sentences[0].replace(named, self._link(summary.best, named), 1)
        return f'<p class="lead">{" ".join(sentences)}</p>{self._tiles()}'

    def _tiles(self) -> str:
        summary, best, rival = self.summary, self.summary.best, self.summary.best_baseline
        counts = {state: count for state, count in summary.counts.items() if count and state != "complete"}
        tiles = {
            f"of {len(summary.records)} trials complete"
            + (f"; {', '.join(f'{count} {state}' for state, count in counts.items())}" if counts else ""): str(
                summary.counts["complete"]
            )
        }
        if best:
            value = summary.merit(best)
            mean = "mean of the seeds" if best.number in summary.configurations else "best"
            tiles = {f"{mean} {summary.metric}, trial {best.number}": summary.form.shown(value)} | tiles
            if rival is not None:
                gap = summary.gap(value) or 0.0
                shown = summary.form.shown(abs(gap))
                tiles[f"{'better' if gap > 0 else 'worse'} than {rival.name}"] = shown
        tiles["training time of all trials"] = _duration(sum(trial.summary.duration_s for trial in summary.ended))
        cells = "".join(
            f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for what, value in tiles.items()
        )
        return f'<div class="tiles">{cells}</div>'

    def pictures(self) -> str:
        """The contact sheet: the same images as baselines and the best trials restore them."""
        summary, strips = self.summary, self.material.strips
        rows = []
        for name, strip in strips.items():
            if isinstance(name, str):
                metrics = summary.baselines.get(name)
                rows.append((name, strip, summary.form.shown(metrics[summary.objective]) if metrics else ""))
        for trial in summary.ranked:
            if trial.number in strips and trial.value is not None:
                row = (self._link(trial, f"trial {trial.number}"), strips[trial.number])
                rows.append((*row, summary.form.shown(trial.value)))
        note = "<p>The same ten validation images as the baselines and the best trials restore them, with the "
        note += f"{escape(summary.metric)} of the whole split.</p>"
        return note + _strips("Ten validation images", rows) if len(rows) > 2 else ""

    def leaderboard(self) -> str:
        records = self.summary.records
        top = None if len(records) <= TOP * 3 // 2 else TOP
        table = html_fragment(study_table(self.summary, baselines=True, top=top), links=self.links)
        others = ""
        if top or self.summary.counts["complete"] < len(records):  # the reasons of the others
            items = "".join(
                f"<li>{self._link(trial, f'trial {trial.number}')} {self._state(trial)}</li>" for trial in records
            )
            title = "Every trial, with its state and reason"
            others = f'<details><summary>{title}</summary><ul class="trials">{items}</ul></details>'
        return f'<div class="scroll">{table}</div>{others}'

    def progress(self) -> str:
        return self._grid(figures.best_so_far, figures.best_over_time, figures.curves)

    def replicates(self) -> str:
        drawn = figures.seeds(self.summary)
        if drawn is None:
            return ""
        note = "The search chose these trials on the images that it ranks by, so other seeds of them are often worse."
        return f"<p>{note}</p>{_figure(drawn)}"

    def keys(self) -> str:
        note = (
            "Exploratory: the search tried promising values more often or ended trials early, so a difference between "
            "values is no claim about them."
            if self.summary.config.exploratory
            else "Values were drawn at random and every trial was trained to its end, so each had the same chance. "
            "With one seed and few trials per value, differences are still uncertain."
        )
        panels = [figures.key_panel(self.summary, key) for key in self.summary.config.space.searched()]
        drawn = "".join(_figure(panel) for panel in panels if panel)
        return f'<p>{note}</p><div class="grid">{drawn}</div>' if drawn else ""

    def effects(self) -> str:
        """What each choice is worth, where the study's design allows a claim."""
        if self.summary.config.exploratory:
            return ""
        try:
            found = effects(self.summary, {})
        except StudyError as error:
            return f"<p>{escape(str(error))}.</p>"
        drawn = "".join(_figure(figure) for figure in figures.effect_figures(found).values())
        tables = "".join(f'<div class="scroll">{html_fragment(table)}</div>' for table in tables_of(found))
        return "".join(f"<p>{escape(text)}</p>" for text in texts_of(found)) + drawn + tables

    def importances(self) -> str:
        if not self.material.importances:
            few = self.summary.config.exploratory and len(self.summary.ended) < IMPORTANCES_FROM
            return f"<p>{FEW}</p>" if few else ""
        note = (
            f"How much each key decides whether a trial is among the best tenth (PED-ANOVA, {len(self.summary.ended)} "
            "ended trials). Exploratory: no claim, and not what one value is worth."
        )
        return f"<p>{note}</p>{self._grid(figures.importances)}"

    def quality(self) -> str:
        drawn = [figures.front(self.summary, self.material, [name]) for name in AGAINST]
        panels = "".join(_figure(figure) for figure in drawn if figure)
        if not panels:
            return ""
        form, listed = self.summary.form, {}
        for name in COSTS:
            found = front(self.summary, name)
            shown = [f"trial {trial.number}: {form.shown(value)} with {cost:,.0f}" for trial, cost, value in found]
            listed[f"not beaten with as few {name.replace('_', '-')}"] = "; ".join(shown)
        return f'<div class="grid">{panels}</div>{_pairs(listed)}'

    def restorations(self) -> str:
        material, best = self.material, self.summary.best
        if best is None:
            return ""
        if not material.restored:
            return f"<p>Not shown: {escape(material.missing)}.</p>" if material.missing else ""
        drawn = [figures.restorations(self.summary, material, [kind]) for kind in material.restored]
        note = (
            f"Trial {best.number} on the validation images; best, median and worst by the {material.image_metric} of "
            "each image, which is written below it."
        )
        return f'<p>{note}</p><div class="grid">{"".join(_figure(figure) for figure in drawn if figure)}</div>'

    def cost(self) -> str:
        summary, ended = self.summary, self.summary.ended
        if not ended:
            return ""
        epochs, budget = sum(trial.summary.epochs for trial in ended), summary.config.budget.epochs
        pruned = [trial for trial in ended if trial.state == "PRUNED"]
        saved = sum(budget - trial.summary.epochs for trial in pruned)
        time = sum(trial.summary.duration_s for trial in ended)
        passed = max(trial.ended for trial in ended) - min(trial.started for trial in ended)
        facts = {
            "training": f"{_duration(time)}, summed over {len(ended)} trials",
            "from the first start to the last end": f"{_duration(passed.total_seconds())}, pauses included",
            "epochs trained": f"{epochs:,} of {budget * len(ended):,}",
            "saved by pruning": f"{saved:,} epochs, in {len(pruned)} pruned trials"
            if pruned
            else "no trial was pruned",
        }
        reasons = {state: summary.reasons(state) for state in ("PRUNED", "FAIL")}
        for state, name in (("PRUNED", "why pruned"), ("FAIL", "why failed")):
            if reasons[state]:
                facts[name] = "; ".join(f"{reason or 'unknown'} ({n})" for reason, n in reasons[state].items())
        return _pairs(facts)

    def reproduce(self) -> str:
        summary, material, config = self.summary, self.material, self.summary.config
        commands = summary.commands(STUDY_FILES[0], material.overrides)
        facts = {
            "seed": str(config.seed),
            "open trials at once": str(config.budget.concurrency),
            "threads per trial": str(config.budget.threads_per_trial),
            **summary.facts,
            **material.environment,
        }
        if material.file:
            facts["study file sha256"] = hashlib.sha256(material.file.encode()).hexdigest()
        if summary.best and summary.best.summary.weights_sha256:
            facts[f"weights of trial {summary.best.number} sha256"] = summary.best.summary.weights_sha256
        shown = "\n".join(commands)
        text = f"<pre>{escape(shown)}</pre>{_pairs(facts)}"
        if material.file:
            text += f"<details><summary>The study file</summary><pre>{escape(material.file)}</pre></details>"
        return text

    def _link(self, trial: StoredTrial, text: str) -> str:
        address = self.links.get(trial.number)
        return f'<a href="{escape(address)}">{escape(text)}</a>' if address else escape(text)

    def _state(self, trial: StoredTrial) -> str:
        if not isinstance(trial, EndedTrial):
            return STATES[trial.state]
        if trial.value is not None:
            return self.summary.form.shown(trial.value)
        return escape(f"{STATES[trial.state]}: {trial.summary.reason}")

    def _grid(self, *draw: Callable[[StudySummary, Material], Figure | None]) -> str:
        drawn = "".join(_figure(figure) for make in draw if (figure := make(self.summary, self.material)))
        return f'<div class="grid">{drawn}</div>' if drawn else ""


SECTIONS: dict[str, Callable[[_Page], str]] = {
    "Question": _Page.question,
    "Data": _Page.data,
    "Answer": _Page.answer,
    "Pictures": _Page.pictures,
    "Leaderboard": _Page.leaderboard,
    "Progress": _Page.progress,
    "Replicates": _Page.replicates,
    "Effects": _Page.effects,
    "Searched keys": _Page.keys,
    "Importances": _Page.importances,
    "Quality against cost": _Page.quality,
    "Restorations": _Page.restorations,
    "Cost": _Page.cost,
    "Reproduce": _Page.reproduce,
}


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


def _header(file: str, name: str) -> str:
    """A paragraph of the comment that a study file begins with, such as ``Question: …``."""
    lines = takewhile(lambda line: line.startswith("#"), file.splitlines())
    text = "\n".join(line.lstrip("# ") for line in lines)
    found = re.search(rf"^{name}:(.*?)(?=^[A-Z]\w*:|\Z)", text, re.DOTALL | re.MULTILINE)
    return " ".join(found[1].split()) if found else ""


def _form(dimension: Dimension) -> str:
    """What is searched of a key."""
    if isinstance(dimension, ByKey):
        parts = [f"{dimension.by} {name}: {_form(part)}" for name, part in dimension.parts.items()]
        return "; ".join(parts).replace(f"{dimension.by} default", "others")
    if isinstance(dimension, Range):
        text = f"{dimension} (log)" if dimension.log else str(dimension)
    else:
        text = ", ".join(map(shown_value, dimension.values))
    when = " and ".join(f"{key} is {' or '.join(map(shown_value, values))}" for key, values in dimension.when.items())
    return f"{text}, where {when}" if when else text


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in pairs.items())
    return f"<dl>{rows}</dl>"


def _strips(what: str, rows: Iterable[tuple[str, np.ndarray, str]]) -> str:
    """Rows of pictures; labels are HTML."""
    cells = "".join(
        f"<span>{label}{f' <b>{score}</b>' if score else ''}</span>"
        f'<img alt="{what}, {re.sub("<.*?>", "", label)} {score}" src="{_png(strip)}">'
        for label, strip, score in rows
    )
    return f'<div class="strips">{cells}</div>' if cells else ""


def _png(pixels: np.ndarray) -> str:
    """Grey pixels as a PNG in a data URI."""
    return f"data:image/png;base64,{base64.b64encode(png(pixels, optimize=True)).decode()}"


def _figure(figure: Figure) -> str:
    wide = ' class="wide"' if figure.get_figwidth() > WIDTH else ""
    return f"<figure{wide}>{svg(figure)}</figure>"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return str(timedelta(seconds=round(seconds))) + " h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


CSS = """
:root { color-scheme: light dark; --line: #d5d8dc; --soft: #f5f6f8; --link: #0b62b8; --ink: #1d2126; --page: #fff }
@media (prefers-color-scheme: dark) {
  :root { --line: #3a4048; --soft: #20242a; --link: #7db8f5; --ink: #e3e6ea; --page: #15181c }
}
* { box-sizing: border-box; stroke-linejoin: round; stroke-linecap: butt }
body { margin: 0 auto; max-width: 1400px; padding: 1.2rem; font: 16px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page) }
h1 { margin: 0; font-size: 1.9rem; overflow-wrap: anywhere } h2 { margin: 0 0 .6rem; font-size: 1.25rem }
header p { margin: .2rem 0 .8rem; overflow-wrap: anywhere } nav { font-size: .85rem }
section { padding: 1.4rem 0 .4rem; margin-top: 1.2rem; border-top: 1px solid var(--line) }
a { color: var(--link) } p { margin: .5rem 0; max-width: 75ch } .lead { font-size: 1.1rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; margin: .6rem 0 }
dt { opacity: .7 } dd { margin: 0; overflow-wrap: anywhere }
figure { margin: 0; min-width: 0 } svg { display: block; width: 100%; height: auto; max-width: 34rem }
.wide { overflow-x: auto } .wide svg { max-width: 68rem; min-width: 40rem }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.4rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1rem 0 }
.tiles div { background: var(--soft); border-radius: .5rem; padding: .7rem .9rem }
.tiles b { display: block; font-size: 1.5rem; line-height: 1.2 } .tiles span { font-size: .85rem; opacity: .8 }
.strips { display: grid; grid-template-columns: max-content minmax(0, 44rem); gap: .3rem 1rem; align-items: center }
.strips img { width: 100%; image-rendering: pixelated; display: block } .strips b { white-space: nowrap }
.scroll { overflow-x: auto; margin: .8rem 0 }
table { border-spacing: 0; font-size: .84rem; font-variant-numeric: tabular-nums }
caption { text-align: left; white-space: normal; overflow-wrap: anywhere; font-size: .85rem;
  opacity: .8; padding-bottom: .4rem }
thead th { vertical-align: bottom } tbody th { font-weight: normal }
th small { display: block; font-weight: normal; opacity: .8 }
th, td { padding: .25rem .5rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap }
th.n, td.n { text-align: right }
tr { background: var(--page) } .trial { position: sticky; left: 0; background: inherit }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2rem) }
tr.baseline { font-style: italic; background: var(--soft) }
pre { background: var(--soft); padding: .8rem; border-radius: .5rem; overflow-x: auto; font-size: .82rem }
details { margin: .8rem 0 } summary { cursor: pointer }
.trials { columns: 15rem; font-size: .85rem; padding-left: 1.1rem }
@media (max-width: 560px) {
  body { padding: .8rem } dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .5rem }
  .strips { grid-template-columns: 1fr; gap: .15rem } .strips img { margin-bottom: .6rem }
}
@media print {
  :root { --line: #ccc; --soft: #f3f3f3; --link: #000; --ink: #000; --page: #fff }
  body { font-size: 11pt; max-width: none; padding: 0 } nav { display: none }
  section { margin-top: .6rem } figure, tr, .strips, .tiles { break-inside: avoid } h2 { break-after: avoid }
  table { font-size: 6.5pt } th, td { padding: .1rem .15rem } .scroll, .wide { overflow: visible }
  .wide svg { min-width: 0 }
  pre { white-space: pre-wrap } details::details-content { content-visibility: visible; block-size: auto }
}
"""
