"""A study file: TOML in, a frozen and checked ``StudyConfig`` out."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.config.choices import LOSS_OBJECTIVES, OBJECTIVES, PRUNERS, SAMPLERS, hint
from pipeline.config.loss_terms import parse_loss
from pipeline.config.space import FIELDS, SECTIONS, Choices, Range, Space, Value, explain
from pipeline.config.trial import DEGRADATIONS, Degrade, Frozen, TrialConfig, one_of
from pipeline.errors import ConfigError, NotFoundError

MAX_BYTES = 1 << 20  # a study file is a page of text; a larger one is something else
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MLFLOWS_OWN = "Default"  # the experiment that every store begins with; its files lie elsewhere
PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")
MAX_DEPTH = 20  # of tables and lists within each other; the forms of a key need five
MAX_MESSAGE = 1_000
BARE_WORDS = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_.+ -]{1,100}")  # a name, or a sum of losses
LONGEST_PATH = 400  # of such a folder: it is part of a name, and MLflow's names of data sets end at 500


class Budget(Frozen):
    """``[budget]``: how many trials, how long each, how many side by side."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 4
    threads_per_trial: Annotated[int, Field(ge=1, le=1_024)] = 1


class Objective(Frozen):
    """``[objective]``: the validation metric by which trials are ranked."""

    metric: one_of(OBJECTIVES) = "psnr"  # type: ignore[valid-type]

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return OBJECTIVES[self.metric]


class Sampler(Frozen):
    """``[sampler]``: a name, and Optuna's own arguments, which `search` checks."""

    model_config = ConfigDict(extra="allow")
    name: one_of(SAMPLERS) = "tpe"  # type: ignore[valid-type]


class Pruner(Frozen):
    """``[pruner]``: likewise."""

    model_config = ConfigDict(extra="allow")
    name: one_of(PRUNERS) = "median"  # type: ignore[valid-type]


class StudyConfig(Frozen):
    """A whole study file."""

    name: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    registered_model: str = ""
    degrade: Degrade
    budget: Budget = Budget()
    objective: Objective = Objective()
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    enqueue: tuple[dict[str, Any], ...] = ()
    model: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def space(self) -> Space:
        return Space({section: getattr(self, section) for section in SECTIONS})

    @property
    def model_name(self) -> str:
        """The name under which `promote` registers this study's best model."""
        return self.registered_model or self.name

    def trial(self, values: Mapping[str, Value], number: int, device: Literal["cpu", "cuda"]) -> TrialConfig:
        """Trial ``number`` with these values of the searched keys, as ``Space.resolve`` gave them."""
        model, train = self.space.trial(values)
        return TrialConfig(
            dataset=self.dataset,
            degrade=self.degrade,
            model=model,
            train=train,
            objective=self.objective.metric,
            epochs=self.budget.epochs,
            threads=self.budget.threads_per_trial,
            device=device,
            seed=self.seed,
            number=number,
        )

    def single(self) -> StudyConfig:
        """This study narrowed to one configuration: what the file fixes, and for the rest the first enqueued one.

        Raises:
            ConfigError: keys that stay open; the message names them.
        """
        entry, missing = self.enqueue[0] if self.enqueue else {}, []

        def chosen(name: str, dimension: Choices | Range) -> Value:
            key = name.partition("@")[0]
            if key not in entry:
                missing.append(key)
            return entry.get(key, dimension.values[0] if isinstance(dimension, Choices) else dimension.low)

        values = self.space.resolve(chosen)
        if missing:
            where = [f"{FIELDS[key][0]}.{key}" for key in missing]
            raise ConfigError(
                f"one training needs a value for {', '.join(where)}: fix them, as with --set {where[0]}=…"
            )
        fixed = {section: {key: values[key] for key in cls.model_fields} for section, cls in SECTIONS.items()}
        budget = self.budget.model_dump() | {"trials": 1, "concurrency": 1}
        return StudyConfig.model_validate(
            self.model_dump() | fixed | {"enqueue": (), "budget": budget, "pruner": {"name": "none"}}
        )

    def canonical(self) -> dict[str, Any]:
        """The whole study in plain JSON values, defaults filled in: what is stored and compared."""
        return self.model_dump(mode="json", exclude={"model", "train"}) | self.space.canonical()

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """What sets this study apart from a stored one, a line each; the total and the model's name may change."""
        mine, other = _flat(self.canonical()), _flat(stored)
        keys = [key for key in dict.fromkeys([*other, *mine]) if key not in ("budget.trials", "registered_model")]
        show = {key: [json.dumps(side[key]) if key in side else "(absent)" for side in (other, mine)] for key in keys}
        return [f"{key}: {old} is stored, {new} is asked" for key, (old, new) in show.items() if old != new]


