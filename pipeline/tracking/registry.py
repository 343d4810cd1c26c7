"""The model registry: versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import NotFoundError
from pipeline.home import Home
from pipeline.tracking.models import load_verified
from pipeline.tracking.store import connect, every_page

CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class RegisteredVersion:
    """A model version as the registry lists it."""

    model: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    tags: dict[str, str]


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
            RegisteredVersion(model.name, str(v.version), tuple(aliases.get(str(v.version), ())), v.run_id, v.tags)
            for v in sorted(versions, key=lambda v: -int(v.version))
        ]
    return found


def delete_version(home: Home, version: RegisteredVersion) -> None:
    """Delete a version and its aliases."""
    with FileLock(home.path / "locks" / f"{version.model}.registry.lock"):
        connect(home).delete_model_version(version.model, version.version)


def delete_empty_model(home: Home, name: str) -> None:
    """Delete a registered model if it has no version any more."""
    client = connect(home)
    with FileLock(home.path / "locks" / f"{name}.registry.lock"):
        known = client.search_registered_models(f"name = '{name}'")
        if known and not client.search_model_versions(f"name = '{name}'"):
            client.delete_registered_model(name)


def load_champion(home: Home, name: str, alias: str = CHAMPION) -> Any:
    """A registered model as a torch module, after its files are verified.

    Raises:
        NotFoundError: no such model or alias.
        TrackingError: its files are not those that were logged.
    """
    client = connect(home)
    try:
        version = client.get_model_version_by_alias(name, alias)
    except MlflowException:
        known = ", ".join(sorted({v.model for v in registered(home)})) or "none"
        raise NotFoundError(f"no registered model {name!r} with alias {alias!r}; models: {known}") from None
    # The store does not give the version's model_id back; its source names it.
    return load_verified(version.source.removeprefix("models:/"), json.loads(version.tags["model.sha256"]))


def find_champion(client: MlflowClient, name: str) -> Any:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None


def register_version(
    client: MlflowClient, name: str, run_id: str, model_id: str, tags: Mapping[str, str], before: Any
) -> str:
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    version = client.create_model_version(name, f"models:/{model_id}", run_id, tags=dict(tags), model_id=model_id)
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before.version)
    client.set_registered_model_alias(name, CHAMPION, version.version)
    return str(version.version)
