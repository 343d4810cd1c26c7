"""MLflow's saved views of a study, and the addresses of MLflow's pages.

Comes in: plain values of a study. Goes out: experiment tags, addresses that begin with ``#/``. The form of a saved view
is MLflow's own and may change; its page then shows the runs in its usual arrangement, and nothing else is lost.
`tests/browser` looks at the pages. Imports the standard library only.
"""

import base64
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

VIEWS = {"leaderboard": "Leaderboard", "charts": "Charts", "pictures": "Pictures of the best"}
TAG = "mlflow.sharedViewState."
DRAWN = 10  # runs in a chart, and in an image grid at most
IMAGE_KEYS = ("panel", "restored")  # MLflow draws a grid for every one that a view does not mention
TRAINING_MODE = "workflowType=machine_learning"  # else the pages are those for language models
RUN_NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
WIDTHS = {RUN_NAME: 125, CREATED: 125, DURATION: 75, "tags.`rank`": 50, "tags.`trial.reason`": 260}  # pixels

LINE = {
    "lineSmoothness": 0,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
    "range": {},
    "xAxisKey": "step",
    "selectedXAxisMetricKey": "",
    "yAxisKey": "metric",
    "yAxisExpressions": [],
    "ignoreOutliers": False,
    "useGlobalXaxisKey": True,
    "useGlobalLineSmoothing": True,
}


@dataclass(frozen=True)
class Views:
    """What the views show of a study. Metrics are named as in MLflow."""

    objective: str  # by which the table is ordered, such as ``best/psnr``
    ascending: bool  # whether a lower objective is better
    figures: Sequence[str]  # further metrics of the table
    curves: Sequence[str]  # metrics by epoch, the objective's first
    searched: Sequence[str]  # the columns of parameters
    axes: Sequence[str]  # those of them that parallel coordinates can show: all numbers, or all words
    hidden: Collection[str] = field(default_factory=tuple)  # metrics of the runs, without a chart unless one is above
    bound: float | None = None  # the objective of the worst trial whose picture is shown


def page(experiment_id: str, view: str | None = None) -> str:
    """The address of an experiment's runs, arranged as one of `VIEWS`."""
    if view is None:
        return f"#/experiments/{experiment_id}/runs?{TRAINING_MODE}"
    mode = "" if view == "leaderboard" else "&compareRunsMode=CHART"
    return f"#/experiments/{experiment_id}/runs?viewStateShareKey={view}&{TRAINING_MODE}{mode}"


def studies_page(experiment_ids: Sequence[str]) -> str:
    """The address of a list of the studies' own runs; MLflow's list of experiments leads to pages in the other mode."""
    ids, which = json.dumps([*experiment_ids], separators=(",", ":")), "tags.`study.role` = 'study'"
    return f"#/compare-experiments/s?experiments={quote(ids)}&searchFilter={quote(which)}&{TRAINING_MODE}"


def run_page(experiment_id: str, run_id: str, file: str | None = None) -> str:
    """The address of a run's page, or of one of its artifacts there."""
    shown = f"/artifacts/{file}" if file else ""
    return f"#/experiments/{experiment_id}/runs/{run_id}{shown}?{TRAINING_MODE}"


def view_tags(views: Views, made: float) -> dict[str, str]:
    """The experiment tags that hold the views; ``made`` is when, in seconds since 1970."""
    states = (_leaderboard(views), _charts(views), _pictures(views))
    return {f"{TAG}{key}": _tag(VIEWS[key], state, made) for key, state in zip(VIEWS, states, strict=True)}


def _tag(name: str, state: Mapping[str, Any], made: float) -> str:
    packed = "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    stamp = int(made * 1000)
    return json.dumps({"name": name, "createdAt": stamp, "updatedAt": stamp, "state": packed})


def _leaderboard(views: Views) -> dict[str, Any]:
    """Trials and baselines, the best first; what has no figures comes last."""
    others = " AND ".join(f"tags.`study.role` != '{role}'" for role in ("study", "judge", "train"))
    figures = [f"metrics.`{name}`" for name in (views.objective, *views.figures)]
    params = [f"params.`{key}`" for key in views.searched]
    columns = ["tags.`rank`", "tags.`trial.state`", *figures, *params, "metrics.`parameters`", "tags.`trial.reason`"]
    order = [RUN_NAME, CREATED, DURATION, *columns]
    return _state(views, others, views.ascending) | {
        "selectedColumns": columns,
        "columnOrder": order,
        "columnWidths": {column: WIDTHS.get(column) or _width(column) for column in order},
    }