@dataclass(frozen=True)
class StudyFile:
    """A study file as read: its text is kept with the study."""

    path: Path
    text: str
    overrides: tuple[str, ...]
    config: StudyConfig

    @property
    def sha256(self) -> str:
        """Of the file's bytes and of the overrides given beside it."""
        return hashlib.sha256("\0".join([self.text, *self.overrides]).encode("utf-8", "surrogatepass")).hexdigest()


def load_study_file(
    path: Path, overrides: Sequence[str] = (), name: str | None = None, trials: int | None = None
) -> StudyFile:
    """Read, override and check a study file.

    Args:
        path: a TOML file of at most 1 MiB.
        overrides: ``section.key=VALUE`` with a TOML value; bare words, or ``folder:PATH``, may go without quotes. A
            key of ``[model]`` or ``[train]`` that is fixed so is fixed in the enqueued configurations too.
        name: takes the place of the file's own name.
        trials: takes the place of the file's own total.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not TOML, or a key or value is not allowed; the message names file, key and value.
    """
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except (RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: not valid TOML: {type(error).__name__} while reading it") from None
    for override in overrides:
        _apply(raw, override)
    if name is not None:
        raw["name"] = name
    if trials is not None:
        _apply(raw, f"budget.trials={trials}")
    try:
        _place_pictures(raw, path)
        return StudyFile(path, text, tuple(overrides), _validate(raw))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error!s:.{MAX_MESSAGE}}") from None


