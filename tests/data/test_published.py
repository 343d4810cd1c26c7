"""Published files: found, verified and fetched; missing, damaged and foreign ones."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import PUBLISHED, Archives, archives, described, idx, put, served
from torchvision import datasets

from pipeline.config.catalogue import CATALOGUE
from pipeline.data import load, load_test, sets, verify
from pipeline.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # from the package dataset-fashion-mnist
needs_mnist = pytest.mark.skipif(not REAL.is_dir(), reason=f"the full MNIST is not at {REAL}")
Offered = dict[str, Archives]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Offered:
    """Small data sets in place of the published ones; their checksums replace the published checksums."""
    made = {name: archives(name) for name in PUBLISHED}
    for name, small in made.items():
        monkeypatch.setitem(CATALOGUE, name, small.entry)
    return made


def rows(images: torch.Tensor) -> list[bytes]:
    """The images in a fixed order."""
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


def test_links_and_the_names_inside_the_archives_are_accepted(offered: Offered, tmp_path: Path) -> None:
    there = put(tmp_path / "there", offered["mnist"].files, unpacked=True)
    for file in there.iterdir():
        file.rename(file.with_name(file.name.replace("-idx", ".idx")))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(there)
    assert verify("mnist", tmp_path / "data").state == "verified"
    assert load("mnist", tmp_path / "data").digest == load("mnist", there).digest


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_digest_depends_on_the_content_and_not_on_packing_or_folder(
    offered: Offered, tmp_path: Path, name: str
) -> None:
    raw = put(tmp_path / "a", offered[name].files, unpacked=True)
    packed = put(tmp_path / "b" / "c", offered[name].files)
    again = {file: gzip.compress(gzip.decompress(content), 1, mtime=5) for file, content in offered[name].files.items()}
    repacked = put(tmp_path / "d", again)
    assert load(name, raw).digest == load(name, packed).digest == load(name, repacked).digest
    assert load(name, raw).digest != load("kmnist", put(tmp_path / "e", offered["kmnist"].files)).digest


def test_sets_with_the_same_file_names_can_share_a_data_folder(offered: Offered, tmp_path: Path) -> None:
    for name in ("fashion-mnist", "kmnist", "mnist"):
        put(tmp_path / offered[name].entry.folder, offered[name].files)
    put(tmp_path, {"train-images-idx3-ubyte": b"junk"})
    put(tmp_path / "MNIST" / "raw" / "other", {"train-images-idx3-ubyte.gz": b"junk"})
    for name in ("fashion-mnist", "kmnist", "mnist"):
        test = load_test(name, tmp_path)
        assert np.array_equal(test.images[:, 0].numpy(), offered[name].test_images)


@pytest.mark.parametrize("name", ["mnist", "kmnist"])
def test_files_of_another_set_are_skipped_and_named_without_advice_to_delete_them(
    offered: Offered, tmp_path: Path, name: str
) -> None:
    put(tmp_path, offered["fashion-mnist"].files)
    with pytest.raises(DataError, match="not found under") as error:
        load(name, tmp_path)
    assert "is fashion-mnist's train-images-idx3-ubyte.gz, and 3 more" in str(error.value)
    assert "delete" not in str(error.value)
    assert str(error.value).count("\n") <= 1
    assert verify(name, tmp_path, quick=True).state == "absent"  # the small label files already show it


def test_a_file_of_another_set_in_a_sets_own_folder_must_be_moved(offered: Offered, tmp_path: Path) -> None:
    own = put(tmp_path / "MNIST" / "raw", offered["fashion-mnist"].files)
    with pytest.raises(DataError, match="is fashion-mnist's") as error:
        load("mnist", tmp_path, download=True)
    assert "move it elsewhere" in str(error.value)
    assert {path.name: path.read_bytes() for path in own.iterdir()} == offered["fashion-mnist"].files


def test_an_unpacked_file_is_not_accepted_where_only_the_archive_has_a_checksum(
    offered: Offered, tmp_path: Path
) -> None:
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
def test_a_damaged_file_is_refused_by_name(
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
    assert ("delete it" in str(error.value)) == bool(folder), "in another folder it may belong to another data set"
    assert str(error.value).count("\n") <= 1
    assert verify("mnist", tmp_path).state == ("damaged" if folder else "absent")


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_truncated_archive_in_its_own_folder_is_damaged(offered: Offered, tmp_path: Path, name: str) -> None:
    small = offered[name]
    own = put(tmp_path / small.entry.folder, small.files)
    first = own / small.entry.files[0].name
    first.write_bytes(first.read_bytes()[:-3])
    with pytest.raises(DataError, match="delete it to have it fetched again") as error:
        load(name, tmp_path)
    assert str(first) in str(error.value)
    assert verify(name, tmp_path).state == "damaged"


def test_a_damaged_file_does_not_matter_if_there_is_an_intact_one(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path / "sound", offered["mnist"].files)
    put(tmp_path / "MNIST" / "raw", {name: content[:-1] for name, content in offered["mnist"].files.items()})
    assert load("mnist", tmp_path).sizes["train"] == 104


def test_a_repaired_file_is_read_again(offered: Offered, tmp_path: Path) -> None:
    put(tmp_path, {name: content[:-1] for name, content in offered["mnist"].files.items()})
    with pytest.raises(DataError):
        load("mnist", tmp_path)
    put(tmp_path, offered["mnist"].files)
    assert load("mnist", tmp_path).sizes["train"] == 104


@pytest.mark.parametrize("name", ["mnist", "qmnist", "usps", "emnist-letters"])
def test_a_missing_file_is_named(offered: Offered, tmp_path: Path, name: str) -> None:
    for file in offered[name].files:
        folder = put(
            tmp_path / file, {other: content for other, content in offered[name].files.items() if other != file}
        )
        (folder / file).mkdir()  # a folder is not a file
        with pytest.raises(DataError, match=f"not found under {folder}") as error:
            load(name, folder)
        assert file.removesuffix(".gz") in str(error.value).removesuffix(str(folder))
        for other in offered[name].files.keys() - {file}:
            assert other.removesuffix(".gz") not in str(error.value)


@pytest.mark.parametrize("folder", ["absent", "a-file"])
def test_for_a_missing_folder_all_files_are_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError) as error:
        load("mnist", tmp_path / folder)
    for word in (*(file.names[0] for file in CATALOGUE["mnist"].files), folder):
        assert word in str(error.value)


@pytest.fixture
def server(offered: Offered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served by a web server on this machine; the first address of each file does not exist."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "server"
    folder.mkdir()
    with served(folder) as address:
        for name, small in offered.items():
            monkeypatch.setitem(CATALOGUE, name, described(small.entry, small.files, address))
        yield folder


@pytest.mark.parametrize("name", ["mnist", "kmnist", "qmnist", "emnist-balanced", "usps"])
def test_missing_files_are_fetched_into_the_sets_own_folder_and_verified(
    offered: Offered, server: Path, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    put(server, offered[name].files)
    there = tmp_path / "data"
    put(there, offered["fashion-mnist"].files)  # files of another set with the same names are left unchanged
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


def test_only_missing_files_are_fetched(offered: Offered, server: Path, tmp_path: Path) -> None:
    [first, *others] = offered["mnist"].files
    there = put(tmp_path / "data", {first: offered["mnist"].files[first]})
    put(server, {name: offered["mnist"].files[name] for name in others})
    assert load("mnist", there, download=True).sizes["train"] == 104


def test_a_download_with_a_wrong_checksum_is_not_kept(offered: Offered, server: Path, tmp_path: Path) -> None:
    put(server, {name: content[:-1] for name, content in offered["mnist"].files.items()})
    for _ in range(2):
        with pytest.raises(DataError, match="download failed"):
            load("mnist", tmp_path / "data", download=True)
    assert verify("mnist", tmp_path / "data").state == "absent"


@pytest.mark.usefixtures("server")
def test_a_failed_download_names_the_skipped_files(offered: Offered, tmp_path: Path) -> None:
    there = put(tmp_path / "data", {name: content[:-1] for name, content in offered["mnist"].files.items()})
    with pytest.raises(DataError, match=r"skipped .*, and 3 more") as error:
        load("mnist", there, download=True)
    assert str(there / "train-images-idx3-ubyte.gz") in str(error.value)
    assert str(error.value).count("\n") == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_failed_download_names_the_folder_and_the_alternative(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")  # nothing can be written below it, so nothing is requested
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


@needs_mnist
def test_real_mnist(tmp_path: Path) -> None:
    shutil.copytree(REAL / "MNIST" / "raw", tmp_path / "MNIST" / "raw")
    put(
        tmp_path / "FashionMNIST" / "raw",
        {file.names[0]: idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4)) for file in CATALOGUE["mnist"].files},
    )
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
def test_real_fashion_mnist_as_debian_packages_it() -> None:
    clothes = load("fashion-mnist", DEBIAN)
    assert clothes.sizes == {"train": 50_000, "val": 5_000, "select": 5_000, "test": 10_000}
    assert (clothes.image_size, clothes.classes) == ((28, 28), 10)
    assert verify("mnist", DEBIAN).state == "absent"
