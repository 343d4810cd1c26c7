"""The documentation names what exists: links, modules and keys; and the README stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import ModelConfig, StudyConfig, TrainConfig
from pipeline.config.catalogue import CATALOGUE
from pipeline.config.choices import ACTIVATIONS, LAYER_TYPES, LOSSES, OPTIMIZERS, PRECISIONS, SCHEDULERS
from pipeline.config.trial import DEGRADATIONS

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "studies/README.md", "pipeline/README.md")
LONGEST_LINE = 140
MOST_LINES = 190
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text(page: str) -> str:
    return (ROOT / page).read_text()


def prose(page: str) -> Iterator[tuple[int, str]]:
    """The numbered lines outside tables and code blocks."""
    code = False
    for number, line in enumerate(text(page).splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith("|"):
            yield number, line


def anchors(page: str) -> set[str]:
    """The headings of a page as link targets, spelled as GitHub and GitLab spell them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_lines_of_prose_are_short(page: str) -> None:
    assert [number for number, line in prose(page) if len(line) > LONGEST_LINE] == []


def test_the_readme_is_short() -> None:
    assert len(text("README.md").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page: str) -> None:
    links = [link for link in LINK.findall(text(page)) if "://" not in link]
    assert links
    for link in links:
        target, _, heading = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        if heading:
            assert heading in anchors(path.resolve().relative_to(ROOT.resolve()).as_posix()), link


def test_the_architecture_names_every_module_and_no_other() -> None:
    named = text("pipeline/README.md")
    files = [path.relative_to(ROOT / "pipeline") for path in sorted((ROOT / "pipeline").rglob("*.py"))]
    # The command line's modules change with the commands, so the page describes their folder only.
    modules = [path.as_posix() for path in files if path.name != "__init__.py" and path.parts[0] != "cli"]
    assert [module for module in modules if f"`{module}`" not in named] == []
    paths = re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.(?:py|toml))`", named)
    roots = (ROOT, ROOT / "pipeline", ROOT / "tests")
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == [], "gone"


def test_every_key_of_a_study_file_is_in_its_reference() -> None:
    keys = {*StudyConfig.model_fields, *ModelConfig.model_fields, *TrainConfig.model_fields}
    for model in [*DEGRADATIONS.values(), *(field.annotation for field in StudyConfig.model_fields.values())]:
        keys |= set(getattr(model, "model_fields", {}))
    reference = text("studies/README.md")
    sections = {"degrade", "budget", "objective", "sampler", "pruner", "enqueue", "warm_start", "model", "train"}
    assert sections <= keys
    missing = [key for key in keys - sections if f"`{key}`" not in reference]
    missing += [name for name in sections if f"[{name}]" not in reference]
    assert sorted(missing) == []


def test_every_choice_of_a_study_file_is_in_its_reference() -> None:
    reference = text("studies/README.md")
    tables = (ACTIVATIONS, CATALOGUE, DEGRADATIONS, LAYER_TYPES, LOSSES, OPTIMIZERS, PRECISIONS, SCHEDULERS)
    assert [name for table in tables for name in table if f"`{name}`" not in reference] == []


@pytest.mark.parametrize("study", sorted(path.name for path in (ROOT / "studies").glob("*.toml")))
def test_every_shipped_study_is_listed(study: str) -> None:
    assert f"[`{study}`]({study})" in text("studies/README.md")
