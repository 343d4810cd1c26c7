"""The studies of a home, in Optuna's database: open, load, list, delete.

Comes in: a home and a study's name. Goes out: a `Search`.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import optuna
from pydantic import ValidationError

from pipeline.config import StudyConfig
from pipeline.config.choices import QUICK_BFLOAT16
from pipeline.config.messages import hint
from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.home import Home
from pipeline.search.ask_tell import Search
from pipeline.search.database import database_errors, open_storage, patience_with
from pipeline.search.records import ranked


@database_errors()
def open_search(home: Home, config: StudyConfig, uid: str, facts: Mapping[str, Any]) -> Search:
    """Open a study, or create it with this uid and these facts (data digest, device, precision), which never change.

    What ``[warm_start]`` takes of another study is decided when the study is created, and stored with it.

    Raises:
        ConfigError: the stored study differs in anything but the total and the model's name, or in a fact; the
            message shows up to six differences.
        InputError: the stored study belongs to another home, or there is nothing to start from.
        StudyError: the database cannot be used.
    """
    storage = open_storage(home)
    if config.name in optuna.get_all_study_names(storage):
        study = optuna.load_study(storage=storage, study_name=config.name)
        if "config" in study.user_attrs:
            search = Search(config, study, patience_with(home.storage_shown))
            check_owner(home, search)
            _check_same(study, config, facts)
            study.set_user_attr("config", config.canonical())  # the total and the model's name may have changed
            return search
        # The process that created it was killed before it stored the configuration; there is no trial yet.
        optuna.delete_study(storage=storage, study_name=config.name)
    warm = {"warm_start": _warm_start(home, config)} if config.warm_start else {}
    study = optuna.create_study(
        storage=storage, study_name=config.name, direction=config.objective.direction, load_if_exists=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([config.objective.metric])  # so that Optuna's own dashboard and plots name it
    stamp = datetime.now(UTC).isoformat(timespec="seconds")
    attributes = {"facts": dict(facts), "created": stamp, "uid": uid, "home": home.owner()} | warm
    for key, value in (attributes | {"config": config.canonical()}).items():  # whole once it has a config
        study.set_user_attr(key, value)
    return Search(config, study, patience_with(home.storage_shown))


def _warm_start(home: Home, config: StudyConfig) -> dict[str, list[dict[str, Any]]]:
    """Of another study's best trials the searched parameters of those that fit this one's space, and why others do not.

    Raises InputError: there is no such study, or none of its trials is complete.
    """
    assert config.warm_start is not None
    source = load_search(home, config.warm_start.study)
    best = ranked(source.records(), source.config.objective.direction)[: config.warm_start.top]
    if not best:
        raise InputError(f"[warm_start] from = {source.config.name!r}: that study has no complete trial yet")
    taken: list[dict[str, Any]] = []
    left: list[dict[str, Any]] = []
    for trial in best:
        try:
            params = config.space.adopted(trial.values)
        except ConfigError as error:
            left.append({"trial": trial.number, "reason": str(error)})
            continue
        same = next((each["trial"] for each in taken if each["params"] == params), None)
        if same is None:
            taken.append({"trial": trial.number, "params": params})
        else:
            left.append({"trial": trial.number, "reason": f"the same here as trial {same}"})
    return {"taken": taken, "left": left}


def warm_start_notes(search: Search) -> Iterator[str]:
    """What a study took of the one that its ``[warm_start]`` names, and what not."""
    if search.config.warm_start is None:
        return
    source, found = search.config.warm_start.study, search.warm_start
    numbers = ", ".join(str(each["trial"]) for each in found["taken"]) or "none"
    yield f"of the {sum(map(len, found.values()))} best trials of {source} these are enqueued: {numbers}"
    for each in found["left"]:
        yield f"trial {each['trial']} of {source} does not fit: {each['reason']}"


def owned(home: Home, search: Search) -> bool:
    """Whether a study belongs to this home, and not to another one that uses the same database."""
    return search.home.get("id") == home.id


def check_owner(home: Home, search: Search) -> None:
    """InputError if a study belongs to another home, which alone may change it."""
    if not owned(home, search):
        raise InputError(
            f"study {search.config.name!r} belongs to another home ({search.home.get('path')}), which alone may run or "
            "change it; use --name OTHER to start another study"
        )


def _check_same(study: optuna.Study, config: StudyConfig, facts: Mapping[str, Any]) -> None:
    stored = study.user_attrs["facts"]
    if stored.get("precision") == "float32":  # which every machine can do
        facts = {**facts, "precision": "float32"}
    if stored.get("precision") == "bfloat16" and facts.get("precision") == "float32":
        raise ConfigError(
            f"study {config.name!r} trains in bfloat16, at which this machine is not quick.\n"
            f"Run it on a machine {QUICK_BFLOAT16}; or use --name OTHER to start another study from this file"
        )
    differences = config.differences(study.user_attrs["config"])
    differences += [f"{k}: {stored.get(k)} is stored, {v} is asked" for k, v in facts.items() if stored.get(k) != v]
    if differences:
        shown = "; ".join(differences[:6]) + (f"; and {len(differences) - 6} more" if len(differences) > 6 else "")
        raise ConfigError(
            f"study {config.name!r} exists and differs: {shown}.\n"
            "Use --name OTHER to start another study from this file"
        )


def stored_uid(home: Home, name: str) -> str | None:
    """The uid of a study; None if there is no study of that name. Raises InputError as `check_owner`."""
    for study in _studies(home, name):
        search = _search(home, study)
        check_owner(home, search)
        return search.uid
    return None


def adopt(home: Home) -> None:
    """Give the studies of a copied home the id that `tracking.experiments.adopt` gave it, and complete the adoption."""
    for search in load_searches(home):
        if search.home.get("id") == home.replaces:
            search.home = home.owner()
    home.identify(adopted=True)


def detached(config: StudyConfig, uid: str) -> Search:
    """A study in memory with one open trial, for a single training."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=config.name, direction=config.objective.direction)
    search = Search(config, study, patience_with("this process"))
    search.uid = uid
    search.ask()
    return search


