"""A whole study: from the tables of a study file to a frozen ``StudyConfig``, or a ``ConfigError``. Reads no file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.catalogue import CATALOGUE, PICTURE_FOLDER
from pipeline.config.choices import LOSS_OBJECTIVES, OBJECTIVES, parse_loss
from pipeline.config.forms import FIELDS, SECTIONS, Choices, Range, Value, by_section
from pipeline.config.messages import explain, hint, locate, shown
from pipeline.config.sampling import PRUNERS, SAMPLERS, Median, Pruner, Sampler, Tpe
from pipeline.config.space import Space
from pipeline.config.trial import DEGRADATIONS, Degrade, Frozen, OneOf, TrialConfig
from pipeline.errors import ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MLFLOWS_OWN = "Default"  # the experiment that every MLflow store has from the start; its artifacts are not in our home
MAX_DEPTH = 20  # of tables and lists within each other; the forms of a key need five
VARIANTS = {"degrade": DEGRADATIONS, "sampler": SAMPLERS, "pruner": PRUNERS}


class Budget(Frozen):
    """``[budget]``: how many trials, of how many epochs, how many at the same time."""

    trials: Annotated[int, Field(ge=1, le=100_000)] = 20
    epochs: Annotated[int, Field(ge=1, le=10_000)] = 10
    concurrency: Annotated[int, Field(ge=1, le=1_000)] = 4
    threads_per_trial: Annotated[int, Field(ge=1, le=1_024)] = 1


class Objective(Frozen):
    """``[objective]``: the validation metric by which trials are ranked."""

    metric: Annotated[str, OneOf(tuple(OBJECTIVES))] = "psnr"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        return OBJECTIVES[self.metric]


class StudyConfig(Frozen):
    """A whole study file."""

    name: str
    dataset: str
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    registered_model: str = ""
    degrade: Degrade
    budget: Budget = Budget()
    objective: Objective = Objective()
    sampler: Sampler = Tpe()
    pruner: Pruner = Median()
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
        return TrialConfig(
            dataset=self.dataset,
            degrade=self.degrade,
            objective=self.objective.metric,
            epochs=self.budget.epochs,
            threads=self.budget.threads_per_trial,
            device=device,
            seed=self.seed,
            number=number,
            **by_section(values),
        )

    def single(self) -> StudyConfig:
        """This study narrowed to one configuration: the fixed keys, and for the open ones the first enqueued entry.

        Raises:
            ConfigError: some keys stay open; the message names them.
        """
        entry, missing = self.enqueue[0] if self.enqueue else {}, []

        def chosen(name: str, dimension: Choices | Range) -> Value:
            key = name.partition("@")[0]
            if key not in entry:
                missing.append(key)
            return entry.get(key, dimension.first)

        values = self.space.resolve(chosen)
        if missing:
            keys = [f"{FIELDS[key][0]}.{key}" for key in missing]
            raise ConfigError(f"one training needs a value for {', '.join(keys)}: fix them, as with --set {keys[0]}=…")
        budget = self.budget.model_dump() | {"trials": 1, "concurrency": 1}
        changes = {"enqueue": (), "budget": budget, "pruner": {"name": "none"}}
        return StudyConfig.model_validate(self.model_dump() | by_section(values) | changes)

    def canonical(self) -> dict[str, Any]:
        """The whole study in plain JSON values, defaults filled in: what is stored and compared."""
        return self.model_dump(mode="json", exclude={"model", "train"}) | self.space.canonical()

    def differences(self, stored: Mapping[str, Any]) -> list[str]:
        """The differences from a stored study, one line each. The total and the model's name may differ."""
        mine, other = _flat(self.canonical()), _flat(stored)
        keys = [key for key in dict.fromkeys([*other, *mine]) if key not in ("budget.trials", "registered_model")]
        show = {key: [json.dumps(side[key]) if key in side else "(absent)" for side in (other, mine)] for key in keys}
        return [f"{key}: {old} is stored, {new} is asked" for key, (old, new) in show.items() if old != new]


def parse_study(raw: dict[str, Any]) -> StudyConfig:
    """A checked study from the tables of a study file.

    Raises:
        ConfigError: a key or value is not allowed; the message names key and value.
    """
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
        raise ConfigError(
            f"dataset = {config.dataset!r} is unknown; allowed: {', '.join(CATALOGUE)}, or {PICTURE_FOLDER}PATH"
        )
    _check_ranking(config)
    for number, entry in enumerate(config.enqueue, 1):
        config.space.check_enqueued(entry, f"[[enqueue]] number {number}")
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
        raise ConfigError(
            f"{what} {shown(name)} is not allowed: 1 to 100 letters, digits, '.', '_' or '-', "
            "starting with a letter or digit"
        )
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
    cls: Any = StudyConfig if len(place) == 1 else StudyConfig.model_fields[section].annotation
    return list(cls.model_fields)


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


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of all sections as ``section.key``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            {f"{key}.{name}": inner for name, inner in value.items()} if isinstance(value, Mapping) else {key: value}
        )
    return flat
