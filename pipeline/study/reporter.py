"""What a running study reports, and how text reaches standard output. Imports no torch."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import StudyError
from pipeline.home import shown

if TYPE_CHECKING:
    from pipeline.config import Degrade, StudyConfig, TrialConfig, Value
    from pipeline.data import Dataset
    from pipeline.search.records import EndedTrial, EndState


class Reporter(Protocol):
    """Receives the events of a running study as they happen."""

    def begun(
        self, config: StudyConfig, data: Dataset, ended: Sequence[EndedTrial], slots: int, earlier: float
    ) -> None:
        """Training begins, after so many seconds in earlier sessions, with so many epochs at a time."""

    def baseline(self, name: str, metrics: dict[str, float]) -> None: ...
    def opened(self, number: int, trial: TrialConfig, epoch: int) -> None:
        """A trial is open; ``epoch`` is the last one of an earlier session, else 0."""

    def epoch(self, number: int, epoch: int, epochs: int, metrics: dict[str, float]) -> None: ...
    def trial(self, number: int, state: EndState, value: float | None, reason: str, ended: int) -> None: ...
    def note(self, text: str) -> None: ...


def say(text: str) -> None:
    """Print a line on standard output, as `printable` text. Raises as `standard_output`."""
    with standard_output():
        print(printable(text), flush=True)


@contextmanager
def standard_output() -> Iterator[None]:
    """Standard output that cannot be written is a StudyError; that a pipe's reader has closed it a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer would fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StudyError(f"standard output: {error.strerror}") from None


def printable(text: str) -> str:
    """A text as a terminal may get it: without passwords, and with control characters escaped."""
    text = shown(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """A text with its control characters escaped, line ends and tabs too, and without passwords."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def md_text(text: str) -> str:
    """A text without meaning in Markdown; the underscore within a word has none."""
    return re.sub(r"[\\`*\[\]<>|~&$#!@]|:(?=\S)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\\g<0>", one_line(text))


def figure(value: float | None) -> str:
    """A number with four significant digits; empty for None and NaN."""
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def shown_value(value: Value | None) -> str:
    """A setting as text: three significant digits of a number with decimals, and ``true`` as in a study file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def degradation(how: Degrade) -> str:
    """A degradation with its settings: ``gaussian (sigma 0.5, clip true)``."""
    settings = (f"{key} {shown_value(value)}" for key, value in how.model_dump().items() if key != "kind")
    return f"{how.kind} ({', '.join(settings)})"


def task(config: StudyConfig, data: Dataset) -> str:
    """What a study restores: degradation, data set and sizes of its splits."""
    return f"{config.degrade.kind} on {data.name} ({split_sizes(data)})"


def split_sizes(data: Dataset) -> str:
    return ", ".join(f"{size:,} {split}" for split, size in data.sizes.items())
