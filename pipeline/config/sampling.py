"""``[sampler]`` and ``[pruner]``: a name, and the arguments that Optuna's class of that name takes.

Imports no optuna: a test compares these fields with the signatures of the installed version. Left out are ``seed``,
which the study decides, and arguments that are functions. Optuna has the defaults.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ModelWrapValidatorHandler, PrivateAttr, model_serializer, model_validator

from pipeline.config.trial import Frozen, variants


class Named(Frozen):
    """A sampler or pruner. What is stored and passed on is what the file gives, in the file's order."""

    name: str
    _arguments: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that the file gives."""
        return dict(self._arguments)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_given(cls, raw: Any, validate: ModelWrapValidatorHandler[Named]) -> Named:
        made = validate(raw)
        if isinstance(raw, dict):
            made._arguments = {key: getattr(made, key) for key in raw if key != "name"}
        return made

    @model_serializer
    def _only_given(self) -> dict[str, Any]:
        return {"name": self.name, **self._arguments}


class Tpe(Named):
    name: Literal["tpe"] = "tpe"
    consider_prior: bool | None = None
    prior_weight: int | float | None = None
    consider_magic_clip: bool | None = None
    consider_endpoints: bool | None = None
    n_startup_trials: int | None = None
    n_ei_candidates: int | None = None
    multivariate: bool | None = None
    group: bool | None = None
    warn_independent_sampling: bool | None = None
    constant_liar: bool | None = None


class Random(Named):
    name: Literal["random"] = "random"


class Median(Named):
    name: Literal["median"] = "median"
    n_startup_trials: int | None = None
    n_warmup_steps: int | None = None
    interval_steps: int | None = None
    n_min_trials: int | None = None


class SuccessiveHalving(Named):
    name: Literal["successive_halving"] = "successive_halving"
    min_resource: Literal["auto"] | int | None = None
    reduction_factor: int | None = None
    min_early_stopping_rate: int | None = None
    bootstrap_count: int | None = None


class Hyperband(Named):
    name: Literal["hyperband"] = "hyperband"
    min_resource: int | None = None
    max_resource: Literal["auto"] | int | None = None
    reduction_factor: int | None = None
    bootstrap_count: int | None = None


class NoPruner(Named):
    name: Literal["none"] = "none"


def _named(default: str) -> BeforeValidator:
    """Lets a table leave its name out."""
    return BeforeValidator(lambda raw: {"name": default, **raw} if isinstance(raw, dict) else raw)


Sampler = Annotated[Tpe | Random, Field(discriminator="name"), _named("tpe")]
Pruner = Annotated[Median | SuccessiveHalving | Hyperband | NoPruner, Field(discriminator="name"), _named("median")]
SAMPLERS = variants(Sampler, "name")
PRUNERS = variants(Pruner, "name")