def load_search(home: Home, name: str) -> Search:
    """Open an existing study to read it. Raises NotFoundError, which lists the studies there are."""
    found = load_searches(home, name)
    if found:
        return found[0]
    names = study_names(home)
    near = hint(name, names, listing=False)
    raise NotFoundError(f"there is no study {name!r} in {home.path}; studies: {', '.join(names) or 'none'}{near}")


def load_searches(home: Home, only: str | None = None) -> list[Search]:
    """The studies of a home in the order of their names, or ``only`` one; none where there is no home.

    A database that homes share has the others' studies as well: `owned` says which are this home's.
    """
    return [_search(home, study) for study in _studies(home, only)]


def study_names(home: Home) -> list[str]:
    """The names of the studies of a home, sorted; none where there is no home."""
    return [study.study_name for study in _studies(home)]


@database_errors()
def delete_search(home: Home, name: str) -> None:
    """Delete a study from the database, if it is there."""
    for study in _studies(home, name):
        optuna.delete_study(storage=open_storage(home), study_name=study.study_name)


@database_errors()
def _studies(home: Home, only: str | None = None) -> list[optuna.Study]:
    """Optuna's studies; one without a config is left out: its creation was killed, and the next run makes it again."""
    if not home.exists():
        return []
    storage = open_storage(home)
    names = sorted(name for name in optuna.get_all_study_names(storage) if only in (None, name))
    studies = [optuna.load_study(storage=storage, study_name=name) for name in names]
    return [study for study in studies if "config" in study.user_attrs]


def _search(home: Home, study: optuna.Study) -> Search:
    try:
        config = StudyConfig.model_validate_json(json.dumps(study.user_attrs["config"]))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"study {study.study_name} in {home.path} was stored by another version of this program "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}); use that version, or another --home"
        ) from None
    return Search(config, study, patience_with(home.storage_shown))
