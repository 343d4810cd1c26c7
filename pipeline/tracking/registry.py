"""The model registry: versions of registered models, and their aliases. May not import torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from mlflow.exceptions import MlflowException

from pipeline.errors import NotFoundError
from pipeline.home import Home
from pipeline.tracking.models import load_verified
from pipeline.tracking.store import connect, every_page

if TYPE_CHECKING:
    from torch import nn

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    model: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    model_id: str
    tags: dict[str, str]


def registry_lock(home: Home, name: str) -> FileLock:
    """Held while versions of a registered model change."""
    return FileLock(home.locks(home.tracking_uri, "models") / f"{name}.lock")


def registered(home: Home) -> list[RegisteredVersion]:
    """Every version of every registered model, newest first within a model."""
    if not home.has_tracking():
        return []
    client, found = connect(home), []
    for model in every_page(client.search_registered_models):
        versions_of_model = every_page(partial(client.search_model_versions, f"name = '{model.name}'"))
        for version in sorted(versions_of_model, key=lambda version: -int(version.version)):
            aliases = [alias for alias, number in model.aliases.items() if str(number) == str(version.version)]
            found.append(_registered(version, aliases))
    return found


def find_version(home: Home, name: str, alias: str = CHAMPION) -> RegisteredVersion | None:
    """The version of a model that has an alias; None if there is no such model or alias."""
    try:
        version = connect(home).get_model_version_by_alias(name, alias)
    except MlflowException:
        return None
    return _registered(version, version.aliases)


def register_version(
    home: Home, name: str, run_id: str, model_id: str, tags: Mapping[str, str], before: RegisteredVersion | None
) -> str:
    """Register a logged model as the new champion; ``before``, the champion so far, becomes the previous one."""
    client = connect(home)
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before.version)
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return str(version.version)


def load_champion(home: Home, name: str, alias: str = CHAMPION) -> nn.Module:
    """A registered model, loaded as by `load_verified`; NotFoundError if there is no such model or alias."""
    version = find_version(home, name, alias)
    if version is None:
        known = ", ".join(sorted({v.model for v in registered(home)})) or "none"
        raise NotFoundError(f"no registered model {name!r} with alias {alias!r}; models: {known}")
    return load_verified(version.model_id, json.loads(version.tags["model.sha256"]))


def delete_version(home: Home, version: RegisteredVersion) -> None:
    """Delete a version and its aliases."""
    with registry_lock(home, version.model):
        connect(home).delete_model_version(version.model, version.version)


def delete_empty_model(home: Home, name: str) -> None:
    """Delete a registered model if it has no version left."""
    client = connect(home)
    with registry_lock(home, name):
        known = client.search_registered_models(f"name = '{name}'")
        if known and not client.search_model_versions(f"name = '{name}'"):
            client.delete_registered_model(name)


def _registered(version: Any, aliases: list[str]) -> RegisteredVersion:
    model_id = version.source.removeprefix("models:/")  # the store does not return the version's model_id
    number = str(version.version)
    return RegisteredVersion(version.name, number, tuple(aliases), version.run_id, model_id, version.tags)