def _width(column: str) -> int:
    """Wide enough for a column's heading."""
    return max(75, 8 * len(column.split("`")[1]) + 16)


def _charts(views: Views) -> dict[str, Any]:
    left_out = [key for key in views.searched if key not in views.axes]
    title = "Which choices are good" + (
        f" (without {', '.join(left_out)}: words among numbers, or not in every trial)" if left_out else ""
    )
    sections = [
        _section("choices", title, 1, 420),
        _section("curves", "How they learn", 2, 360),
        _section("cost", "What they cost", 2, 360),
    ]
    axes = {"selectedParams": list(views.axes), "selectedMetrics": [views.objective]}
    charts = [_chart("PARALLEL", "choices", showAllRuns=True, **axes)] if views.axes else []
    for name in views.curves:
        charts.append(_chart("LINE", "curves", metricKey=name, selectedMetricKeys=[name], displayName=name, **LINE))
    x, y = {"key": "parameters", "type": "METRIC"}, {"key": views.objective, "type": "METRIC"}
    charts.append(_chart("SCATTER", "cost", displayName="cost", xaxis=x, yaxis=y, runsCountToCompare=100))
    hidden = list(_deleted(views, {*views.curves}, IMAGE_KEYS))
    state = _state(views, "tags.`study.role` = 'trial'", views.ascending)
    return state | _arranged(sections, [*charts, *hidden])


def _pictures(views: Views) -> dict[str, Any]:
    """The best trials only. MLflow draws them in the reverse order of the table, so that has the worst first."""
    which = "tags.`study.role` = 'trial' AND tags.`trial.state` = 'COMPLETE'"
    if views.bound is not None:
        which += f" AND metrics.`{views.objective}` {'<=' if views.ascending else '>='} {views.bound!r}"
    sections = [_section("best", "Restorations of the best trials, the best first", 1, 1100)]
    charts = [_chart("IMAGE", "best", imageKeys=["restored"], step=0, showRunParams=False)]
    hidden = list(_deleted(views, (), ("panel",)))
    return _state(views, which, not views.ascending) | _arranged(sections, [*charts, *hidden])


def _state(views: Views, search: str, ascending: bool) -> dict[str, Any]:
    return {
        "searchFilter": search,
        "orderByKey": f"metrics.`{views.objective}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [],
        "columnOrder": [],
        "columnWidths": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "groupBy": None,
        "groupsExpanded": {},
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _arranged(sections: list[dict[str, Any]], charts: list[dict[str, Any]]) -> dict[str, Any]:
    unwanted = _section("unwanted", "Others", 3, 300) | {"display": False}
    numbered = [chart | {"uuid": f"chart-{number}"} for number, chart in enumerate(charts)]
    # The list of runs would take a third of a small screen; the charts name their runs.
    return {"compareRunSections": [*sections, unwanted], "compareRunCharts": numbered, "runListHidden": True}


def _section(uuid: str, name: str, columns: int, height: int) -> dict[str, Any]:
    return {
        "uuid": uuid,
        "name": name,
        "columns": columns,
        "cardHeight": height,
        "display": True,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _chart(kind: str, section: str, **rest: Any) -> dict[str, Any]:
    standard = {"runsCountToCompare": DRAWN, "deleted": False, "isGenerated": False}
    return {"type": kind, "metricSectionId": section} | standard | rest


def _deleted(views: Views, drawn: Collection[str], image_keys: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What MLflow would draw by itself: a chart for every metric and every image key that a view does not mention."""
    for name in sorted({*views.hidden, *views.curves} - {*drawn}):
        yield _chart("BAR", "unwanted", metricKey=name, displayName=name, deleted=True)
    for key in image_keys:
        yield _chart("IMAGE", "unwanted", imageKeys=[key], step=0, deleted=True)
