"""Stage 1: find, verify and fetch a data set, split it into tensors in memory, degrade its images.

`load` returns a `Dataset` of three splits; `load_test` the sealed test split, for promotion only. `survey` and
`verify` report what is on disk. `LOADERS` has one function per data set; `prepare` and `degrade` are imported by name.
"""

from pipeline.data.sets import LOADERS, Dataset, Split, copies, load, load_test, survey, verify

__all__ = ["LOADERS", "Dataset", "Split", "copies", "load", "load_test", "survey", "verify"]
