"""The command ``plan``: a study before it is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.printing import counted, make_table, print_result
from pipeline.cli.program import DeviceOption, FileArgument, JsonOption, NameOption, SetOption, command
from pipeline.home import Home
from pipeline.study.reporter import shown_value, task

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipeline.config import Value
    from pipeline.config.volume import Parameter
    from pipeline.study.plan import Plan


@command()
def plan(
    home: Home,
    file: FileArgument,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes. [default: one per core or GPU]")] = None,
    overrides: SetOption = None,
    name: NameOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Forecast a study's time, memory and disk from some real training steps; change nothing."""
    from pipeline.config import load_study_file
    from pipeline.study.plan import plan as make
    from pipeline.workers.machine import device_here

    config = load_study_file(file, overrides or (), name).config
    made = make(config, home.with_data(config.dataset).data_dir, device_here(device), workers)
    print_result(_shown(made), _document(made), as_json)


def _shown(plan: Plan) -> Iterator[RenderableType]:
    config, budget = plan.config, plan.config.budget
    pruner = "not pruned" if config.pruner.name == "none" else f"pruned by {config.pruner.name}"
    yield f"{config.name}: {task(config, plan.data)}"
    yield f"{counted(budget.trials, 'trial')} of {counted(budget.epochs, 'epoch')}, by {config.sampling}, {pruner}"
    yield f"ranked by {config.objective.metric} on val; baselines: {', '.join(plan.baselines)}"
    yield "the test split is read by `study promote` alone, to report and not to choose"

    yield f"\nsearched: {_volume(plan)}"
    if plan.parameters:
        yield make_table(("", "values", "only with"), map(_row, plan.parameters), wrap=("values", "only with"))

    first = [counted(len(config.enqueue), "enqueued configuration")] if config.enqueue else []
    if warm := config.warm_start:
        first.append(f"those of the {counted(warm.top, 'best trial')} of {warm.study} that fit this space")
    if first:
        yield f"tried first: {', and '.join(first)}"

    yield f"\ntimed: {counted(sum(one.steps for one in plan.timed), 'training step')} on {plan.device}"
    headings = ("", "parameters", "multiply-adds", "s an epoch", "with")
    rows = (
        (one.what, f"{one.parameters:,}", f"{one.multiply_adds:,}", f"{one.epoch_s:.2f}", _listed(one.sizes))
        for one in plan.timed
    )
    yield make_table(headings, rows, right=headings[1:4], wrap=("with",))

    who = counted(plan.workers, "worker") if plan.workers else "this process"
    who += f" ({plan.at_once} at a time)" if plan.workers > plan.at_once else ""
    yield f"\ntime with {who}, training and validating for {plan.busy:.0%} of it (assumed)"
    whole = plan.seconds(plan.epoch_s)
    least, most = (_duration(plan.seconds(choose(one.epoch_s for one in plan.timed))) for choose in (min, max))
    yield f"  without pruning  {_duration(whole)}; {least} to {most} if all trials were like the extremes"
    if plan.trained < 1:
        pruned = _duration(plan.seconds(plan.epoch_s, plan.trained))
        yield f"  with pruning     {pruned}, if {plan.trained:.0%} of the epochs are trained"
        yield f"                   (assumed; it was {plan.trained_before})"
    yield f"memory: {_size(plan.worker_bytes)} a worker (measured here), about 1 GB the driver (not measured)"
    disk = {what: _size(size) for what, size in plan.disk_bytes.items()}
    yield f"disk, at most: {disk['models']} of models and {disk['records']} of databases and pictures,"
    yield f"  and while it runs {disk['checkpoints']} of checkpoints"
    yield from (f"warning: {text}" for text in plan.warnings)


def _volume(plan: Plan) -> str:
    """How large the space is: its combinations, or what its parameters are like."""
    if not plan.parameters:
        return "nothing; one configuration"
    count = counted(len(plan.parameters), "parameter")
    if plan.combinations is not None:
        return f"{count}, {counted(plan.combinations, 'combination')}"
    continuous = sum(parameter.continuous for parameter in plan.parameters)
    conditional = sum(bool(parameter.conditions) for parameter in plan.parameters)
    return f"{count}, of which {continuous} continuous and {conditional} conditional"


def _row(parameter: Parameter) -> tuple[str, str, str]:
    from pipeline.config import Choices

    form = parameter.dimension
    if isinstance(form, Choices):
        values = ", ".join(map(shown_value, form.values))
    else:
        values = f"{form}{', log' * form.log}{', continuous' * parameter.continuous}"
    conditions = (f"{key} {', '.join(map(shown_value, allowed))}" for key, allowed in parameter.conditions.items())
    return parameter.name, values, "; ".join(conditions)


def _listed(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} {shown_value(value)}" for key, value in values.items())


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "name": plan.config.name,
        "config": plan.config.canonical(),
        "combinations": plan.combinations,
        "parameters": [
            {"name": one.name, "values": str(one.dimension), "continuous": one.continuous, "only_with": one.conditions}
            for one in plan.parameters
        ],
        "device": plan.device,
        "workers": plan.workers,
        "at_once": plan.at_once,
        "timed": [asdict(one) for one in plan.timed],
        "seconds": {
            "epoch": plan.epoch_s,
            "unpruned": plan.seconds(plan.epoch_s),
            "pruned": plan.seconds(plan.epoch_s, plan.trained),
            "least": plan.seconds(min(one.epoch_s for one in plan.timed)),
            "most": plan.seconds(max(one.epoch_s for one in plan.timed)),
        },
        "assumed": {"trained": plan.trained, "busy": plan.busy},
        "bytes": {"worker": plan.worker_bytes, **plan.disk_bytes},
        "baselines": plan.baselines,
        "warnings": plan.warnings,
    }


def _duration(seconds: float) -> str:
    """In the largest unit of which there are two; a forecast promises no more digits."""
    units = (("days", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    unit, size = next((pair for pair in units if seconds >= 2 * pair[1]), units[-1])
    return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"


def _size(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
