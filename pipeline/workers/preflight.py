"""The check of a worker, as a function that also a worker without this package can receive and run.

Comes in: `Needs`. Goes out: a function and its arguments, for Dask.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.provenance import source_digest, versions
from pipeline.workers.needs import Needs


def preflight(needs: Needs, token: str) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The check as a function and its arguments, which a worker without this package can receive and run.

    It returns `Passed`, or a host's name and a reason. So it names nothing of this module, and takes built-in types.
    """

    def check(source: str, needs: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
        import socket

        try:
            from pipeline.provenance import source_digest
        except Exception as error:
            reason = f"the package cannot be imported there ({type(error).__name__}: {error}); install it"
            return socket.gethostname(), reason
        if source_digest() != source:
            return socket.gethostname(), "its source differs from this one's; install the same version there"
        from pipeline.workers.inside import admit  # the same code as the driver's, from here on

        return admit(needs, *arguments)

    plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(needs).items()}
    return check, (source_digest(), plain, (versions(), token))
