"""Splits and data sets in memory, with the embedded digits as the example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.data import LOADERS, Split, load, load_test, sets
from pipeline.data.sets import stratified, to_float

MNIST_5K_DIGEST = "196793ce24f67783"  # files and splits: if it changes, stored studies cannot be compared


@st.composite
def labels_and_sizes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Labels of uneven classes, some with a single example, and sizes that may leave no example for training."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    names = draw(st.lists(st.integers(0, 99), min_size=len(counts), max_size=len(counts), unique=True))
    labels = np.repeat(names, counts)
    sizes: list[int] = []
    for _ in range(draw(st.integers(1, 3))):
        sizes.append(draw(st.integers(0, len(labels) - sum(sizes))))
    return np.array(draw(st.permutations(labels.tolist()))), tuple(sizes)


@given(case=labels_and_sizes())
@example(case=(np.arange(10), (3, 3)))  # each class gives at most one
@example(case=(np.repeat([0, 1], 3), (1, 1, 4)))  # the first class gives two to the small sets
def test_splits_are_disjoint_and_complete_and_have_the_requested_sizes(
    case: tuple[np.ndarray, tuple[int, ...]],
) -> None:
    labels, sizes = case
    parts = stratified(labels, sizes)
    assert tuple(map(len, parts[1:])) == sizes
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


@given(counts=st.lists(st.integers(8, 60), min_size=1, max_size=12), data=st.data())
def test_splits_keep_the_share_of_each_class_to_within_one_example(counts: list[int], data: st.DataObject) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    sizes = data.draw(st.lists(st.integers(0, len(labels) // 6), min_size=1, max_size=3))
    for part, size in zip(stratified(labels, tuple(sizes))[1:], sizes, strict=True):
        found = np.bincount(labels[part], minlength=len(counts))
        assert np.all(np.abs(found - size * np.array(counts) / len(labels)) < 1 + 1e-9)


@given(case=labels_and_sizes())
def test_splits_depend_only_on_labels_and_sizes(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    labels, sizes = case
    before = stratified(labels, sizes)
    np.random.seed(5)
    torch.manual_seed(5)
    for first, second in zip(before, stratified(labels.copy(), sizes), strict=True):
        assert np.array_equal(first, second)


def test_every_split_mixes_the_classes() -> None:
    labels = np.repeat(np.arange(10), 100)
    for part in stratified(labels, (200, 200)):
        assert len(set(labels[part[:30]])) >= 6
        assert not np.array_equal(part, np.sort(part))


def test_embedded_digits_have_the_expected_sizes_and_equal_classes(tmp_path: Path) -> None:
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
    assert len(everything.flatten(1).unique(dim=0)) == 5000  # no digit is in two splits


def test_embedded_digits_are_the_same_at_every_load(tmp_path: Path) -> None:
    first = load("mnist-5k", tmp_path / "one")
    sets._splits.cache_clear()
    again = load("mnist-5k", tmp_path / "two")
    assert again.train.images is not first.train.images
    assert again.digest == first.digest
    assert again.digest.startswith(MNIST_5K_DIGEST)
    assert torch.equal(again.val.images, first.val.images)


def test_a_process_reads_a_data_set_once(tmp_path: Path) -> None:
    assert load("mnist-5k", tmp_path) is load("mnist-5k", tmp_path)


@pytest.mark.parametrize(("count", "held_out"), [(120, 12), (49_999, 4_999), (60_000, 5_000)])
def test_val_and_select_are_a_tenth_each_and_at_most_5000(
    count: int, held_out: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count) % 10)
    monkeypatch.setitem(LOADERS, "dots", lambda _data_dir, _download: (split, split, ["dots"]))
    sizes = {"train": count - 2 * held_out, "val": held_out, "select": held_out, "test": count}
    assert load("dots", tmp_path).sizes == sizes


def test_the_data_set_of_a_study_does_not_contain_the_test_split(tiny_data: Path) -> None:
    seen, test = load(tiny.NAME, tiny_data), load_test(tiny.NAME, tiny_data)
    assert seen.sizes == {"train": 96, "val": 12, "select": 12, "test": 20}
    assert len(test) == 20
    assert {name for name, value in vars(seen).items() if isinstance(value, Split)} == {"train", "val", "select"}


def test_intensities_are_scaled_to_0_to_1() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(images)
    assert (floats.min(), floats.max(), floats.dtype) == (0, 1, torch.float32)
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    assert images.max() == 255
