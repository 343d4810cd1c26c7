"""The command line: each command parses its options, calls one function, and prints the result.

`program` has the application and what all commands share. Nothing of the project imports this package.
"""

# isort: off
from pipeline.cli.program import app, main

# In the order of `study --help`.
from pipeline.cli import planning, running, stored, comparing, restoring, exporting, reporting, checking  # noqa: F401

__all__ = ["app", "main"]