def check_name(name: str, what: str) -> str:
    """Names become parts of paths and URIs, so they are checked before anything else is done with them."""
    if not NAME.fullmatch(name):
        shown = name if len(name) <= 60 else name[:57] + "…"
        raise ConfigError(
            f"{what} {shown!r} is not allowed: 1 to 100 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
    return name


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
        return data.decode("utf-8-sig")  # some editors begin a file with a mark
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
    except (ValueError, RecursionError):  # not TOML, more than one line of it, or more digits than Python converts
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
    """Make a picture folder's path absolute, from the study file's folder: workers have other working directories."""
    named = raw.get("dataset")
    if not isinstance(named, str) or not named.startswith(PICTURE_FOLDER):
        return
    given = named.removeprefix(PICTURE_FOLDER)
    if not given or any(unicodedata.category(letter) == "Cc" for letter in given):
        raise ConfigError(f"dataset = {named[:60]!r}: a path follows {PICTURE_FOLDER}, without control characters")
    try:
        absolute = os.path.abspath(file.absolute().parent / Path(given).expanduser())
    except RuntimeError as error:  # ~user of nobody
        raise ConfigError(f"dataset = {named[:60]!r}: {error}") from None
    if len(absolute) > LONGEST_PATH:
        raise ConfigError(
            f"dataset: the path of {PICTURE_FOLDER} has {len(absolute)} characters; at most {LONGEST_PATH}"
        )
    raw["dataset"] = PICTURE_FOLDER + absolute


def _validate(raw: dict[str, Any]) -> StudyConfig:
    _check_plain(raw, ())
    try:
        # JSON mode takes lists where tuples are declared and is as strict about everything else.
        config = StudyConfig.model_validate_json(json.dumps(raw))
    except ValidationError as error:
        finding = error.errors(include_url=False)[0]
        raise ConfigError(_describe(finding, error)) from None
    check_name(config.name, "name =")
    if config.name == MLFLOWS_OWN:
        raise ConfigError(f"name = {MLFLOWS_OWN!r} is MLflow's own experiment; give the study another")
    if config.registered_model:
        check_name(config.registered_model, "registered_model =")
    if config.dataset not in CATALOGUE and not config.dataset.startswith(PICTURE_FOLDER):
        raise ConfigError(
            f"dataset = {config.dataset!r} is unknown; allowed: {', '.join(CATALOGUE)}, or {PICTURE_FOLDER}PATH"
        )
    searched = [str(loss) for loss in config.space.reachable("loss")]
    favoured = {*LOSS_OBJECTIVES, *(name for loss in searched for name in parse_loss(loss))}
    if len(searched) > 1 and config.objective.metric in favoured:
        fair = [metric for metric in OBJECTIVES if metric not in favoured]
        raise ConfigError(
            f"[objective] metric = {config.objective.metric!r} would rank {', '.join(searched)} by what one of "
            f"them trains on, or nearly; rank a search over these losses by {' or '.join(fair)}"
        )
    for i, entry in enumerate(config.enqueue):
        config.space.check_enqueued(entry, f"[[enqueue]] number {i + 1}")
    return config


def _describe(finding: Any, error: ValidationError) -> str:
    location = [str(part) for part in finding["loc"]]
    if location[0] == "degrade" and len(location) == 3:
        del location[1]  # the kind, which pydantic adds to the path
    where = _where(location)
    kind = finding["type"]
    if kind == "missing":
        return f"{where} is missing"
    if kind == "extra_forbidden":
        return f"{where}: unknown key{hint(location[-1], _fields(finding['loc']))}"
    if kind == "union_tag_not_found":
        return f"{where}: kind is missing"
    if kind == "union_tag_invalid":
        return f"{where}: kind = {finding['ctx']['tag']!r} is unknown; allowed: {finding['ctx']['expected_tags']}"
    if isinstance(finding["input"], dict | list):
        return f"{where}: {finding['msg'].replace('Input should', 'must')}"
    return f"{where} = {finding['input']!r}: {explain(error, finding['input'])}"


def _fields(location: Sequence[int | str]) -> list[str]:
    """The keys that may stand where pydantic found an unknown one."""
    fields = StudyConfig.model_fields
    for part in location[:-1]:
        if part in DEGRADATIONS:  # of a union pydantic names the kind as well
            fields = DEGRADATIONS[str(part)].model_fields
        elif part in fields and hasattr(fields[str(part)].annotation, "model_fields"):
            fields = fields[str(part)].annotation.model_fields  # type: ignore[union-attr]
    return list(fields)


def _check_plain(value: Any, path: tuple[str, ...]) -> None:
    """Refuse what TOML reads but JSON does not carry; pydantic's reader would not name the key."""
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"{_where(path)}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _check_plain(str(key), path)
            _check_plain(inner, (*path, str(key)))
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(f"{_where(path)}: {value!r} is not Unicode text")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(f"{_where(path)}: an integer of {value.bit_length()} bits; TOML's have 64")
    elif not isinstance(value, bool | int | float):
        raise ConfigError(f"{_where(path)} = {value}: dates and times have no place in a study file")


def _where(path: Sequence[str]) -> str:
    """``name``, or ``[section] key``; keys that are not plain words are quoted."""
    shown = [part if PLAIN_KEY.fullmatch(part) else repr(part) for part in path]
    return "".join(shown) if len(shown) < 2 else f"[{shown[0]}] {'.'.join(shown[1:])}"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and not prefix:
            flat |= _flat(value, f"{key}.")
        else:
            flat[prefix + key] = value
    return flat
