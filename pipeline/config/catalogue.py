"""The published data sets: their files, where to get them, how to recognise them, and their licence.

Nothing comes in; out goes `CATALOGUE`. Facts only: `pipeline.data.formats` reads the files, `pipeline.data.published`
finds, verifies and fetches them. This module may not import torch or numpy.
"""

from __future__ import annotations

from dataclasses import dataclass

PICTURE_FOLDER = "folder:"  # begins the name of a data set of the user's own pictures; the folder's path follows
UNKNOWN = "see publisher"


@dataclass(frozen=True)
class File:
    """A file as its publisher offers it, and how it is recognised.

    ``sha256`` is of the unpacked content, so an unpacked or repacked copy is accepted as well. Where only the published
    archive's ``md5`` is known, the archive itself has to be there.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    sha256: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The file names under which it is accepted, the fastest to read first."""
        if not self.sha256:
            return (self.name,)
        raw = self.name.removesuffix(".gz")
        dotted = raw.replace("-idx", ".idx")  # the name inside the publisher's archives, and of many copies
        return (raw, dotted, self.name, f"{dotted}.gz")


@dataclass(frozen=True)
class Entry:
    """A data set. ``folder`` is its own below the data folder, laid out as torchvision does."""

    name: str
    images: int  # of training and test together
    licence: str
    folder: str = ""
    files: tuple[File, ...] = ()  # none: a Python package contains it
    format: str = "idx"  # a key of `pipeline.data.formats.FORMATS`
    part: str = ""  # which of the data sets in an archive
    size: tuple[int, int] = (28, 28)
    classes: int = 10

    @property
    def check(self) -> str:
        """How it is verified, as text."""
        if not self.files:
            return "sha256 of the file"
        return "sha256 of the content" if all(file.sha256 for file in self.files) else "md5 of the published archive"


def _files(names: tuple[str, ...], mirrors: tuple[str, ...], *checksums: str) -> tuple[File, ...]:
    """Files that all mirrors offer; a checksum is the md5 and, where it is known, the sha256."""
    files = []
    for name, line in zip(names, checksums, strict=True):
        md5, _, sha256 = line.partition(" ")
        files.append(File(name, md5, tuple(mirror + name for mirror in mirrors), sha256 or None))
    return tuple(files)


def _emnist(part: str, images: int, classes: int) -> Entry:
    files = _files(("gzip.zip",), ("https://biometrics.nist.gov/cs_links/EMNIST/",), "58c8d27c78d21e728a6bc7b3cc06412e")
    return Entry(f"emnist-{part}", images, UNKNOWN, "EMNIST/raw", files, "emnist", part, classes=classes)


# Training images, training labels, test images, test labels.
_IDX = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
_QMNIST = tuple(
    f"qmnist-{part}-{kind}.gz" for part in ("train", "test") for kind in ("images-idx3-ubyte", "labels-idx2-int")
)

# Addresses and md5 are those that torchvision lists. The sha256 were taken from files whose archives have these md5.
_ENTRIES = (
    Entry("mnist-5k", 5_000, "CC BY-SA 3.0"),
    Entry(
        "mnist",
        70_000,
        "CC BY-SA 3.0",
        "MNIST/raw",
        _files(
            _IDX,
            ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
            "f68b3c2dcbeaaa9fbdd348bbdeb94873 ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "d53e105ee54ea40749a09fcbcd1e9432 65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "9fb629c4189551a2d022fa330f9573f3 0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ec29112dd5afa0611ce80d1b7f02629c ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    Entry(
        "fashion-mnist",
        70_000,
        "MIT",
        "FashionMNIST/raw",
        _files(
            _IDX,
            ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "25c81989df183df01b3e8a0aad5dffbe bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "bef4ecab320f06d8554ea6380940ec79 5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "bb300cfdad3c16e7a12a480ee83cd310 0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    Entry(
        "kmnist",
        70_000,
        "CC BY-SA 4.0",
        "KMNIST/raw",
        _files(
            _IDX,
            ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    Entry(
        "qmnist",
        120_000,
        "BSD 3-clause",
        "QMNIST/raw",
        _files(
            _QMNIST,
            ("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
            "ed72d4157d28c017586c42bc6afe6370",
            "0058f8dd561b90ffdd0f734c6a30e5e4",
            "1394631089c404de565df7b7aeaf9412",
            "5b5b05890a5e13444e108efe57b788aa",
        ),
    ),
    _emnist("balanced", 131_600, 47),
    _emnist("byclass", 814_255, 62),
    _emnist("bymerge", 814_255, 47),
    _emnist("digits", 280_000, 10),
    _emnist("letters", 145_600, 26),
    _emnist("mnist", 70_000, 10),
    Entry(
        "usps",
        9_298,
        UNKNOWN,
        files=_files(
            ("usps.bz2", "usps.t.bz2"),  # each with images and labels
            ("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",),
            "ec16c51db3855ca6c91edd34d0e9b197",
            "8ea070ee2aca1ac39742fdd1ef5ed118",
        ),
        format="usps",
        size=(16, 16),
    ),
)
CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
