"""What `doctor` found: problems, each with its repair where there is one, and the loop that repairs them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import Interrupted
from pipeline.study.reporter import Reporter


@dataclass(frozen=True)
class Finding:
    """A problem."""

    text: str
    repair: Callable[[], object] | None = None


def are_lost(names: Sequence[str]) -> str:
    """That what has these names is lost, as text."""
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} lost"


def repair(findings: Iterator[Finding], reporter: Reporter, stop: threading.Event) -> None:
    """Repair each finding, where that is possible, before asking for the next. Raises Interrupted to stop."""
    for finding in findings:
        if stop.is_set():
            raise Interrupted
        if finding.repair is not None:
            finding.repair()
            reporter.note(f"repaired: {finding.text}")
