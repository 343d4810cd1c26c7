"""Summaries of made-up studies, for tests of tables and pages that need no trained trial."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime
from typing import Any

from pipeline.config import StudyConfig
from pipeline.results.summary import StudySummary
from pipeline.search.records import EndedTrial, EndState, RunningTrial, StoredTrial, Summary

SPACE: dict[str, Any] = {
    "model": {"width": {"choices": ["auto", 512]}, "batch_norm": {"choices": [True, False]}},
    "train": {"loss": ["bce", "mse", "l1"], "lr": {"low": 1e-6, "high": 1.0, "log": True}, "batch_size": [32, 64]},
}
BASELINES = {
    "degraded": {"val/psnr": 9.5, "val/ssim": 0.3, "val/sharpness": 4.7},
    "linear": {"val/psnr": 17.0, "val/ssim": 0.9, "val/sharpness": 0.5},
}
STARTED, ENDED = datetime(2026, 1, 2, 3, 4, 5), datetime(2026, 1, 2, 3, 4, 9)


def record(
    number: int, value: float | None, state: EndState = "COMPLETE", reason: str = "", **params: Any
) -> EndedTrial:
    """A trial that ended, with three metrics where it has a value; only a complete one keeps that as its objective."""
    metrics, cost = {}, {"parameters": 1000 + number, "multiply_adds": 900}
    if value is not None:
        metrics = {"train/loss": 0.5, "val/psnr": value, "val/ssim": value / 100, "val/sharpness": value / 20}
    summary = Summary(f"run{number}", 3, 2, metrics, cost, 1.5, reason=reason)
    objective = value if state == "COMPLETE" else None
    return EndedTrial(number, params, params, STARTED, ENDED, state, objective, summary, {})


def trained(number: int, value: float | None, *arguments: Any, **params: Any) -> EndedTrial:
    """A trial of three epochs, whose objective rises to its value."""
    made = record(
        number, value, *arguments, **{"width": "auto", "batch_norm": True, "loss": "bce", "lr": 0.01} | params
    )
    return replace(made, reported={} if value is None else {epoch: value - (3 - epoch) for epoch in (1, 2, 3)})


def drawn_at_random(count: int) -> list[StoredTrial]:
    """So many trials of `SPACE`, two of three complete and the others pruned; the same for the same count."""
    draw = random.Random(count)
    keys = {"width": ["auto", 512], "batch_norm": [True, False], "loss": ["bce", "mse", "l1"], "batch_size": [32, 64]}
    states = ["COMPLETE", "COMPLETE", "PRUNED"]
    found: list[StoredTrial] = []
    for number in range(count):
        params: dict[str, Any] = {key: draw.choice(values) for key, values in keys.items()}
        params["lr"] = 10 ** draw.uniform(-6, 0)
        found.append(trained(number, draw.uniform(8, 20), draw.choice(states), **params))
    return found


def running(number: int, **params: Any) -> RunningTrial:
    return RunningTrial(number, params, params, STARTED)


def summary_of(
    records: list[StoredTrial],
    baselines: dict[str, dict[str, float]] | None = None,
    name: str = "small",
    dataset: str = "mnist-5k",
    metric: str = "psnr",
    **sections: Any,
) -> StudySummary:
    config = StudyConfig.model_validate(
        {
            "name": name,
            "dataset": dataset,
            "degrade": {"kind": "gaussian", "sigma": 0.5},
            "objective": {"metric": metric},
        }
        | (sections or SPACE)
    )
    return StudySummary(config, records, baselines or {}, {"data.sha256": "0123456789abcdef" * 4, "device": "cpu"})
