"""What a notebook shows of a study: its leaderboard, figures of its page, and its best trial, which restores pictures.

Comes in: a study's records and MLflow runs; degraded pictures. Goes out: a table, figures, restored pictures. Nothing
is written. May not import mlflow.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure as Figure
from PIL.Image import Image, fromarray
from torch import Tensor

from pipeline.config import Value
from pipeline.config.messages import shown
from pipeline.config.trial import Degrade, applies
from pipeline.data.degrade import input_size
from pipeline.errors import InputError, NotFoundError, ShapeError
from pipeline.home import Home
from pipeline.results.drawing import png
from pipeline.results.figures import FIGURES
from pipeline.results.material import Material, gather, trial_restorer
from pipeline.results.summary import StudySummary, summarise
from pipeline.results.table import Table, study_table
from pipeline.tracking.runs import read_tracking

if TYPE_CHECKING:
    from pipeline.search.ask_tell import Search
    from pipeline.search.records import EndedTrial
    from pipeline.training.model import Restorer

TOP = 10  # trials of the leaderboard
PLOTS = ("curves", "front", "restorations")  # that Optuna does not draw itself
Pictures = TypeVar("Pictures", Tensor, np.ndarray, Image)


def leaderboard(summary: StudySummary) -> Table:
    """The best complete trials and the baselines."""
    return study_table(summary, top=TOP, state=["complete"], baselines=True)


def plot(home: Home, search: Search, kind: str) -> Figure:
    """A figure of the study's page, of `PLOTS`. Raises InputError: another kind, or there is nothing to draw yet."""
    name = search.config.name
    if kind not in PLOTS:
        own = "Optuna's own plots take .optuna, such as optuna.visualization.matplotlib.plot_slice(study.optuna)"
        raise InputError(f"unknown plot {shown(kind)}; allowed: {', '.join(PLOTS)}; {own}")
    summary, material = summarise(search), Material()
    if kind == "restorations":
        material = gather(home, search, summary, read_tracking(home, name, search.uid))
    figure = FIGURES[kind](summary, material)
    if figure is None:
        raise InputError(f"study {name} has nothing to draw as {kind}: {material.missing or 'no trial is complete'}")
    figure._repr_png_ = partial(png, figure)  # type: ignore[attr-defined]  # without pyplot a notebook needs this
    return figure


@dataclass(frozen=True)
class Best:
    """The best complete trial of a study."""

    number: int
    run_id: str
    configuration: dict[str, Value]  # the keys of [model] and [train] that have an effect
    figures: dict[str, float]  # ``val/…`` at the best epoch, and the costs
    _degrade: Degrade = field(repr=False)
    _source: tuple[Home, Search, EndedTrial] = field(repr=False)

    def restore(self, pictures: Pictures) -> Pictures:
        """Restore degraded pictures with this trial's model, on the CPU.

        Args:
            pictures: a numpy array or a tensor ``[h, w]`` or ``[N, 1, h, w]`` of floats in [0, 1], or of uint8; or a
                PIL picture, which is taken as greyscale. ``h`` and ``w`` are those of the study's degraded images.

        Returns:
            The same kind: type, number of axes and type of numbers.

        Raises:
            ShapeError: another shape; the message names the allowed ones.
            InputError: something else than pictures.
            TrackingError: the model is missing, or its weights are not those that Optuna's record names.
        """
        if isinstance(pictures, Image):
            return fromarray(self._restore(torch.from_numpy(np.array(pictures.convert("L")))).numpy())
        if isinstance(pictures, np.ndarray):
            try:
                tensor = torch.from_numpy(np.array(pictures))
            except (TypeError, ValueError):
                raise _not_pictures(f"an array of {pictures.dtype}") from None
            return self._restore(tensor).numpy()
        if isinstance(pictures, Tensor):
            return self._restore(pictures)
        raise _not_pictures(f"a {type(pictures).__name__}")

    def _restore(self, pictures: Tensor) -> Tensor:
        size: Any = self._model.autoencoder.output_size
        height, width = input_size(size, self._degrade)
        alone, shape = pictures.ndim == 2, tuple(pictures.shape)
        if shape not in ((height, width), (*shape[:1], 1, height, width)):
            allowed = f"[{height}, {width}] or [N, 1, {height}, {width}]"
            raise ShapeError(f"pictures of shape {list(shape)} cannot be restored; allowed: {allowed}")
        if pictures.dtype != torch.uint8 and not pictures.is_floating_point():
            raise _not_pictures(f"numbers of {pictures.dtype}")
        scale = 255 if pictures.dtype == torch.uint8 else 1
        with torch.no_grad():
            restored = self._model(pictures.reshape(-1, 1, height, width).float().cpu() / scale) * scale
        restored = restored.round() if scale == 255 else restored
        return (restored[0, 0] if alone else restored).to(pictures)

    @cached_property
    def _model(self) -> Restorer:
        home, search, trial = self._source
        return trial_restorer(read_tracking(home, search.config.name, search.uid), trial)


def best_of(home: Home, search: Search) -> Best:
    """The best trial of a study; NotFoundError if none is complete."""
    summary = summarise(search)
    trial = summary.best
    if trial is None:
        raise NotFoundError(f"study {summary.name} has no complete trial yet")
    configuration = {key: value for key, value in trial.values.items() if applies(key, trial.values)}
    figures = {key: value for key, value in trial.summary.metrics.items() if key.startswith("val/")}
    return Best(
        number=trial.number,
        run_id=trial.summary.run_id,
        configuration=configuration,
        figures=figures | trial.summary.cost,
        _degrade=summary.config.degrade,
        _source=(home, search, trial),
    )


def _not_pictures(what: str) -> InputError:
    return InputError(f"{what} cannot be restored; allowed: floats in [0, 1] or uint8, or a PIL picture")
