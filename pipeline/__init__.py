"""Hyperparameter studies of image-restoration autoencoders.

The command line is ``study``; for notebooks ``run``, ``load_study`` and ``load_model``, imported when
first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import load_model, load_study, run

__all__ = ["load_model", "load_study", "run"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
