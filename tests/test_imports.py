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

# Imports run downwards only: a part imports parts that follow it. Within a package the modules may not form a circle.
ORDER = (
    *("cli", "api", "results", "study", "tracking", "search", "workers"),
    *("epoch", "training", "evaluation", "data", "config"),
    *("patience", "home", "files", "seeds", "provenance", "errors"),
)
CORE = ("epoch", "training", "evaluation", "data", "config")
ENTRY_POINTS = ("__init__", "__main__")
SOLE_IMPORTERS = {
    "optuna": {"search"},
    "distributed": {"workers"},
    "dask": {"workers"},
    "mlflow": {"tracking"},
    "matplotlib": {"results"},
    "typer": {"cli"},
    "rich": {"cli"},
}
NO_PICKLE = ("pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "shutil.unpack_archive")
MODULES = sorted(ROOT.rglob("*.py"))


def part(path: Path) -> str:
    """The package or top-level module that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    """A file's full module name; a package's is that of its ``__init__``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("pipeline", *parts)).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Full names of everything that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_imported(path: Path) -> set[str]:
    """The parts of the project that a file imports."""
    names = [name.split(".") for name in imported(path)]
    return {name[1] for name in names if name[0] == "pipeline" and len(name) > 1}


def test_every_module_has_a_place_in_the_order() -> None:
    assert {part(path) for path in MODULES} == {*ORDER, *ENTRY_POINTS}


def test_imports_run_downwards() -> None:
    upwards = {
        (name_of(path), target)
        for path in MODULES
        if part(path) not in ENTRY_POINTS
        for target in parts_imported(path) - {part(path)}
        if ORDER.index(target) < ORDER.index(part(path))
    }
    assert upwards == set()


def test_modules_form_no_circle() -> None:
    modules = {name_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        targets = {name if name in modules else name.rpartition(".")[0] for name in imported(path)}
        graph[name_of(path)] = targets & modules - {name_of(path)}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_no_two_modules_have_one_name() -> None:
    names = [path.stem for path in MODULES if path.stem not in ENTRY_POINTS]
    names += [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("library", SOLE_IMPORTERS)
def test_each_library_has_one_importer(library: str) -> None:
    importers = {part(path) for path in MODULES if library in {name.partition(".")[0] for name in imported(path)}}
    assert importers == SOLE_IMPORTERS[library]


def test_the_core_imports_nothing_of_the_shell() -> None:
    """Follows from the order; said here because it is what lets any process run an epoch."""
    for path in MODULES:
        if part(path) in CORE:
            libraries = {name.partition(".")[0] for name in imported(path)}
            assert not libraries & {"optuna", "mlflow", "distributed", "dask"}, path


def test_only_promotion_reads_the_test_split() -> None:
    users = {
        name_of(path)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Name) and node.id == "load_test")
        or (isinstance(node, ast.Attribute) and node.attr in ("load_test", "_splits"))
        or (isinstance(node, ast.alias) and node.name in ("load_test", "_splits"))
    }
    assert users - {"pipeline.data", "pipeline.data.sets"} == {"pipeline.results.promote"}


@pytest.mark.parametrize("library", ["optuna", "mlflow", "distributed"])
def test_private_names_of_a_library_are_used_in_one_module(library: str) -> None:
    """Attributes that begin with one underscore, of anything but ``self``, ``cls`` and this project's own modules."""
    importers = [path for path in MODULES if library in {name.partition(".")[0] for name in imported(path)}]
    private = {
        (path.name, ast.unparse(node))
        for path in importers
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and ast.unparse(node.value) not in ("self", "cls")
    }
    assert {name for name, _ in private} <= {f"_{library}.py"}, private


def test_nothing_is_pickled() -> None:
    for path in MODULES:
        names = imported(path)
        assert not [name for name in names if name.partition(".")[0] in NO_PICKLE or name in NO_PICKLE], path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("torch.load", "torch.save", "np.load", "numpy.load"), path


def test_no_exported_program_is_loaded() -> None:
    """torch evaluates text in it, so whoever can write to MLflow would run code here."""
    loaders = ("torch.export.load", "torch.jit.load", "load_exported_program", "load_pt2")
    for path in MODULES:
        used = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        for name in used | imported(path):
            assert name not in loaders, path
            assert not (name.startswith("mlflow") and name.rpartition(".")[2] in ("load_model", "load_pyfunc")), path


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
