"""Study files: from a path and ``--set`` overrides to a checked ``StudyFile``, or a ``ConfigError``. Writes nothing."""

import hashlib
import json
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic_core import ErrorDetails, ValidationError

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.config.choices import LOSS_OBJECTIVES, OBJECTIVES, parse_loss
from pipeline.config.forms import SECTIONS, Value, by_section
from pipeline.config.messages import explain, hint, locate, shown
from pipeline.config.study_config import PRUNERS, SAMPLERS, StudyConfig
from pipeline.config.trial import DEGRADATIONS
from pipeline.errors import ConfigError, NotFoundError

MAX_BYTES = 1 << 20  # a study file is a page of text; a larger file is something else
MAX_MESSAGE = 1_000
BARE_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.+ -]{1,100}")  # a name, or a sum of losses
LONGEST_PATH = 400  # of a picture folder: it is part of a data set's name, which MLflow limits to 500 characters
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MLFLOWS_OWN = "Default"  # the experiment that every MLflow store has from the start; its artifacts are not in our home
MAX_DEPTH = 20  # of tables and lists within each other; the forms of a key need five
VARIANTS = {"degrade": DEGRADATIONS, "sampler": SAMPLERS, "pruner": PRUNERS}


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
    return _built(raw, path, text, overrides, name, trials)


def trial_file(
    config: StudyConfig, values: Mapping[str, Value], label: str, overrides: Sequence[str] = (), name: str | None = None
) -> StudyFile:
    """A study file that fixes one configuration of a study, whose text is JSON; for a single training.

    Args:
        values: of every key of ``[model]`` and ``[train]``.
        label: what messages call it.
        overrides, name: as of `load_study_file`. Raises ConfigError likewise.
    """
    search = ("sampler", "pruner", "enqueue", "warm_start")
    raw = {key: value for key, value in config.canonical().items() if key not in search} | by_section(values)
    return _built(raw, Path(label), json.dumps(raw, indent=2), overrides, name, None)


def _built(
    raw: dict[str, Any], path: Path, text: str, overrides: Sequence[str], name: str | None, trials: int | None
) -> StudyFile:
    for override in overrides:
        _apply(raw, override)
    if name is not None:
        raw["name"] = name
    if trials is not None:
        _apply(raw, f"budget.trials={trials}")
        if isinstance(raw.get("sampler"), dict) and raw["sampler"].get("name") == "paired":
            raw["sampler"].pop("blocks", None)  # they follow from the trials
    try:
        _place_pictures(raw, path)
        return StudyFile(path, text, tuple(overrides), _checked(raw))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error!s:.{MAX_MESSAGE}}") from None


def _read(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise ConfigError(f"{path}: not a file")  # to read a pipe could take for ever
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
        enqueued = raw.get("enqueue")
        for entry in enqueued if isinstance(enqueued, list) else []:
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


def _checked(raw: dict[str, Any]) -> StudyConfig:
    """The study that the tables of a file describe, or a refusal that names key and value."""
    _check_plain(raw, ())
    try:
        # JSON mode takes lists where tuples are declared and is as strict about everything else.
        config = StudyConfig.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        raise ConfigError(_describe(error.errors(include_url=False))) from None
    check_name(config.name, "name =")
    if config.name == MLFLOWS_OWN:
        raise ConfigError(f"name = {MLFLOWS_OWN!r} is MLflow's own experiment; give the study another")
    if config.registered_model:
        check_name(config.registered_model, "registered_model =")
    if config.dataset not in CATALOGUE and not config.dataset.startswith(PICTURE_FOLDER):
        allowed = f"{', '.join(CATALOGUE)}, or {PICTURE_FOLDER}PATH"
        raise ConfigError(f"dataset = {config.dataset!r} is unknown; allowed: {allowed}")
    if config.warm_start and check_name(config.warm_start.study, "[warm_start] from =") == config.name:
        raise ConfigError(f"[warm_start] from = {config.name!r} is this study itself; name another one")
    _check_ranking(config)
    for number, entry in enumerate(config.enqueue, 1):
        (config.design or config.space).check_enqueued(entry, f"[[enqueue]] number {number}")
    return config


def _check_ranking(config: StudyConfig) -> None:
    """Refuse a search over losses whose trials would be ranked by what one of them trains on."""
    searched = [str(loss) for loss in config.space.reachable("loss")]
    favoured = {*LOSS_OBJECTIVES, *(name for loss in searched for name in parse_loss(loss))}
    if len(searched) > 1 and config.objective.metric in favoured:
        fair = [metric for metric in OBJECTIVES if metric not in favoured]
        raise ConfigError(
            f"[objective] metric = {config.objective.metric!r} would rank {', '.join(searched)} by what one of "
            f"them trains on, or nearly; rank a search over these losses by {' or '.join(fair)}"
        )


def check_name(name: str, what: str) -> str:
    """Refuse a name that could not be part of a path and a URI."""
    if not NAME.fullmatch(name):
        allowed = "1 to 100 letters, digits, '.', '_' or '-', starting with a letter or digit"
        raise ConfigError(f"{what} {shown(name)} is not allowed: {allowed}")
    return name


def _describe(findings: Sequence[ErrorDetails]) -> str:
    """The first finding as text, together with what other branches of the same key's type found."""
    finding = findings[0]
    place, kind, section = finding["loc"], finding["type"], str(finding["loc"][0])
    # In a tagged union the tag follows the section, and the branch of the key's own type follows the key.
    path = [section, *map(str, place[2:3] if section in VARIANTS else place[1:])]
    location = locate(path)
    if kind == "missing":
        return f"{location} is missing"
    if kind == "extra_forbidden":
        unknown = f"{place[1]} takes no such argument" if section in VARIANTS else "unknown key"
        return f"{location}: {unknown}{hint(path[-1], _fields(place))}"
    if kind == "union_tag_not_found":
        return f"[{section}] kind is missing"
    if kind == "union_tag_invalid":
        tag, key, names = finding["ctx"]["tag"], finding["ctx"]["discriminator"].strip("'"), VARIANTS[section]
        near = hint(tag, names, listing=False)
        return f"[{section}] {key} = {tag!r} is unknown; allowed: {', '.join(names)}{near}"
    if isinstance(finding["input"], dict | list):
        return f"{location}: {finding['msg'].replace('Input should', 'must')}"
    return f"{location} = {finding['input']!r}: {explain([f for f in findings if f['loc'][:3] == place[:3]])}"


def _fields(place: tuple[int | str, ...]) -> list[str]:
    """The keys that are allowed where pydantic found an unknown one: in the file, a section or a tagged section."""
    section = str(place[0])
    if len(place) == 3:
        return list(VARIANTS[section][str(place[1])].model_fields)
    if len(place) == 1:
        return list(StudyConfig.model_fields)
    annotation = StudyConfig.model_fields[section].annotation
    [cls] = [each for each in (annotation, *get_args(annotation)) if hasattr(each, "model_fields")]
    return [field.alias or name for name, field in cls.model_fields.items()]


def _check_plain(value: Any, path: tuple[str, ...]) -> None:
    """Refuse what TOML can hold and JSON cannot: pydantic's JSON reader would not name the key."""
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{locate(path)}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(str(key), path)
            _check_plain(inner, (*path, str(key)))
    elif isinstance(value, str) and re.search("[\ud800-\udfff]", value):
        raise ConfigError(f"{locate(path)}: {value!r} is not Unicode text")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{locate(path)}: an integer of {value.bit_length()} bits; TOML's have 64")
    elif not isinstance(value, str | bool | int | float):
        raise ConfigError(f"{locate(path)} = {value}: dates and times are not allowed in a study file")
