"""Optuna's samplers and pruners, built from a study's ``[sampler]`` and ``[pruner]``.

Comes in: a ``StudyConfig``, whose argument names and types have been checked. Goes out: Optuna's objects.
"""

import warnings
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import create_trial

from pipeline.config import StudyConfig
from pipeline.errors import ConfigError, first_line
from pipeline.seeds import derive_seed

SAMPLER_CLASSES = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "paired": optuna.samplers.RandomSampler,  # which draws nothing: the design gives all parameters of a trial
}
PRUNER_CLASSES = {
    "median": optuna.pruners.MedianPruner,
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}


def check(config: StudyConfig) -> None:
    """Use the sampler and the pruner once: Optuna checks some values only then. Raises ConfigError with its reason."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    build_sampler(config, 0)
    _check_drawing(config)
    trial = optuna.create_study(pruner=build_pruner(config)).ask()
    trial.report(0.0, 1)
    try:
        trial.should_prune()
    except (ValueError, ArithmeticError) as error:
        raise ConfigError(f"[pruner] {config.pruner.name}: {error}; epochs are {config.budget.epochs}") from None


def _check_drawing(config: StudyConfig) -> None:
    # TPE uses its arguments once it has seen as many trials as this.
    early: dict[str, Any] = {"n_startup_trials": 1} if config.sampler.name == "tpe" else {}
    study = optuna.create_study(sampler=build_sampler(config, 0, **early))
    scale = optuna.distributions.FloatDistribution(0.0, 1.0)
    study.add_trials([create_trial(params={"x": x}, distributions={"x": scale}, value=x) for x in (0.2, 0.5, 0.8)])
    try:
        study.ask({"x": scale})
    except Exception as error:  # an argument can fail anywhere in Optuna's arithmetic
        shown = ", ".join(f"{key} = {value!r}" for key, value in config.sampler.arguments.items())
        reason = first_line(error)
        raise ConfigError(f"[sampler] {config.sampler.name} cannot draw with {shown} ({reason})") from None


def build_sampler(config: StudyConfig, number: int, **arguments: Any) -> Any:
    """The sampler of one trial, seeded by study and number; ``arguments`` replace those of the file."""
    settings: dict[str, Any] = {"seed": derive_seed(config.seed, number, "sampler") % 2**32}
    if config.sampler.name == "tpe" and config.space.conditional():
        # Without groups TPE would sample conditional keys independently of the others.
        settings |= {"multivariate": True, "group": config.sampler.arguments.get("multivariate", True)}
    if config.design is None:
        settings |= config.sampler.arguments | arguments
    return _construct("sampler", SAMPLER_CLASSES[config.sampler.name], settings)


def build_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """The study's pruner; Hyperband's greatest resource is the number of epochs if the file gives none."""
    settings = config.pruner.arguments
    if config.pruner.name == "hyperband":
        settings = {"max_resource": config.budget.epochs} | settings
    return _construct("pruner", PRUNER_CLASSES[config.pruner.name], settings)


def _construct(section: str, cls: Callable[..., Any], settings: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)  # of an argument that a later version removes
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"[{section}]: {first_line(error)}") from None
