"""The command line: each command parses its options, calls one function, and prints the result.

`program` has the application and what all commands share; the commands are in `running`, `viewing`, `keeping`,
`checking` and `datasets`; `tables`, `hints` and `progress` print. Nothing of the project imports this package.
"""

from pipeline.cli.program import app, main

# isort: off
from pipeline.cli import running, viewing, keeping, checking, datasets  # the order of the commands in `study --help`

# isort: on

__all__ = ["app", "checking", "datasets", "keeping", "main", "running", "viewing"]
