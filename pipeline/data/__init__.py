"""Data preparation: find or fetch a data set, verify it, split it; uint8 tensors in memory.

Comes in: a data set's name and the data folder. Goes out: a ``Dataset`` with three splits, or the sealed test split
from ``load_test``, which only `registry` may call. Nothing here knows MLflow, Optuna or Dask.

`catalogue` holds the facts of the published sets, `files` finds, verifies and fetches their files, `formats` reads
them; `embedded` and `folder` are the two sources that need no download; `sets` splits what any of them gave.
"""

from pipeline.config.catalogue import CATALOGUE, Entry, File
from pipeline.data.formats import parse_idx
from pipeline.data.published import Status
from pipeline.data.sets import (
    LOADERS,
    OWN,
    Dataset,
    Loaded,
    Split,
    copies,
    forget,
    load,
    load_test,
    stratified,
    survey,
    verify,
)

__all__ = [
    "CATALOGUE",
    "LOADERS",
    "OWN",
    "Dataset",
    "Entry",
    "File",
    "Loaded",
    "Split",
    "Status",
    "copies",
    "forget",
    "load",
    "load_test",
    "parse_idx",
    "stratified",
    "survey",
    "verify",
]
