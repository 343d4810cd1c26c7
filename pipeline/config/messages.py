"""The text of refusals: from pydantic's findings, values and lists of names. Imports nothing of the project."""

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import ErrorDetails, PydanticCustomError


def hint(name: str, names: Iterable[str], listing: bool = True) -> str:
    """The end of a message about an unknown name: the nearest one, or else all of them if they are to be listed."""
    near = difflib.get_close_matches(name, list(names), n=1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; allowed: {', '.join(names)}" if listing else ""


def refused(reason: str) -> PydanticCustomError:
    """The exception that a validator raises; its text reaches the user as it is."""
    return PydanticCustomError("refused", "{reason}", {"reason": reason})


def explain(findings: Sequence[ErrorDetails]) -> str:
    """Pydantic's findings on one value, with the nearest allowed name if there is one."""
    # A union reports every branch; the one that lists names, or else the last, says most.
    finding = next((f for f in findings if f["type"] == "literal_error"), findings[-1])
    text = (
        finding["msg"]
        .replace("Input should", "must")
        .replace("a valid tuple", "a list")
        .replace("a valid array", "a list")
    )
    others = [f["msg"].replace("Input should be", "") for f in findings if f is not finding]
    if finding["type"] == "literal_error" and isinstance(finding["input"], str):
        names = [name.strip("' ") for name in finding["ctx"]["expected"].replace(" or ", ", ").split(",")]
        text += hint(finding["input"], names, listing=False)
    return text + "".join(f", or{other}" for other in others)


def shown(value: Any, limit: int = 60) -> str:
    """The value as Python writes it, cut to ``limit`` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}…"


def locate(path: Sequence[str]) -> str:
    """``name``, or ``[section] key``; keys that are not plain words are quoted."""
    parts = [part if re.fullmatch("[A-Za-z0-9_-]{1,60}", part) else repr(part) for part in path]
    return "".join(parts) if len(parts) < 2 else f"[{parts[0]}] {'.'.join(parts[1:])}"
