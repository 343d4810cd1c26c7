"""Data sets: splits, the embedded digits, IDX files, and files that are absent, damaged or another's."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from archives import PUBLISHED, Archives, archives, described, idx, put, served
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision import datasets

from pipeline import data
from pipeline.config.catalogue import CATALOGUE
from pipeline.data import Split, load, load_test, sets, verify
from pipeline.data.formats import parse_idx, parse_libsvm
from pipeline.data.sets import stratified
from pipeline.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
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
    sets._splits.cache_clear()
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


def test_intensities_are_scaled_to_0_to_1() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = sets.to_float(images)
    assert (floats.min(), floats.max(), floats.dtype) == (0, 1, torch.float32)
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    assert images.max() == 255


# --- IDX files -----------------------------------------------------------------------------------------------------


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


Offered = dict[str, Archives]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Offered:
    """Small stand-ins for all published data sets: their checksums take the place of the published ones."""
    made = {name: archives(name) for name in PUBLISHED}
    for name, small in made.items():
        monkeypatch.setitem(CATALOGUE, name, small.entry)
    return made


def rows(images: torch.Tensor) -> list[bytes]:
    """The images in an order of their own."""
    return sorted(image.numpy().tobytes() for image in images)


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("below", ["", "some/where/far/below"])
def test_every_published_set_is_read_from_any_depth(offered: Offered, tmp_path: Path, name: str, below: str) -> None:
    small = offered[name]
    put(tmp_path / below, small.files)
    loaded, test = load(name, tmp_path), load_test(name, tmp_path)
    assert loaded.sizes == {"train": 104, "val": 13, "select": 13, "test": 30}
    assert loaded.image_size == small.entry.size
    assert loaded.classes == small.entry.classes
    assert np.array_equal(test.images[:, 0].numpy(), small.test_images)
    assert test.labels is not None
    assert np.array_equal(test.labels.numpy(), small.test_labels)
    parts = (loaded.train, loaded.val, loaded.select)
    assert rows(torch.cat([part.images for part in parts])) == sorted(image.tobytes() for image in small.images)
    label_of = {image.tobytes(): label for image, label in zip(small.images, small.labels, strict=True)}
    for part in parts:
        assert part.labels is not None
        assert [label_of[image.numpy().tobytes()] for image in part.images] == part.labels.tolist()
    assert verify(name, tmp_path).state == "verified"
    assert verify(name, tmp_path, quick=True).state == "present"


def test_links_and_the_names_in_the_publisher_s_archives_will_do(offered: Offered, tmp_path: Path) -> None:
    there = put(tmp_path / "there", offered["mnist"].files, unpacked=True)
    for file in there.iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(there)
    assert verify("mnist", tmp_path / "data").state == "verified"
    assert load("mnist", tmp_path / "data").digest == load("mnist", there).digest


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_digest_is_of_the_content_not_of_the_packing_or_the_place(
    offered: Offered, tmp_path: Path, name: str
) -> None:
    raw = put(tmp_path / "a", offered[name].files, unpacked=True)
    packed = put(tmp_path / "b" / "c", offered[name].files)
    again = {file: gzip.compress(gzip.decompress(content), 1, mtime=5) for file, content in offered[name].files.items()}
    repacked = put(tmp_path / "d", again)
    assert load(name, raw).digest == load(name, packed).digest == load(name, repacked).digest
    assert load(name, raw).digest != load("kmnist", put(tmp_path / "e", offered["kmnist"].files)).digest


def test_sets_with_the_same_file_names_lie_beside_each_other(offered: Offered, tmp_path: Path) -> None:
    for name in ("fashion-mnist", "kmnist", "mnist"):
        put(tmp_path / offered[name].entry.folder, offered[name].files)
    put(tmp_path, {"train-images-idx3-ubyte": b"junk"})
    put(tmp_path / "MNIST" / "raw" / "other", {"train-images-idx3-ubyte.gz": b"junk"})
    for name in ("fashion-mnist", "kmnist", "mnist"):
        test = load_test(name, tmp_path)
        assert np.array_equal(test.images[:, 0].numpy(), offered[name].test_images)


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_another_sets_files_are_passed_over_named_and_not_to_be_deleted(
    offered: Offered, tmp_path: Path, name: str
) -> None:
    put(tmp_path, offered["fashion-mnist"].files)
    with pytest.raises(DataError, match="not found under") as error:
        load(name, tmp_path)
    assert "is fashion-mnist's train-images-idx3-ubyte.gz, and 3 more" in str(error.value)
    assert "delete" not in str(error.value)
    assert str(error.value).count("\n") <= 1
    assert verify(name, tmp_path, quick=True).state == "absent"  # the labels say so already


def test_another_sets_file_in_a_sets_own_folder_is_to_be_moved(offered: Offered, tmp_path: Path) -> None:
    own = put(tmp_path / "MNIST" / "raw", offered["fashion-mnist"].files)
    with pytest.raises(DataError, match="is fashion-mnist's") as error:
        load("mnist", tmp_path, download=True)
    assert "move it elsewhere" in str(error.value)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == offered["fashion-mnist"].files


def test_an_unpacked_file_is_no_proof_of_an_archive(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path, offered["kmnist"].files, unpacked=True)  # where only the archives' md5 are known
    with pytest.raises(DataError, match="not found under"):
        load("kmnist", tmp_path)


def flip(content: bytes) -> bytes:
    return content[:-7] + bytes([content[-7] ^ 1]) + content[-6:]


DAMAGE: dict[str, tuple[bool, Callable[[bytes], bytes]]] = {
    "byte": (True, flip),
    "cut": (True, lambda content: content[:-1]),
    "longer": (True, lambda content: content + b"\0"),
    "empty": (True, lambda _: b""),
    "gz-other": (False, lambda content: gzip.compress(flip(content))),
    "gz-cut": (False, lambda content: gzip.compress(content)[:-9]),
    "gz-head": (False, lambda content: gzip.compress(content)[:5]),
    "gz-crc": (False, lambda content: flip(gzip.compress(content))),
    "gz-junk": (False, lambda content: gzip.compress(content) + b"junk"),
    "gz-stream": (False, lambda content: gzip.compress(content)[:12] + b"\xff\xff" + gzip.compress(content)[14:]),
    "gz-raw": (False, lambda content: content),  # not gzipped at all
    "gz-empty": (False, lambda _: b""),
}


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("folder", ["MNIST/raw", ""], ids=["own", "other"])
def test_damaged_file_is_refused_by_name(
    offered: Offered, tmp_path: Path, folder: str, damage: str, number: int
) -> None:
    raw, change = DAMAGE[damage]
    put(tmp_path / folder, offered["mnist"].files, unpacked=raw)
    name = list(offered["mnist"].files)[number]
    path = tmp_path / folder / (name.removesuffix(".gz") if raw else name)
    path.write_bytes(change(gzip.decompress(offered["mnist"].files[name])))
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path)
    assert str(path) in str(error.value)
    assert ("delete it" in str(error.value)) == bool(folder), "elsewhere it may well be another data set's"
    assert str(error.value).count("\n") <= 1
    assert verify("mnist", tmp_path).state == ("damaged" if folder else "absent")


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_archive_cut_short_in_its_own_folder_is_damaged(offered: Offered, tmp_path: Path, name: str) -> None:
    small = offered[name]
    own = put(tmp_path / small.entry.folder, small.files)
    first = own / small.entry.files[0].name
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.raises(DataError, match="delete it to have it fetched again") as error:
        load(name, tmp_path)
    assert str(first) in str(error.value)
    assert verify(name, tmp_path).state == "damaged"


def test_damaged_file_beside_a_sound_one_does_not_matter(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path / "sound", offered["mnist"].files)
    put(tmp_path / "MNIST" / "raw", {name: content[:-1] for name, content in offered["mnist"].files.items()})
    assert load("mnist", tmp_path).sizes["train"] == 104


def test_a_file_that_was_repaired_is_read_again(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path, {name: content[:-1] for name, content in offered["mnist"].files.items()})
    with pytest.raises(DataError):
        load("mnist", tmp_path)
    put(tmp_path, offered["mnist"].files)
    assert load("mnist", tmp_path).sizes["train"] == 104


@pytest.mark.parametrize("name", ["mnist", "qmnist", "usps", "emnist-letters"])
def test_absent_file_is_named(offered: Offered, tmp_path: Path, name: str) -> None:
    for file in offered[name].files:
        folder = put(
            tmp_path / file, {other: content for other, content in offered[name].files.items() if other != file}
        )
        (folder / file).mkdir()  # a folder is no file
        with pytest.raises(DataError, match=f"not found under {folder}") as error:
            load(name, folder)
        assert file.removesuffix(".gz") in str(error.value).removesuffix(str(folder))
        for other in offered[name].files.keys() - {file}:
            assert other.removesuffix(".gz") not in str(error.value)


@pytest.mark.parametrize("folder", ["absent", "a-file"])
def test_absent_folder_names_all_files(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path / folder)
    for word in (*(file.names[0] for file in CATALOGUE["mnist"].files), folder):
        assert word in str(error.value)


# --- Downloads -----------------------------------------------------------------------------------------------------


@pytest.fixture
def server(offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder whose files a web server on this machine offers; the first address of each file leads nowhere."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    with served(folder) as address:
        for name, small in offered.items():
            monkeypatch.setitem(CATALOGUE, name, described(small.entry, small.files, address))
        yield folder


@pytest.mark.parametrize("name", ["mnist", "kmnist", "qmnist", "emnist-balanced", "usps"])
def test_what_is_absent_is_fetched_into_its_own_folder_and_verified(
    offered: Offered, server: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    put(server, offered[name].files)
    there = tmp_path / "data"
    put(there, offered["fashion-mnist"].files)  # other sets' files of the same names are let be
    loaded = load(name, there, download=True)
    assert loaded.sizes["train"] == 104
    assert [line.split()[0] for line in capfd.readouterr().err.splitlines()] == ["fetching"] * 2 * len(
        offered[name].files
    )
    own = there / CATALOGUE[name].folder
    assert {path.name for path in own.iterdir() if path.is_file()} >= set(offered[name].files)
    assert not list(there.rglob("*.part"))
    assert load(name, there) is loaded, "a process reads a data set once"
    sets._splits.cache_clear()
    for path in server.iterdir():
        path.unlink()
    assert load(name, there, download=True).digest == loaded.digest  # nothing is fetched again
    for file, content in offered["fashion-mnist"].files.items():
        assert (there / file).read_bytes() == content


def test_only_what_is_absent_is_fetched(offered: Offered, server: Path, tmp_path: Path) -> None:
    [first, *others] = offered["mnist"].files
    there = put(tmp_path / "data", {first: offered["mnist"].files[first]})
    put(server, {name: offered["mnist"].files[name] for name in others})
    assert load("mnist", there, download=True).sizes["train"] == 104


def test_a_download_of_other_bytes_is_not_kept(offered: Offered, server: Path, tmp_path: Path) -> None:
    put(server, {name: content[:-1] for name, content in offered["mnist"].files.items()})
    for _ in range(2):
        with pytest.raises(DataError, match="download failed"):
            load("mnist", tmp_path / "data", download=True)
    assert verify("mnist", tmp_path / "data").state == "absent"


@pytest.mark.usefixtures("server")
def test_failed_download_says_what_was_passed_over(offered: Offered, tmp_path: Path) -> None:
    there = put(tmp_path / "data", {name: content[:-1] for name, content in offered["mnist"].files.items()})
    with pytest.raises(DataError, match=r"skipped .*, and 3 more") as error:
        load("mnist", there, download=True)
    assert str(there / "train-images-idx3-ubyte.gz") in str(error.value)
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_failed_download_names_the_folder_and_the_alternative(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")  # nothing can be written below it, so no network is asked
    with pytest.raises(DataError) as error:
        load(name, tmp_path / "a-file", download=True)
    entry = CATALOGUE[name]
    for word in (*(file.name for file in entry.files), str(tmp_path / "a-file" / entry.folder), "mnist-5k", "failed"):
        assert word in str(error.value)
    assert str(error.value).count("\n") == 1


def test_usps_is_read_as_torchvision_reads_it(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path, offered["usps"].files)
    theirs = datasets.USPS(str(tmp_path), train=False)
    ours = load_test("usps", tmp_path)
    assert ours.labels is not None
    assert np.array_equal(ours.images[:, 0].numpy(), theirs.data)
    assert ours.labels.tolist() == theirs.targets


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


def test_an_index_left_out_is_a_zero() -> None:
    images, labels = parse_libsvm(Path("file"), b"3 2:1 256:-1\n")
    assert labels.tolist() == [2]
    assert images.shape == (1, 16, 16)
    assert images.ravel()[[0, 1, 255]].tolist() == [127, 255, 0]


# --- The catalogue, and the published files where a machine has them ----------------------------------------------


def test_the_catalogue_is_what_study_files_may_name() -> None:
    assert tuple(CATALOGUE) == (
        *("mnist-5k", "mnist", "fashion-mnist", "kmnist", "qmnist"),
        *("emnist-balanced", "emnist-byclass", "emnist-bymerge", "emnist-digits", "emnist-letters", "emnist-mnist"),
        "usps",
    )


def test_every_published_file_has_its_own_checksums() -> None:
    entries = [entry for entry in CATALOGUE.values() if entry.format != "emnist"]
    known = {file for entry in CATALOGUE.values() for file in entry.files}
    assert len(known) == sum(len(entry.files) for entry in entries) + 1  # EMNIST's parts are in one archive
    assert len({file.md5 for file in known}) == len(known)
    for file in known:
        assert re.fullmatch("[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_md5_and_addresses_are_torchvisions() -> None:
    published = {
        "mnist": [(f"{m}{name}", md5) for name, md5 in datasets.MNIST.resources for m in datasets.MNIST.mirrors],
        "fashion-mnist": [(f"{datasets.FashionMNIST.mirrors[0]}{n}", m) for n, m in datasets.FashionMNIST.resources],
        "kmnist": [(f"{datasets.KMNIST.mirrors[0]}{n}", m) for n, m in datasets.KMNIST.resources],
        "qmnist": [pair for part in ("train", "test") for pair in datasets.QMNIST.resources[part]],
        "usps": [(url, md5) for url, _, md5 in datasets.USPS.split_list.values()],
        **{f"emnist-{part}": [(datasets.EMNIST.url, datasets.EMNIST.md5)] for part in datasets.EMNIST.splits},
    }
    assert published.keys() == set(PUBLISHED)
    for name, pairs in published.items():
        assert [(url, file.md5) for file in CATALOGUE[name].files for url in file.urls] == pairs


@needs_mnist
def test_real_mnist(tmp_path: Path) -> None:
    shutil.copytree(REAL / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    put(tmp_path / "FashionMNIST" / "raw", {file.names[0]: idx(DIGITS) for file in CATALOGUE["mnist"].files})
    digits, test = load("mnist", tmp_path), load_test("mnist", tmp_path)
    assert digits.sizes == {"train": 50_000, "val": 5_000, "select": 5_000, "test": 10_000}
    assert digits.image_size == (28, 28)
    assert digits.digest.startswith("7390325f429e5550")
    assert test.labels is not None
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert digits.train.labels is not None
    share = digits.train.labels.bincount() / 50_000
    for split in (digits.val, digits.select):
        assert split.labels is not None
        assert torch.allclose(split.labels.bincount() / 5_000, share, atol=3e-4)
    assert share[1] > 0.11  # MNIST is not quite balanced


@pytest.mark.skipif(not DEBIAN.is_dir(), reason=f"the full Fashion-MNIST is not at {DEBIAN}")
def test_real_fashion_mnist_as_debian_packs_it() -> None:
    clothes = load("fashion-mnist", DEBIAN)
    assert clothes.sizes == {"train": 50_000, "val": 5_000, "select": 5_000, "test": 10_000}
    assert (clothes.image_size, clothes.classes) == ((28, 28), 10)
    assert verify("mnist", DEBIAN).state == "absent"
