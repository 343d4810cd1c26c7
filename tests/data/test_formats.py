"""IDX files and libsvm text: read back, and refused if they are malformed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archives import idx
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.data.formats import parse_idx, parse_libsvm
from pipeline.errors import DataError

DIGITS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_idx_round_trip(array: np.ndarray) -> None:
    parsed = parse_idx(Path("file"), idx(array))
    assert parsed.dtype == np.uint8
    assert parsed.shape == array.shape
    assert np.array_equal(parsed, array)
    assert parsed.flags.writeable  # torch.from_numpy warns otherwise


@given(array=hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5)))
def test_idx_round_trip_of_integers(array: np.ndarray) -> None:
    parsed = parse_idx(Path("file"), idx(array))
    assert parsed.dtype == np.int32
    assert parsed.shape == array.shape
    assert np.array_equal(parsed, array)


@given(content=st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\0\0\x08" + rest))
def test_any_bytes_are_parsed_or_refused(content: bytes) -> None:
    try:
        parsed = parse_idx(Path("some-file"), content)
    except DataError:
        return
    assert idx(parsed) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\3\4" + bytes(20), "not an IDX file"),
        (b"\0\0\x0d" + idx(DIGITS)[3:], "not an IDX file"),  # floats
        (idx(DIGITS)[:10], "not an IDX file"),
        (idx(DIGITS)[:-1], "23 bytes of data where its header says 2 x 3 x 4"),
        (idx(DIGITS) + b"\0", "25 bytes of data where its header says 2 x 3 x 4"),
        (b"\0\0\x08\x04" + b"\0\1\0\0" * 4, "0 bytes of data"),  # 2^64 values, which is 0 in 64 bits
        (b"\0\0\x08\xc8" + b"\0\0\0\1" * 200 + b"a", "1 bytes of data"),  # more dimensions than NumPy has
    ],
)
def test_bad_idx_file_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        parse_idx(Path("folder/file"), content)
    assert str(error.value).startswith("folder/file: ")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"1 1:0.5\nzero 1:0.5\n",
        b"1 257:0.5\n",
        b"1 0:0.5\n",
        b"1 1:1.5\n",
        b"1 1:nan\n",
        b"0 1:0.5\n",
        b"1 1=0.5\n",
        b"\xff\xfe\n",
        b"1 1:0.5\n\n",
    ],
)
def test_bad_libsvm_text_is_refused(text: bytes) -> None:
    with pytest.raises(DataError, match=r"^folder/file: "):
        parse_libsvm(Path("folder/file"), text)


def test_an_omitted_index_is_a_zero() -> None:
    images, labels = parse_libsvm(Path("file"), b"3 2:1 256:-1\n")
    assert labels.tolist() == [2]
    assert images.shape == (1, 16, 16)
    assert images.ravel()[[0, 1, 255]].tolist() == [127, 255, 0]
