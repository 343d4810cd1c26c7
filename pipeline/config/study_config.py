"""The sections of a study file as frozen pydantic models, and ``StudyConfig``, which holds them all.

``[sampler]`` and ``[pruner]`` are a name and the arguments that Optuna's class of that name takes, without ``seed``,
which the study decides, and arguments that are functions. Optuna has the defaults, but is not imported here: a test
compares the fields with the signatures of the installed version.
"""

import json
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    model_serializer,
    model_validator,
)

from pipeline.config.choices import AUTO_BFLOAT16, OBJECTIVES, Precision
from pipeline.config.design import Design
from pipeline.config.forms import FIELDS, SECTIONS, Choices, Range, Value, by_section
from pipeline.config.space import Space, key_of
from pipeline.config.trial import Degrade, Frozen, OneOf, TrialConfig, variants
from pipeline.errors import ConfigError


class Named(Frozen):
    """A sampler or pruner. What is stored and passed on is what the file gives, in the file's order."""

    name: str
    _arguments: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def arguments(self) -> dict[str, Any]:
        return dict(self._arguments)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_given(cls, raw: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
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
    n_ei_candidates: Annotated[int, Field(ge=1, le=1_000)] | None = None  # drawn and weighed for every key
    multivariate: bool | None = None
    group: bool | None = None
    warn_independent_sampling: bool | None = None
    constant_liar: bool | None = None


class Random(Named):
    name: Literal["random"] = "random"


class Paired(Named):
    """A designed comparison; the only sampler that is not Optuna's."""

    name: Literal["paired"] = "paired"
    over: Annotated[tuple[str, ...], Field(strict=False)]
    blocks: Annotated[int, Field(ge=1, le=100_000)] | None = None


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
    min_early_stopping_rate: Annotated[int, Field(ge=0, le=100)] | None = None  # an exponent
    bootstrap_count: int | None = None


class Hyperband(Named):
    name: Literal["hyperband"] = "hyperband"
    min_resource: int | None = None
    max_resource: Literal["auto"] | int | None = None
    reduction_factor: int | None = None
    bootstrap_count: int | None = None


class NoPruner(Named):
    name: Literal["none"] = "none"


def _sampler(raw: Any) -> Any:
    """TPE, where the section has no name."""
    return {"name": "tpe", **raw} if isinstance(raw, dict) else raw


def _pruner(raw: Any, info: ValidationInfo) -> Any:
    """Successive halving from a sixth of the epochs on, where the section has no name (tests/benchmarks/pruners.py)."""
    if isinstance(info.data.get("sampler"), Paired):
        if raw not in ({}, {"name": "none"}):
            raise ConfigError("[pruner]: a paired design compares trials that were trained to the end; omit [pruner]")
        return {"name": "none"}
    if not isinstance(raw, dict) or "name" in raw:
        return raw
    epochs = info.data.get("budget", Budget()).epochs
    return {"name": "successive_halving", "min_resource": math.ceil(epochs / 6), "reduction_factor": 4, **raw}


def _warm_start(raw: Any, info: ValidationInfo) -> Any:
    if isinstance(info.data.get("sampler"), Paired) and raw is not None:
        raise ConfigError("[warm_start]: a paired design draws its own trials; omit [warm_start]")
    return raw


def _budget(raw: Any, info: ValidationInfo) -> Any:
    """The number of trials of a paired design follows from its blocks."""
    sampler, known = info.data.get("sampler"), info.data
    if (
        not isinstance(sampler, Paired)
        or not isinstance(raw, dict)
        or not known.keys() >= {*SECTIONS, "enqueue", "seed"}
    ):
        return raw
    design = Design(
        Space({section: known[section] for section in SECTIONS}), sampler.over, known["enqueue"], known["seed"]
    )
    given = raw.get("trials")
    return raw if type(given) not in (int, type(None)) else raw | {"trials": design.trials(sampler.blocks, given)}


Sampler = Annotated[Tpe | Random | Paired, Field(discriminator="name"), BeforeValidator(_sampler)]
Pruner = Annotated[
    Median | SuccessiveHalving | Hyperband | NoPruner, Field(discriminator="name"), BeforeValidator(_pruner)
]
SAMPLERS = variants(Sampler, "name")
PRUNERS = variants(Pruner, "name")
MAY_CHANGE = ("budget.trials", "sampler.blocks", "budget.keep_models", "registered_model")  # between runs of one study


class Budget(Frozen):
    """``[budget]``: how many trials, of how many epochs, how many at the same time, how many models."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    concurrency: Annotated[int, Field(ge=1)] = 4
    threads_per_trial: Annotated[int, Field(ge=1, le=1_024)] = 1
    keep_models: Annotated[int, Field(ge=0)] | Literal["all"] = 5  # complete trials whose model is exported, best first


class Objective(Frozen):
    """``[objective]``: the validation metric by which trials are ranked."""

    metric: Annotated[str, OneOf(tuple(OBJECTIVES))] = "psnr"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return OBJECTIVES[self.metric]


class WarmStart(Frozen):
    """``[warm_start]``: another study, whose best configurations are tried first where they fit this one's space."""

    study: Annotated[str, Field(alias="from")]
    top: Annotated[int, Field(ge=1, le=1_000)] = 5

    @model_serializer
    def _as_in_the_file(self) -> dict[str, Any]:
        return {"from": self.study, "top": self.top}


class StudyConfig(Frozen):
    """A whole study file."""

    name: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    registered_model: str = ""
    degrade: Degrade
    objective: Objective = Objective()
    sampler: Sampler = Tpe()
    enqueue: tuple[dict[str, Any], ...] = ()
    warm_start: Annotated[WarmStart | None, BeforeValidator(_warm_start)] = None
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    # The sampler decides about the next two, so they are read after it.
    budget: Annotated[Budget, Field(default={}, validate_default=True), BeforeValidator(_budget)]
    pruner: Annotated[Pruner, Field(default={}, validate_default=True)]

    @cached_property
    def space(self) -> Space:
        return Space({section: getattr(self, section) for section in SECTIONS})

    @cached_property
    def design(self) -> Design | None:
        """The blocks and levels of a paired study; None of any other."""
        if not isinstance(self.sampler, Paired):
            return None
        return Design(self.space, self.sampler.over, self.enqueue, self.seed)

    @property
    def exploratory(self) -> bool:
        """Whether the search decides which values are tried more often, or to the end: differences are no claim."""
        return self.sampler.name == "tpe" or self.pruner.name != "none"

    @property
    def sampling(self) -> str:
        """How trials are drawn: the sampler's name, and what a paired one compares in how many blocks."""
        if self.design is None:
            return self.sampler.name
        blocks = self.budget.trials // len(self.design.levels) - len(self.enqueue)
        return f"paired over {' and '.join(self.design.over)} in {blocks} blocks of {len(self.design.levels)}"

    @property
    def model_name(self) -> str:
        """The name under which `promote` registers this study's best model."""
        return self.registered_model or self.name

    @property
    def auto_precision(self) -> bool:
        """Whether trials may have ``precision = "auto"``, so that the machine decides it when the study is created."""
        return "auto" in self.space.reachable("precision")

    def trial(
        self, values: Mapping[str, Value], number: int, device: Literal["cpu", "cuda"], precision: Precision
    ) -> TrialConfig:
        """Trial ``number`` with these values of the searched keys, as ``Space.resolve`` gave them.

        ``precision`` is what ``auto`` means in this study.
        """
        if values["precision"] == "auto":
            values = {**values, "precision": precision if values["layer_type"] in AUTO_BFLOAT16 else "float32"}
        return TrialConfig(
            dataset=self.dataset,
            degrade=self.degrade,
            objective=self.objective.metric,
            epochs=self.budget.epochs,
            threads=self.budget.threads_per_trial,
            device=device,
            seed=self.seed,
            number=number,
            **by_section(values),
        )

    def single(self) -> Self:
        """This study narrowed to one configuration: the fixed keys, and for the open ones the first enqueued entry.

        Raises:
            ConfigError: some keys stay open; the message names them.
        """
        entry, missing = self.enqueue[0] if self.enqueue else {}, []

        def chosen(name: str, dimension: Choices | Range) -> Value:
            key = key_of(name)
            if key not in entry:
                missing.append(key)
            return entry.get(key, dimension.first)

        values = self.space.resolve(chosen)
        if missing:
            keys = [f"{FIELDS[key][0]}.{key}" for key in missing]
            raise ConfigError(f"one training needs a value for {', '.join(keys)}: fix them, as with --set {keys[0]}=…")
        budget = self.budget.model_dump() | {"trials": 1, "concurrency": 1}
        changes = {
            "enqueue": (),
            "warm_start": None,
            "budget": budget,
            "sampler": {"name": "random"},
            "pruner": {"name": "none"},
        }
        return type(self).model_validate(self.model_dump() | by_section(values) | changes)

    def canonical(self) -> dict[str, Any]:
        """The whole study in plain JSON values, defaults filled in: what is stored and compared."""
        left_out = {"model", "train"} | ({"warm_start"} if self.warm_start is None else set())
        return self.model_dump(mode="json", exclude=left_out) | self.space.canonical()

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """The differences from a stored study, one line each; those of `MAY_CHANGE` are left out."""
        mine, other = _flat(self.canonical()), _flat(stored)
        keys = [key for key in dict.fromkeys([*other, *mine]) if key not in MAY_CHANGE]
        show = {key: [json.dumps(side[key]) if key in side else "(absent)" for side in (other, mine)] for key in keys}
        return [f"{key}: {old} is stored, {new} is asked" for key, (old, new) in show.items() if old != new]


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of all sections as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return flat
