"""Data sets: splits, the embedded digits, IDX files, and files that are absent, damaged or another's."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import data
from pipeline.data import MNIST_FILES, Split, load, load_test, parse_idx, stratified
from pipeline.errors import DataError

REAL = Path(__file__).parents[2] / "shared" / "data"
MNIST_5K_DIGEST = (
    "196793ce24f67783"  # of the files and of every split: a change makes stored studies' numbers incomparable
)
needs_mnist = pytest.mark.skipif(not REAL.is_dir(), reason=f"the full MNIST is not at {REAL}")


# --- Splits --------------------------------------------------------------------------------------------------------


@st.composite
def labels_and_sizes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Labels of uneven classes, some of a single example, and sizes that together leave none or more for training."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    names = draw(st.lists(st.integers(0, 99), min_size=len(counts), max_size=len(counts), unique=True))
    labels = np.repeat(names, counts)
    sizes: list[int] = []
    for _ in range(draw(st.integers(1, 3))):
        sizes.append(draw(st.integers(0, len(labels) - sum(sizes))))
    return np.array(draw(st.permutations(labels.tolist()))), tuple(sizes)


@given(case=labels_and_sizes())
@example(case=(np.arange(10), (3, 3)))  # each class gives at most one
@example(case=(np.repeat([0, 1], 3), (1, 1, 4)))  # the first class gave two to the small sets
def test_splits_are_disjoint_complete_and_of_the_sizes_asked_for(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    labels, sizes = case
    parts = stratified(labels, sizes)
    assert tuple(map(len, parts[1:])) == sizes
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


@given(counts=st.lists(st.integers(8, 60), min_size=1, max_size=12), data=st.data())
def test_splits_keep_the_classes_shares_to_within_one_example(counts: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sizes = data.draw(st.lists(st.integers(0, len(labels) // 6), min_size=1, max_size=3))
    for part, size in zip(stratified(labels, tuple(sizes))[1:], sizes, strict=True):
        found = np.bincount(labels[part], minlength=len(counts))
        assert np.all(np.abs(found - size * np.array(counts) / len(labels)) < 1 + 1e-9)


@given(case=labels_and_sizes())
def test_splits_depend_on_labels_and_sizes_only(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    labels, sizes = case
    before = stratified(labels, sizes)
    np.random.seed(5)
    torch.manual_seed(5)
    for first, second in zip(before, stratified(labels.copy(), sizes), strict=True):
        assert np.array_equal(first, second)


def test_each_split_mixes_the_classes() -> None:
    labels = np.repeat(np.arange(10), 100)
    for part in stratified(labels, (200, 200)):
        assert len(set(labels[part[:30]])) >= 6
        assert not np.array_equal(part, np.sort(part))


# --- The embedded digits -------------------------------------------------------------------------------------------


def test_embedded_digits_have_their_sizes_and_balance(tmp_path: Path) -> None:
    digits, test = load("mnist-5k", tmp_path), load_test("mnist-5k", tmp_path)
    assert digits.sizes == {"train": 3500, "val": 500, "select": 500, "test": 500}
    assert digits.image_size == (28, 28)
    for split, each in ((digits.train, 350), (digits.val, 50), (digits.select, 50), (test, 50)):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.labels.bincount().tolist() == [each] * 10
        assert len(split) == len(split.images) == each * 10
    assert digits.train.images.max() == 255
    assert 25 < digits.train.images.float().mean() < 45  # MNIST's mean is 33.3
    everything = torch.cat([split.images for split in (digits.train, digits.val, digits.select, test)])
    assert len(everything.flatten(1).unique(dim=0)) == 5000  # no digit stands in two splits


def test_embedded_digits_are_the_same_every_time(tmp_path: Path) -> None:
    first = load("mnist-5k", tmp_path / "one")
    data._splits.cache_clear()
    again = load("mnist-5k", tmp_path / "two")
    assert again.train.images is not first.train.images
    assert again.digest == first.digest
    assert again.digest.startswith(MNIST_5K_DIGEST)
    assert torch.equal(again.val.images, first.val.images)


def test_a_process_reads_a_data_set_once(tmp_path: Path) -> None:
    assert load("mnist-5k", tmp_path) is load("mnist-5k", tmp_path)


@pytest.mark.parametrize(("count", "held_out"), [(120, 12), (49_999, 4_999), (60_000, 5_000)])
def test_val_and_select_are_a_tenth_each_and_5000_at_most(
    count: int, held_out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count) % 10)
    monkeypatch.setitem(data.LOADERS, "dots", lambda _data_dir, _download: (split, split, ["dots"]))
    sizes = {"train": count - 2 * held_out, "val": held_out, "select": held_out, "test": count}
    assert load("dots", tmp_path).sizes == sizes


def test_a_study_never_sees_the_test_split(tiny_data: Path) -> None:
    seen, test = load(tiny.NAME, tiny_data), load_test(tiny.NAME, tiny_data)
    assert seen.sizes == {"train": 96, "val": 12, "select": 12, "test": 20}
    assert len(test) == 20
    assert {name for name, value in vars(seen).items() if isinstance(value, Split)} == {"train", "val", "select"}


# --- IDX files -----------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)))
def test_idx_round_trip(array: np.ndarray) -> None:
    parsed = parse_idx(Path("file"), idx(array))
    assert parsed.dtype == np.uint8
    assert parsed.shape == array.shape
    assert np.array_equal(parsed, array)
    assert parsed.flags.writeable  # torch.from_numpy warns otherwise


@given(content=st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\0\0\x08" + rest))
def test_any_bytes_are_an_array_or_refused(content: bytes) -> None:
    try:
        parsed = parse_idx(Path("some-file"), content)
    except DataError:
        return
    assert idx(parsed) == content


DIGITS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\3\4" + bytes(20), "not an IDX file"),
        (b"\0\0\x0d" + idx(DIGITS)[3:], "not an IDX file"),  # of floats
        (idx(DIGITS)[:10], "not an IDX file"),
        (idx(DIGITS)[:-1], "23 bytes of data where its header says 2 x 3 x 4"),
        (idx(DIGITS) + b"\0", "25 bytes of data where its header says 2 x 3 x 4"),
        (b"\0\0\x08\x04" + b"\0\1\0\0" * 4, "0 bytes of data"),  # 2^64 of them, which 64 bits count as none
        (b"\0\0\x08\xc8" + b"\0\0\0\1" * 200 + b"a", "1 bytes of data"),  # more dimensions than NumPy has
    ],
)
def test_bad_idx_file_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        parse_idx(Path("folder/file"), content)
    assert str(error.value).startswith("folder/file: ")


# --- Data sets in files --------------------------------------------------------------------------------------------

Place = Callable[..., Path]


@pytest.fixture
def contents(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Four small IDX files that stand for MNIST's: their checksums take the place of the published ones."""
    train, test = tiny.strokes(60, seed=3), tiny.strokes(20, seed=4)
    arrays = [
        array.squeeze(1).numpy() if array.ndim == 4 else array.to(torch.uint8).numpy()
        for array in (train.images, train.labels, test.images, test.labels)
    ]
    files = {name: idx(array) for name, array in zip(MNIST_FILES, arrays, strict=True)}
    for name, content in files.items():
        monkeypatch.setitem(MNIST_FILES, name, hashlib.sha256(content).hexdigest())
    return files


