"""The model registry: versions and aliases.

Comes in: a home and the names of models. Goes out: versions as records, and verified modules. Imports no torch before a
model is loaded.
"""

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
    tags: dict[str, str]


def registry_lock(home: Home, name: str) -> FileLock:
    """Held while versions of a registered model change."""
    folder = home.path / "locks"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{name}.registry.lock")


def registered(home: Home) -> list[RegisteredVersion]:
    """Every version of every registered model, newest first within a model."""
    if not home.has_tracking():
        return []
    client = connect(home)
    found = []
    for model in every_page(client.search_registered_models):
        versions = every_page(partial(client.search_model_versions, f"name = '{model.name}'"))
        aliases: dict[str, list[str]] = {}
        for alias, version in model.aliases.items():
            aliases.setdefault(str(version), []).append(alias)
        found += [
            _registered(version, aliases.get(str(version.version), []))
            for version in sorted(versions, key=lambda version: -int(version.version))
        ]
    return found


def find_champion(home: Home, name: str) -> RegisteredVersion | None:
    """The version of a model that is champion."""
    version = _with_alias(home, name, CHAMPION)
    return _registered(version, version.aliases) if version else None


def register_version(
    home: Home, name: str, run_id: str, model_id: str, tags: Mapping[str, str], before: RegisteredVersion | None
) -> str:
    """Register a logged model as the new champion; ``before``, the champion so far, becomes the previous one.

    Returns:
        The new version.
    """
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
    """A registered model as a torch module, after its files are verified.

    Raises:
        NotFoundError: no such model or alias.
        TrackingError: its files are not those that were logged.
    """
    version = _with_alias(home, name, alias)
    if version is None:
        known = ", ".join(sorted({v.model for v in registered(home)})) or "none"
        raise NotFoundError(f"no registered model {name!r} with alias {alias!r}; models: {known}")
    # The store does not return the version's model_id; its source has it.
    return load_verified(version.source.removeprefix("models:/"), json.loads(version.tags["model.sha256"]))


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


def _with_alias(home: Home, name: str, alias: str) -> Any:
    """MLflow's version with an alias; None if there is no such model or alias."""
    try:
        return connect(home).get_model_version_by_alias(name, alias)
    except MlflowException:
        return None


def _registered(version: Any, aliases: list[str]) -> RegisteredVersion:
    return RegisteredVersion(version.name, str(version.version), tuple(aliases), version.run_id, version.tags)
