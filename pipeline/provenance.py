"""What a run was made with: code, library versions, hardware, as text. Imports nothing of the project."""

import hashlib
import os
import platform
import subprocess
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "numpy", "optuna", "mlflow", "distributed")


@lru_cache(maxsize=1)
def git_state() -> dict[str, str]:
    """``git.commit`` and ``git.dirty`` of the folder that holds the package; ``unknown`` outside a repository."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        return None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", str(folder))
    dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"git.commit": commit or "unknown", "git.dirty": dirty}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """The sha256 of the package's source files, as this process found them first."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(
            f"{path.relative_to(folder).as_posix()}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers or write the databases."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


@lru_cache(maxsize=1)
def hardware() -> str:
    """Processor, number of cores and system of this machine, on one line."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"
