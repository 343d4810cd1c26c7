"""Study files: from a path and ``--set`` overrides to a ``StudyFile`` with its ``StudyConfig``. Writes nothing."""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.catalogue import PICTURE_FOLDER
from pipeline.config.forms import SECTIONS
from pipeline.config.study_config import StudyConfig, parse_study
from pipeline.errors import ConfigError, NotFoundError

MAX_BYTES = 1 << 20  # a study file is a page of text; a larger file is something else
MAX_MESSAGE = 1_000
BARE_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.+ -]{1,100}")  # a name, or a sum of losses
LONGEST_PATH = 400  # of a picture folder: it is part of a data set's name, which MLflow limits to 500 characters


@dataclass(frozen=True)
class StudyFile:
    """A study file as it was read; its text is stored with the study."""

    path: Path
    text: str
    overrides: tuple[str, ...]
    config: StudyConfig

    @property
    def sha256(self) -> str:
        """Digest of the file's text and the overrides."""
        return hashlib.sha256("\0".join([self.text, *self.overrides]).encode("utf-8", "surrogatepass")).hexdigest()


def load_study_file(
    path: Path, overrides: Sequence[str] = (), name: str | None = None, trials: int | None = None
) -> StudyFile:
    """Read, override and check a study file.

    Args:
        path: a TOML file of at most 1 MiB.
        overrides: ``section.key=VALUE`` with a TOML value; bare words and ``folder:PATH`` need no quotes. A key of
            ``[model]`` or ``[train]`` that an override fixes is fixed in the enqueued configurations too.
        name, trials: replace the study's name and number of trials.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not TOML, or a key or value is not allowed; the message names file, key and value.
    """
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, tomllib.TOMLDecodeError) else f"{type(error).__name__} while reading it"
        raise ConfigError(f"{path}: not valid TOML: {reason}") from None
    for override in overrides:
        _apply(raw, override)
    if name is not None:
        raw["name"] = name
    if trials is not None:
        _apply(raw, f"budget.trials={trials}")
    try:
        _place_pictures(raw, path)
        return StudyFile(path, text, tuple(overrides), parse_study(raw))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error!s:.{MAX_MESSAGE}}") from None


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such study file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES >> 20} MiB, so not a study file")
    try:
        return data.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start})") from None


def _apply(raw: dict[str, Any], override: str) -> None:
    target, equals, value = override.partition("=")
    *sections, key = target.strip().split(".")
    shown = f"--set {override if override.isprintable() else repr(override):.80}"
    if not equals or not key or len(sections) > 1:
        raise ConfigError(f"{shown}: write section.key=VALUE, such as train.lr=1e-3")
    try:
        [parsed] = tomllib.loads(f"value = {value}").values()
    except (ValueError, RecursionError):  # not TOML, more than one line, or more digits than Python converts
        if not BARE_WORDS.fullmatch(value.strip()) and not value.strip().startswith(PICTURE_FOLDER):
            raise ConfigError(f"{shown}: {value.strip()[:60]!r} is not a TOML value") from None
        parsed = value.strip()
    table = raw.setdefault(sections[0], {}) if sections else raw
    if not isinstance(table, dict):
        raise ConfigError(f"{shown}: {sections[0][:60]} is not a section")
    table[key] = parsed
    if sections and sections[0] in SECTIONS and not isinstance(parsed, list | dict):
        for entry in raw.get("enqueue", []) if isinstance(raw.get("enqueue"), list) else []:
            if isinstance(entry, dict):
                entry.pop(key, None)


def _place_pictures(raw: dict[str, Any], file: Path) -> None:
    """Make a picture folder's path absolute, relative to the study file: workers have other working directories."""
    named = raw.get("dataset")
    if not isinstance(named, str) or not named.startswith(PICTURE_FOLDER):
        return
    given = named.removeprefix(PICTURE_FOLDER)
    if not given or any(unicodedata.category(letter) == "Cc" for letter in given):
        raise ConfigError(f"dataset = {named[:60]!r}: {PICTURE_FOLDER} needs a path without control characters")
    try:
        absolute = os.path.abspath(file.absolute().parent / Path(given).expanduser())
    except RuntimeError as error:  # ~NAME of an unknown user
        raise ConfigError(f"dataset = {named[:60]!r}: {error}") from None
    if len(absolute) > LONGEST_PATH:
        raise ConfigError(f"dataset: the path has {len(absolute)} characters; at most {LONGEST_PATH}")
    raw["dataset"] = PICTURE_FOLDER + absolute
