"""The command line: each command parses its options, calls one function, and prints the result.

`program` has the application and what all commands share. Nothing of the project imports this package.
"""

# isort: off
from pipeline.cli.program import app, main
from pipeline.cli import planning, running, stored, exporting, checking  # noqa: F401  (in the order of `study --help`)

__all__ = ["app", "main"]