def put(folder: Path, files: dict[str, bytes], packed: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("below", ["", "MNIST/raw", "some/where/far/below"])
def test_files_are_found_at_any_depth_raw_or_gzipped(
    contents: dict[str, bytes], tmp_path: Path, packed: bool, below: str
) -> None:
    put(tmp_path / below, contents, packed)
    loaded, test = load("mnist", tmp_path), load_test("mnist", tmp_path)
    assert loaded.sizes == {"train": 48, "val": 6, "select": 6, "test": 20}
    assert torch.equal(test.images, tiny.strokes(20, seed=4).images)
    assert torch.equal(test.labels, tiny.strokes(20, seed=4).labels)
    found = torch.cat([loaded.train.images, loaded.val.images, loaded.select.images])
    assert torch.equal(
        found.flatten(1).float().sum(1).sort()[0], tiny.strokes(60, seed=3).images.flatten(1).float().sum(1).sort()[0]
    )


def test_where_the_files_lie_does_not_matter(contents: dict[str, bytes], tmp_path: Path) -> None:
    raw, packed = put(tmp_path / "a", contents), put(tmp_path / "b" / "c", contents, packed=True)
    assert load("mnist", raw).digest == load("mnist", packed).digest


@pytest.mark.parametrize("packed", [False, True])
def test_same_named_files_of_other_data_sets_are_passed_over(
    contents: dict[str, bytes], tmp_path: Path, packed: bool
) -> None:
    others = {name: idx(np.zeros((3, 2, 2), np.uint8)) for name in contents}
    put(tmp_path / "A" / "raw", others, packed)
    put(tmp_path, {"train-images-idx3-ubyte": b"junk"})
    put(tmp_path / "MNIST" / "raw", contents, packed)
    put(tmp_path / "Z" / "raw", others, not packed)
    assert load("mnist", tmp_path).sizes["train"] == 48


def flip(content: bytes) -> bytes:
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


@pytest.mark.parametrize("name", MNIST_FILES)
@pytest.mark.parametrize(
    ("packed", "damage"),
    [
        (False, flip),
        (False, lambda content: content[:-1]),
        (False, lambda content: content + b"\0"),
        (False, lambda content: b""),  # noqa: ARG005
        (True, lambda content: gzip.compress(flip(content))),
        (True, lambda content: gzip.compress(content)[:-9]),
        (True, lambda content: gzip.compress(content)[:5]),
        (True, lambda content: flip(gzip.compress(content))),
        (True, lambda content: gzip.compress(content) + b"junk"),
        (True, lambda content: gzip.compress(content)[:12] + b"\xff\xff" + gzip.compress(content)[14:]),
        (True, lambda content: content),  # not gzipped at all
        (True, lambda content: b""),  # noqa: ARG005
    ],
    ids=[
        *("byte", "cut", "longer", "empty", "gz-other", "gz-cut", "gz-head", "gz-crc", "gz-junk", "gz-stream"),
        *("gz-raw", "gz-empty"),
    ],
)
def test_damaged_file_is_refused_by_name(
    contents: dict[str, bytes], tmp_path: Path, name: str, packed: bool, damage: Callable[[bytes], bytes]
) -> None:
    put(tmp_path, contents, packed)
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(damage(contents[name]))
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    assert str(path) in str(error.value)
    assert "delete it" in str(error.value)
    assert str(error.value).count("\n") <= 1


def test_damaged_file_beside_a_sound_one_does_not_matter(contents: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path / "sound", contents)
    put(tmp_path, {name: content[:-1] for name, content in contents.items()})
    assert load("mnist", tmp_path).sizes["train"] == 48


def test_a_file_that_was_repaired_is_read_again(contents: dict[str, bytes], tmp_path: Path) -> None:
    put(tmp_path, {name: content[:-1] for name, content in contents.items()})
    with pytest.raises(DataError):
        load("mnist", tmp_path)
    put(tmp_path, contents)
    assert load("mnist", tmp_path).sizes["train"] == 48


@pytest.mark.parametrize("name", MNIST_FILES)
def test_absent_file_is_named(contents: dict[str, bytes], tmp_path: Path, name: str) -> None:
    put(tmp_path, {other: content for other, content in contents.items() if other != name})
    (tmp_path / f"{name}.gz").mkdir()  # a folder is no file
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    assert f"{name} (raw or .gz) not found under {tmp_path}" in str(error.value)
    for other in contents.keys() - {name}:
        assert other not in str(error.value)


@pytest.mark.parametrize("folder", ["absent", "a-file"])
def test_absent_folder_names_all_files(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path / folder)
    for word in (*MNIST_FILES, folder):
        assert word in str(error.value)


def test_failed_download_names_the_folder_and_the_alternative(tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")  # nothing can be written below it, so no network is asked
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path / "a-file", download=True)
    for word in (*MNIST_FILES, str(tmp_path / "a-file"), "mnist-5k", "download failed"):
        assert word in str(error.value)


@needs_mnist
def test_real_mnist(tmp_path: Path) -> None:
    shutil.copytree(REAL / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    put(tmp_path / "FashionMNIST" / "raw", {name: idx(DIGITS) for name in MNIST_FILES}, packed=True)
    digits, test = load("mnist", tmp_path), load_test("mnist", tmp_path)
    assert digits.sizes == {"train": 50_000, "val": 5_000, "select": 5_000, "test": 10_000}
    assert digits.image_size == (28, 28)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    share = digits.train.labels.bincount() / 50_000
    for split in (digits.val, digits.select):
        assert torch.allclose(split.labels.bincount() / 5_000, share, atol=3e-4)
    assert share[1] > 0.11  # MNIST is not quite balanced
