"""Who may import whom: read from the source, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pipeline

ROOT = Path(pipeline.__file__).parent

# A module imports modules of a lower rank only. New modules are put into this table.
RANKS = [
    {"errors", "numerics", "provenance"},
    {"config", "files", "home", "outbox"},
    {"data", "engine", "ui"},
    {"degrade", "checkpoint", "model", "progress", "sheet"},
    {"judge", "prepare"},
    {"evaluate", "search"},
    {"train"},
    {"tracking"},
    {"finish", "export"},
    {"doctor", "registry", "reproduce"},
    {"removal", "study"},
    {"notebook"},
    {"cli"},
    {"__init__", "__main__"},
]
# `ui` asks `tracking` where a study's page is; it does so inside its one function, for the sake of a quick `--help`.
LATE = {("ui", "tracking")}
SOLE_IMPORTERS = {
    "optuna": {"search"},
    "distributed": {"engine"},
    "dask": {"engine"},
    "mlflow": {"tracking", "registry"},
    "matplotlib": {"sheet"},
    "typer": {"cli"},
}
NO_PICKLE = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "shutil.unpack_archive")
MODULES = sorted(ROOT.rglob("*.py"))


def module(path: Path) -> str:
    """The module's name; a subpackage counts as one."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path, typing_too: bool = True) -> set[str]:
    """Full names of everything a file imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def graph(typing_too: bool = True) -> dict[str, set[str]]:
    """Project modules by the project modules they import."""
    modules = {module(path) for path in MODULES}
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for path in MODULES:
        for name in imported(path, typing_too):
            package, _, rest = name.partition(".")
            if package == "pipeline":
                target = rest.partition(".")[0]
                edges[module(path)].add(target if target in modules else "__init__")
        edges[module(path)].discard(module(path))
    return edges


def test_every_module_has_a_rank() -> None:
    assert {name for rank in RANKS for name in rank} >= {module(path) for path in MODULES}


def test_imports_run_downwards() -> None:
    rank = {name: place for place, names in enumerate(RANKS) for name in names}
    upwards = {
        (name, target)
        for name, targets in graph().items()
        for target in targets
        if rank[target] >= rank[name] and (name, target) not in LATE
    }
    upwards -= {("__main__", "cli"), ("__init__", "notebook")}
    assert upwards == set()


def test_there_is_no_circle() -> None:
    TopologicalSorter(graph()).prepare()  # raises CycleError, which shows it


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_libraries_have_their_importers(library: str) -> None:
    importers = {module(path) for path in MODULES if {name.partition(".")[0] for name in imported(path)} & {library}}
    assert importers <= SOLE_IMPORTERS[library]


@pytest.mark.parametrize("name", ["data", "degrade", "model", "checkpoint", "evaluate", "train"])
def test_the_torch_side_reaches_neither_optuna_nor_dask_nor_mlflow(name: str) -> None:
    edges, seen, waiting = graph(typing_too=False), set(), [name]
    while waiting:
        seen.add(current := waiting.pop())
        waiting += edges[current] - seen
    barred = {importer for library in ("optuna", "distributed", "mlflow") for importer in SOLE_IMPORTERS[library]}
    assert not seen & (barred | {"study", "registry", "cli"})


def test_only_promotion_reads_the_test_split() -> None:
    naming = {
        module(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "load_test")
        or (isinstance(node, ast.Attribute) and node.attr in ("load_test", "_splits"))
        or (isinstance(node, ast.alias) and node.name in ("load_test", "_splits"))
    }
    assert naming - {"data"} == {"registry"}  # `data` has it


def test_nothing_is_pickled() -> None:
    for path in MODULES:
        names = imported(path)
        assert not [name for name in names if name.partition(".")[0] in NO_PICKLE or name in NO_PICKLE], path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load", "numpy.load"), path


def loaded_by(code: str) -> set[str]:
    """The top-level modules in a fresh interpreter after this code."""
    show = "import json, sys; print(); print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = {"torch", "torchvision", "mlflow", "optuna", "distributed", "pandas", "numpy", "matplotlib", "pydantic"}


def test_help_loads_nothing_heavy() -> None:
    code = "import pipeline.cli\ntry:\n    pipeline.cli.app(['--help'])\nexcept SystemExit:\n    pass"
    loaded = loaded_by(code)
    assert "typer" in loaded
    assert not loaded & HEAVY


def test_the_package_is_light_until_it_is_used() -> None:
    loaded = loaded_by("import pipeline\nassert pipeline.__all__ == ['load_model', 'load_study', 'run']")
    assert not loaded & (HEAVY | {"typer", "rich"})


def test_checking_a_study_file_needs_no_torch() -> None:
    assert not loaded_by("import pipeline.config") & (HEAVY - {"pydantic"})
