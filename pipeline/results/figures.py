"""The figures of a study, by name. The page shows them as SVG, the study's run has them as PNG, a notebook as they are.

Comes in: a `StudySummary` and its `Material`. Goes out: matplotlib figures, each with its alternative text as label.
Optuna's own plots are drawn with pyplot and know no baselines, so these are the project's. May not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from pipeline.config import ByKey, Range
from pipeline.config.choices import METRICS
from pipeline.config.forms import Dimension, parts_of
from pipeline.errors import StudyError
from pipeline.results.drawing import (
    BELOW,
    COLOURS,
    GREY,
    HEIGHT,
    INK,
    MANY,
    WIDTH,
    axes_of,
    interval,
    legend,
    log_axis,
    name_rows,
    note,
    placed,
    png,
    points,
    room_for,
    rug,
    styled,
)
from pipeline.results.effects import Effect, Effects, Paired, Unguided, effects
from pipeline.results.front import SHARPNESS, costed
from pipeline.results.front import front as not_beaten
from pipeline.results.material import Material
from pipeline.results.summary import Baseline, StudySummary
from pipeline.search.records import EndedTrial
from pipeline.study.reporter import shown_value

TOP = 10  # trials whose learning curves are told apart


def figures(summary: StudySummary, material: Material) -> dict[str, Figure]:
    """All figures of a study by name, in the order of the page; those without anything to show are left out."""
    drawn: dict[str, Figure | None] = {name: draw(summary, material) for name, draw in FIGURES.items()}
    drawn |= {f"key-{key}": key_panel(summary, key) for key in summary.config.space.searched()}
    with suppress(StudyError):  # too few trials to show anything
        drawn |= effect_figures(effects(summary, material.importances))
    return {name: figure for name, figure in drawn.items() if figure is not None}


def plots(summary: StudySummary, material: Material) -> dict[str, bytes]:
    """The figures as PNG files, by file name."""
    return {f"{name}.png": png(figure) for name, figure in figures(summary, material).items()}


@styled
def best_so_far(summary: StudySummary, _: Material | None = None) -> Figure | None:
    """The objective of every trial by its number, the best so far, and the baselines."""
    return _progress(summary, "Best so far, by trial", "trial", {t.number: t.number for t in summary.ended})


@styled
def best_over_time(summary: StudySummary, _: Material | None = None) -> Figure | None:
    """The same over the time spent training, summed over the trials: it does not depend on workers or pauses."""
    spent = np.cumsum([trial.summary.duration_s for trial in summary.ended])
    total = float(spent[-1]) if len(spent) else 0.0
    unit, seconds = next(((u, s) for u, s in (("h", 3600), ("min", 60)) if total > 2 * s), ("s", 1))
    places = {trial.number: float(end) / seconds for trial, end in zip(summary.ended, spent, strict=True)}
    return _progress(summary, "Best so far, by training time", f"training time of all trials so far ({unit})", places)


def _progress(summary: StudySummary, title: str, label: str, places: Mapping[int, float]) -> Figure | None:
    """Trials at their places, and the best so far as a line."""
    if not summary.ended:
        return None
    figure, axes = axes_of(title, label, _named(summary))
    complete = [trial for trial in summary.ended if trial.value is not None]
    if pruned := _pruned(summary):
        x, y = [places[trial.number] for trial, _ in pruned], [reached for _, reached in pruned]
        points(axes, x, y, "pruned (best it reached)", GREY, marker="x", linewidths=1.1, s=18)
    if complete:
        x, y = [places[trial.number] for trial in complete], [summary.value(trial) for trial in complete]
        points(axes, x, y, label="complete")
        reached = (np.maximum if summary.sign > 0 else np.minimum).accumulate(y)
        axes.step([*x, max(places.values())], [*reached, reached[-1]], where="post", color=COLOURS[1], label="best")
    _baselines(summary, axes)
    axes.set_xlim(left=0)
    if label == "trial":
        axes.set_xlim(-0.5, max(places.values()) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(axes)
    figure.set_label(f"{title}: {summary.metric} of {_counted(summary)}. {' '.join(summary.answer()[:1])}")
    return figure


@styled
def curves(summary: StudySummary, _: Material | None = None) -> Figure | None:
    """The objective by epoch: the best ten trials in colour, the others in grey."""
    trials = [trial for trial in summary.ended if trial.reported]
    if not trials:
        return None
    best = summary.ranked[:TOP]
    numbers = {trial.number for trial in best}
    title = f"Learning curves of the best {len(best)}" if best else "Learning curves"
    figure, axes = axes_of(title, "epoch", _named(summary), HEIGHT + 0.4, below=BELOW + 0.3)
    others = [list(trial.reported.items()) for trial in trials if trial.number not in numbers]
    alpha = 0.5 if len(others) < MANY else 0.1
    of_others: dict[str, Any] = {"colors": GREY, "linewidths": 0.7, "alpha": alpha, "rasterized": alpha < 0.5}
    if others:
        axes.add_collection(LineCollection(others, label="others", **of_others))
    for rank, (trial, colour) in enumerate(zip(best, COLOURS, strict=False)):
        style: dict[str, Any] = {"color": colour, "zorder": 3 - rank / TOP}
        axes.plot(list(trial.reported), list(trial.reported.values()), label=str(trial.number), linewidth=1.5, **style)
        axes.plot(trial.summary.best_epoch, summary.value(trial), "o", markersize=4, **style)
    axes.autoscale_view()
    _baselines(summary, axes)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(axes, ncol=5, title="trial, best first", title_fontsize=8)
    ranking = ", ".join(f"{t.number} {summary.form.shown(summary.value(t))}" for t in best)
    figure.set_label(f"{summary.metric} by epoch; trials, best first: {ranking or 'none is complete'}.")
    return figure


@styled
def key_panel(summary: StudySummary, key: str) -> Figure | None:
    """The objective against one searched key: a scatter for a range, strips with their medians for choices."""
    trials = [(trial, summary.value(trial)) for trial in summary.ranked if key in trial.params]
    pruned = [trial for trial, _ in _pruned(summary) if key in trial.params]
    if not trials:
        return None
    dimension = summary.config.space.dimension(key)
    ranges = [part for part in parts_of(dimension) if isinstance(part, Range)]
    values = [trial.params[key] for trial in (*(trial for trial, _ in trials), *pruned)]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    figure, axes = axes_of(f"{key} (exploratory)" if summary.config.exploratory else key, "", _named(summary))
    if ranges and numbers:
        log = any(part.log for part in ranges)
        axes.set_xlabel(f"{key} (log scale)" if log else key)
        if log:
            log_axis(axes, [float(value) for value in values])
        axes.update_datalim([(float(value), trials[0][1]) for value in values])  # pruned trials are not in it
        rug(axes, [float(trial.params[key]) for trial in pruned])
        for (name, group), colour in zip(_by_part(dimension, trials).items(), COLOURS, strict=False):
            points(axes, [float(t.params[key]) for t, _ in group], [v for _, v in group], name, colour)
        what = f"{len(trials)} complete trials"
    else:
        what = _strips(summary, axes, key, trials, pruned)
    _baselines(summary, axes, only_best=True)
    legend(axes)
    figure.set_label(f"{summary.metric} against {key}: {what}.")
    return figure


Valued = tuple[EndedTrial, float]


def _by_part(dimension: Dimension, trials: Sequence[Valued]) -> dict[str, list[Valued]]:
    """Trials by the part of a split key that was theirs, under the values of the other key that have this part."""
    if not isinstance(dimension, ByKey):
        return {"": list(trials)}
    parts: dict[str, list[Valued]] = {}
    for trial, value in trials:
        parts.setdefault(dimension.part(trial.values[dimension.by])[0], []).append((trial, value))
    return {
        ", ".join(sorted({shown_value(trial.values[dimension.by]) for trial, _ in parts[name]})): parts[name]
        for name in sorted(parts)
    }


def _strips(summary: StudySummary, axes: Axes, key: str, trials: Sequence[Valued], pruned: Sequence[EndedTrial]) -> str:
    """One strip per value, in the file's order; returns the medians as text."""
    found = {shown_value(trial.params[key]) for trial in (*(trial for trial, _ in trials), *pruned)}
    names = [shown_value(value) for value in summary.config.space.reachable(key)]
    names = [name for name in names if name in found] + sorted(found - set(names))
    medians = {shown_value(choice.value): choice for choice in summary.choices(key)}

    def places(entries: Sequence[EndedTrial]) -> list[float]:
        """Each within its strip, the first in the middle and the next ones evenly to both sides."""
        counts = dict.fromkeys(names, 0)
        found = []
        for trial in entries:
            name = shown_value(trial.params[key])
            found.append(names.index(name) + 0.5 * ((counts[name] * 0.618 + 0.5) % 1 - 0.5))
            counts[name] += 1
        return found

    rug(axes, places(pruned))
    points(axes, places([trial for trial, _ in trials]), [value for _, value in trials])
    for label, name in zip(["median", *[""] * len(medians)], medians, strict=False):
        place = names.index(name)
        axes.hlines(medians[name].median, place - 0.33, place + 0.33, COLOURS[6], linewidth=2, label=label, zorder=1.5)
    labels = [f"{name}\nn = {medians[name].trials if name in medians else 0}" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8 if len(names) < 6 else 6.5)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="x")
    shown = [f"{name} {summary.form.shown(medians[name].median)} (n = {medians[name].trials})" for name in medians]
    return f"medians {', '.join(shown)}" if shown else "pruned trials only"


