"""Stage 1: find, verify and fetch a data set, check it against a study, split it into tensors, degrade its images.

`load_test`, the sealed test split, is for promotion only. Imported by name: `degrade`, and the parts of `sets`.
"""

from pipeline.data.sets import LOADERS, Dataset, Split, copies, load, load_test, verify

__all__ = ["LOADERS", "Dataset", "Split", "copies", "load", "load_test", "verify"]
