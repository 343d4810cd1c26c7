"""The model registry: versions of registered models, and their aliases. May not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import CheckpointError, NotFoundError, TrackingError
from pipeline.home import Home
from pipeline.tracking.models import model_of, model_weights, recorded_weights
from pipeline.tracking.store import connect, every_page, quiet, store_errors

if TYPE_CHECKING:
    from pipeline.training.model import Restorer
    from pipeline.training.weights import Description

CHAMPION, PREVIOUS = "champion", "previous"
STATUS_TAG = "validation_status"  # of a version: approved, or failed if its alias did not give what was promoted
REPLACES, REPLACED_BY = "replaces", "replaced_by"  # tags of versions, with the number of the other one
ABOUT = "Restores degraded images; each version was promoted from a study, and its description says how good it is."
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # MLflow's codes for an unknown model, alias or run


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
    client = connect(home)
    with store_errors(home):
        return every_version(client)


def every_version(client: MlflowClient) -> list[RegisteredVersion]:
    """As `registered`, with MLflow's own errors."""
    aliases = {model.name: model.aliases for model in every_page(client.search_registered_models)}
    versions = [version for version in every_page(client.search_model_versions) if version.name in aliases]
    versions.sort(key=lambda version: (version.name, -int(version.version)))
    return [
        _registered(v, [alias for alias, number in aliases[v.name].items() if str(number) == str(v.version)])
        for v in versions
    ]


def find_version(home: Home, name: str, alias: str = CHAMPION) -> RegisteredVersion | None:
    """The version of a model that has an alias; None if there is no such model or alias."""
    client = connect(home)
    with store_errors(home):
        try:
            version = client.get_model_version_by_alias(name, alias)
        except MlflowException as error:
            if error.error_code in ABSENT:
                return None
            raise
    return _registered(version, version.aliases)


def register_version(
    home: Home,
    name: str,
    run_id: str,
    model_id: str,
    tags: Mapping[str, str],
    description: str,
    before: RegisteredVersion | None,
) -> str:
    """Register a logged model as the new champion; ``before``, the champion so far, becomes the previous one.

    ``description`` is Markdown. A registered model without a description gets one, of one line.
    """
    client = connect(home)
    with store_errors(home), quiet():
        known = client.search_registered_models(f"name = '{name}'")
        if not known:
            client.create_registered_model(name, description=ABOUT)
        elif not known[0].description:
            client.update_registered_model(name, ABOUT)
        version = client.create_model_version(
            name, f"models:/{model_id}", run_id, dict(tags), description=description, model_id=model_id
        )
        if before is not None:
            client.set_registered_model_alias(name, PREVIOUS, before.version)
        client.set_registered_model_alias(name, CHAMPION, version.version)
        return str(version.version)


def withdraw_version(home: Home, name: str, version: str, before: Mapping[str, RegisteredVersion | None]) -> None:
    """Mark a new version as failed, and give each alias back to the version that had it ``before``."""
    client = connect(home)
    with store_errors(home):
        for alias, holder in before.items():
            if holder is None:
                client.delete_registered_model_alias(name, alias)
            else:
                client.set_registered_model_alias(name, alias, holder.version)
        client.set_model_version_tag(name, version, STATUS_TAG, "failed")


def tag_version(home: Home, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
    """Set tags of a version, those that it has not."""
    client = connect(home)
    with store_errors(home):
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(version.model, version.version, key, value)


def replace_version(
    home: Home, lost: RegisteredVersion, run_id: str, model_id: str, tags: Mapping[str, str]
) -> RegisteredVersion:
    """Register a model in place of a version whose own is lost: the new one takes its aliases, other tags, description.

    The old version stays, tagged with the new one's number. Interrupted, it is completed by calling it again.
    """
    client = connect(home)
    with registry_lock(home, lost.model), store_errors(home), quiet():
        others = [v for v in registered(home) if v.model == lost.model and v.tags.get(REPLACES) == lost.version]
        number = next((v.version for v in others), None)
        if number is None:
            tags = {**lost.tags, **tags, REPLACES: lost.version}
            text = client.get_model_version(lost.model, lost.version).description
            created = client.create_model_version(
                lost.model, f"models:/{model_id}", run_id, tags, description=text, model_id=model_id
            )
            number = str(created.version)
        for alias in lost.aliases:
            client.set_registered_model_alias(lost.model, alias, number)
        client.set_model_version_tag(lost.model, lost.version, REPLACED_BY, number)
        return _registered(client.get_model_version(lost.model, number), list(lost.aliases))


def load_champion(home: Home, name: str, alias: str = CHAMPION) -> Restorer:
    """A registered model's restorer, on the CPU, in evaluation mode, rebuilt from its verified weights.

    Raises:
        NotFoundError: there is no such model or alias.
        TrackingError: its weights are missing, or not those that were promoted.
    """
    return load_version(home, named_version(home, f"{name}@{alias}"))[0]


def named_version(home: Home, named: str) -> RegisteredVersion:
    """The version that NAME (its champion), NAME@ALIAS or NAME/VERSION names. Raises NotFoundError."""
    if "/" in named:
        name, _, number = named.partition("/")
        found, what = next((v for v in registered(home) if (v.model, v.version) == (name, number)), None), "version"
    else:
        name, _, number = named.partition("@")
        number = number or CHAMPION
        found, what = find_version(home, name, number), "alias"
    if found is None:
        known = ", ".join(sorted({v.model for v in registered(home)})) or "none"
        raise NotFoundError(f"no registered model {name!r} with {what} {number!r}; models: {known}")
    return found


def load_version(home: Home, version: RegisteredVersion) -> tuple[Restorer, Description]:
    """A version's restorer, on the CPU, in evaluation mode, and what its verified weights file says of it.

    Raises TrackingError: its weights are missing, or not those that were promoted.
    """
    from pipeline.training.weights import describe, load_weights

    try:
        sha256 = recorded_weights(home, version.tags)
        weights = model_weights(version.model_id, sha256)
        return load_weights(weights, sha256), describe(weights)
    except (TrackingError, CheckpointError) as error:
        raise TrackingError(f"{version.model} version {version.version}: {error}") from None


def delete_version(home: Home, version: RegisteredVersion) -> None:
    """Delete a version and its aliases."""
    with registry_lock(home, version.model), store_errors(home):
        connect(home).delete_model_version(version.model, version.version)


def delete_empty_model(home: Home, name: str) -> None:
    """Delete a registered model if it has no version left."""
    client = connect(home)
    with registry_lock(home, name), store_errors(home):
        known = client.search_registered_models(f"name = '{name}'")
        if known and not client.search_model_versions(f"name = '{name}'"):
            client.delete_registered_model(name)


def _registered(version: Any, aliases: list[str]) -> RegisteredVersion:
    number, model_id = str(version.version), model_of(version.source)
    return RegisteredVersion(version.name, number, tuple(aliases), version.run_id, model_id, version.tags)