@styled
def importances(_: StudySummary, material: Material) -> Figure | None:
    """The importance of each searched key (PED-ANOVA), the most important first."""
    if not material.importances:
        return None
    names, shares = list(material.importances), list(material.importances.values())
    height = 0.8 + 0.27 * len(names)
    figure, axes = axes_of("Importance of each key", "share (PED-ANOVA)", "", height, room_for(names), 0.45)
    bars = axes.barh(names[::-1], shares[::-1], color=COLOURS[0], height=0.65)
    axes.bar_label(bars, [f"{share:.2f}" for share in shares[::-1]], padding=3, fontsize=8)
    axes.set_xlim(0, max(shares) * 1.15 or 1)
    axes.grid(visible=False, axis="y")
    figure.set_label("Importances: " + ", ".join(f"{k} {v:.2f}" for k, v in material.importances.items()) + ".")
    return figure


AGAINST = {
    SHARPNESS: "sharpness (ratio; 1 is as sharp as the clean images)",
    "parameters": "parameters",
    "multiply_adds": "multiply-adds per image",
}


@styled
def front(summary: StudySummary, _: Material | None = None, against: Sequence[str] = tuple(AGAINST)) -> Figure | None:
    """The objective against sharpness and cost; the trials that no other one beats in both are joined."""
    groups = {name: found for name in against if (found := costed(summary, name))}
    if not groups:
        return None
    figure = Figure((WIDTH * len(groups), HEIGHT))
    said = []
    for place, (name, found) in enumerate(groups.items()):
        axes = placed(figure, place)
        axes.set(title=f"{summary.metric} against {name.replace('_', '-')}", xlabel=AGAINST[name])
        axes.set_ylabel(_named(summary))
        x, y = [cost for _, cost, _ in found], [value for *_, value in found]
        if name == SHARPNESS:
            known = [(b, b.metrics.get("val/sharpness", 0.0)) for b in summary.standing if isinstance(b, Baseline)]
            known = [(b, sharpness) for b, sharpness in known if sharpness > 0 and math.isfinite(sharpness)]
            axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
            for baseline, sharpness in known:
                axes.plot(sharpness, summary.value(baseline), "D", color=INK, markersize=4)
                note(axes, baseline.name, sharpness, summary.value(baseline))
            log_axis(axes, [*x, *(sharpness for _, sharpness in known), 1.0])
        else:
            log_axis(axes, x, EngFormatter(sep=""))
            _baselines(summary, axes)
        points(axes, x, y)
        best = not_beaten(summary, name)
        axes.plot(
            [c for _, c, _ in best],
            [v for *_, v in best],
            color=COLOURS[6],
            linewidth=1.2,
            marker="o",
            markersize=5,
            label="no other is better in both",
        )
        for trial, cost, value in best[:: max(1, len(best) // 6)]:
            note(axes, str(trial.number), cost, value)
        said.append(f"{name.replace('_', '-')}: trials {', '.join(str(t.number) for t, *_ in best)}")
    legend(figure.axes[0])
    figure.set_label(f"{summary.metric} against {', '.join(groups)}. Not beaten in both, by {'; '.join(said)}.")
    return figure


@styled
def restorations(
    summary: StudySummary, material: Material, kinds: Sequence[str] = ("best", "median", "worst")
) -> Figure | None:
    """The best, the median and the worst restorations of the best trial: clean, degraded and restored, with scores."""
    groups = {kind: material.restored[kind] for kind in kinds if material.restored.get(kind)}
    if not groups or summary.best is None:
        return None
    form, (rows, columns) = METRICS[material.image_metric], next(iter(groups.values()))[0].clean.shape
    # In inches, placed by hand, which is faster than a layout engine: the images, and the room for text around them.
    cell, left, top, below = 0.86, 0.22, 0.28, 0.22
    tall, width = cell * rows / columns, sum(left + cell * len(images) for images in groups.values())
    height = top + 3 * tall + below
    figure, x = Figure((width, height)), 0.0
    for kind, images in groups.items():
        title = f"{kind.capitalize()} of trial {summary.best.number}"
        figure.text((x + left) / width, 1 - 0.08 / height, title, va="top", size=9.5, weight="bold")
        x += left
        for column, image in enumerate(images):
            shown = {"clean": image.clean, "degraded": image.degraded, "restored": image.restored}
            for row, (label, pixels) in enumerate(shown.items()):
                box = (x / width, (below + (2 - row) * tall) / height, 0.96 * cell / width, 0.96 * tall / height)
                axes = figure.add_axes(box, xticks=[], yticks=[], frame_on=False)
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="none", aspect="auto")
                axes.set_ylabel(label if column == 0 else "", fontsize=8)
            axes.set_xlabel(form.shown(image.value), fontsize=8)
            x += cell
    said = [f"{kind} {', '.join(form.shown(image.value) for image in images)}" for kind, images in groups.items()]
    figure.set_label(
        f"Validation images, clean, degraded and as trial {summary.best.number} restores them, with the "
        f"{material.image_metric} of each: {'; '.join(said)}."
    )
    return figure


@styled
def seeds(summary: StudySummary, _: Material | None = None) -> Figure | None:
    """Each replicated configuration: its seeds, their mean with its interval, and the trial of the search."""
    found = list(summary.configurations.values())
    if not found:
        return None
    names = [f"trial {each.trial.number}" for each in found]
    height = 1.3 + 0.3 * len(found)
    figure, axes = axes_of("Other seeds of the best configurations", _named(summary), "", height, room_for(names), 0.8)
    for place, each in enumerate(found):
        label = [""] * 3 if place else ["a seed", "mean, 95 % interval", "the search's trial"]
        values = [trial.value for trial in each.seeds.values() if trial.value is not None]
        points(axes, values, [place] * len(values), label[0], s=16)
        interval(axes, place + 0.2, each.interval.low, each.interval.mean, each.interval.high, label[1])
        points(axes, [summary.value(each.trial)], [place], label[2], INK, marker="x", linewidths=1.4, s=30)
    name_rows(axes, names)
    axes.locator_params(axis="x", nbins=5)  # seeds are close together, so the labels have many digits
    legend(axes)
    said = [f"{name} {each.interval.shown(summary.form.decimals)}" for name, each in zip(names, found, strict=True)]
    figure.set_label(f"Means of {summary.metric} over seeds, 95 % intervals: {'; '.join(said)}.")
    return figure


@styled
def effect(found: Paired, shown: Effect) -> Figure | None:
    """An effect: each pair's differences by block with their mean and interval, and each level's values."""
    if not shown.pairs:
        return None
    form, rows = METRICS[found.metric], max(len(shown.pairs), len(shown.levels))
    figure = Figure((2 * WIDTH, 1.3 + 0.3 * rows))
    labels = [f"{pair.first} - {pair.second}" for pair in shown.pairs]
    axes = placed(figure, 0, room_for(labels), 0.8)
    axes.set(
        title=f"{shown.key}: paired differences", xlabel=f"difference of {found.metric} ({form.unit}) in each block"
    )
    if found.margin is not None:
        axes.axvspan(-found.margin, found.margin, color=GREY, alpha=0.2, linewidth=0, label=f"within {found.margin:g}")
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, pair in enumerate(shown.pairs):
        points(axes, pair.differences.tolist(), _spread(place, found.blocks), "a block" * (place == 0), s=12, alpha=0.6)
        interval(axes, place, pair.low, pair.mean, pair.high, "" if place else "mean, 95 % interval")
    name_rows(axes, labels)
    legend(axes)
    names = [level.name for level in shown.levels]
    axes = placed(figure, 1, room_for(names), 0.8)
    axes.set(title=f"{shown.key}: values", xlabel=f"val {found.metric} ({form.unit})")
    for place, level in enumerate(shown.levels):
        points(axes, level.values.tolist(), _spread(place, found.blocks), s=12, alpha=0.6)
        axes.plot([level.mean] * 2, [place - 0.33, place + 0.33], color=COLOURS[6], linewidth=2)
    name_rows(axes, names)
    said = [
        f"{label} {pair.mean:.3f} [{pair.low:.3f}, {pair.high:.3f}]"
        for label, pair in zip(labels, shown.pairs, strict=True)
    ]
    figure.set_label(f"Mean paired differences of {found.metric} with 95 % intervals: {'; '.join(said)}.")
    return figure


def _spread(place: float, count: int) -> list[float]:
    """Places of so many dots around a line, so that equal values stay apart."""
    return [place + 0.5 * ((index * 0.618 + 0.5) % 1 - 0.5) for index in range(count)]


@styled
def shares(found: Unguided) -> Figure | None:
    """The share of the variance that each key explains, with its interval."""
    names = [key.key for key in found.keys]
    height = 0.9 + 0.27 * len(names)
    figure, axes = axes_of("What each key explains", "omega squared, 95 % interval", "", height, room_for(names), 0.5)
    for place, key in enumerate(found.keys):
        interval(axes, place, key.share.low, key.share.estimate, key.share.high)
    name_rows(axes, names)
    axes.set_xlim(0, 1)
    said = [f"{k.key} {k.share.estimate:.3f} [{k.share.low:.3f}, {k.share.high:.3f}]" for k in found.keys]
    figure.set_label(f"Share of the variance of {found.metric} that each key explains: {', '.join(said)}.")
    return figure


def effect_figures(found: Effects) -> dict[str, Figure]:
    """The figures of a study's effects by name."""
    drawn: dict[str, Figure | None] = {}
    if isinstance(found, Paired):
        drawn = {f"effect-{each.key.replace(' ', '-')}": effect(found, each) for each in found.effects}
    elif isinstance(found, Unguided):
        drawn = {"effects": shares(found)}
    return {name: figure for name, figure in drawn.items() if figure is not None}


FIGURES: dict[str, Callable[[StudySummary, Material], Figure | None]] = {
    "best-so-far": best_so_far,
    "best-over-time": best_over_time,
    "curves": curves,
    "seeds": seeds,
    "front": front,
    "importances": importances,
    "restorations": restorations,
}


def _named(summary: StudySummary) -> str:
    """The objective as a label, with its unit."""
    return f"val {summary.metric} ({summary.form.unit})"


def _counted(summary: StudySummary) -> str:
    return ", ".join(f"{count} {state}" for state, count in summary.counts.items() if count) + " trials"


def _pruned(summary: StudySummary) -> list[Valued]:
    """Pruned trials and the best objective that each one reached."""
    best = max if summary.sign > 0 else min
    pruned = [trial for trial in summary.ended if trial.state == "PRUNED" and trial.reported]
    return [(trial, best(trial.reported.values())) for trial in pruned]


def _baselines(summary: StudySummary, axes: Axes, only_best: bool = False) -> None:
    """Baselines as lines, named in the right margin."""
    lines = [entry for entry in summary.standing if isinstance(entry, Baseline)]
    lines = lines[:1] if only_best else lines  # the best first
    for entry in lines:
        value = summary.value(entry)
        side = "center" if len(lines) == 1 else "bottom" if value == max(map(summary.value, lines)) else "top"
        axes.axhline(value, color=INK, linewidth=1, linestyle="--")
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(entry.name, (1, value), (3, 0), fontsize=7.5, va=side, **place)
