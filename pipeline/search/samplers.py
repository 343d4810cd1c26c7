"""Samplers and pruners."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import optuna
from optuna.trial import create_trial

from pipeline.config import StudyConfig
from pipeline.errors import ConfigError
from pipeline.seeds import derive_seed

SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
PRUNERS = {
    "median": optuna.pruners.MedianPruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}
# Decided here, or functions that no TOML value can be.
OWN_ARGUMENTS = ("seed", "gamma", "weights", "constraints_func", "rng")
TYPES: dict[str, Any] = {"bool": bool, "int": int, "float": (int, float), "str": str}


def check(config: StudyConfig) -> None:
    """Refuse sampler or pruner arguments that Optuna would not take.

    Raises:
        ConfigError: naming the argument and what is allowed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    build_sampler(config, 0)
    _check_sampling(config)
    trial = optuna.create_study(pruner=build_pruner(config)).ask()
    trial.report(0.0, 1)
    try:
        trial.should_prune()  # Hyperband looks at its arguments only now
    except (ValueError, ArithmeticError) as error:
        raise ConfigError(f"[pruner] {config.pruner.name}: {error}; epochs are {config.budget.epochs}") from None


def _check_sampling(config: StudyConfig) -> None:
    """Have the sampler draw once from other trials: it looks at some of its arguments only then."""
    startup = {} if config.sampler.name == "random" else {"n_startup_trials": 1}
    sampler = build_sampler(config.model_copy(update={"sampler": config.sampler.model_copy(update=startup)}), 0)
    study = optuna.create_study(sampler=sampler)
    scale = optuna.distributions.FloatDistribution(0.0, 1.0)
    study.add_trials([create_trial(params={"x": x}, distributions={"x": scale}, value=x) for x in (0.2, 0.5, 0.8)])
    try:
        study.ask({"x": scale})
    except Exception as error:  # whatever it comes to in there
        given = ", ".join(f"{key} = {value!r}" for key, value in (config.sampler.model_extra or {}).items())
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"[sampler] {config.sampler.name} cannot draw with {given} ({reason})") from None


def build_sampler(config: StudyConfig, number: int) -> Any:
    """The sampler of one trial, seeded anew from (seed, number)."""
    settings = _arguments("sampler", config.sampler.name, SAMPLERS[config.sampler.name], config.sampler)
    if config.sampler.name == "tpe" and config.space.conditional():
        # Without groups TPE would sample conditional keys apart from the rest.
        settings = {"multivariate": True, "group": True} | settings
    settings["seed"] = derive_seed(config.seed, number, "sampler") % 2**32
    return _construct("sampler", SAMPLERS[config.sampler.name], settings)


def build_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    settings = _arguments("pruner", config.pruner.name, PRUNERS[config.pruner.name], config.pruner)
    if config.pruner.name == "hyperband":
        settings = {"max_resource": config.budget.epochs} | settings
    return _construct("pruner", PRUNERS[config.pruner.name], settings)


def _arguments(section: str, name: str, cls: Any, given: Any) -> dict[str, Any]:
    allowed = {key: p for key, p in inspect.signature(cls).parameters.items() if key not in OWN_ARGUMENTS}
    settings = dict(given.model_extra or {})
    for key, value in settings.items():
        if key not in allowed:
            listing = ", ".join(allowed) or "none"
            raise ConfigError(f"[{section}] {key}: {name} takes no such argument; allowed: {listing}")
        # Optuna checks few types, and then only when the argument is used.
        names = [n for n in inspect.formatannotation(allowed[key].annotation).strip("'").split(" | ") if n in TYPES]
        if not any(isinstance(value, TYPES[n]) and isinstance(value, bool) == (n == "bool") for n in names):
            raise ConfigError(f"[{section}] {key} = {value!r}: {name} takes {' or '.join(names) or 'no such value'}")
    return settings


def _construct(section: str, cls: Any, settings: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that will go one day
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"[{section}]: {str(error).splitlines()[0]}") from None
