"""The data sets that a study file can name: for each published one its files, addresses, checksums and licence.

Facts only. `data.published` finds, verifies and fetches the files, `data.formats` reads them.
"""

from dataclasses import dataclass
from typing import Literal

PICTURE_FOLDER = "folder:"  # begins the name of a data set of the user's own pictures; the folder's path follows


@dataclass(frozen=True)
class File:
    """A file as its publisher offers it, and how it is recognised.

    ``sha256`` is of the unpacked content, so that a raw or repacked copy is accepted too. If only the ``md5`` of the
    published archive is known, the archive itself is needed.
    """

    name: str
    md5: str
    urls: tuple[str, ...]
    sha256: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The file names that are accepted, the cheapest to read first."""
        if not self.sha256:
            return (self.name,)
        raw = self.name.removesuffix(".gz")
        dotted = raw.replace("-idx", ".idx")  # the name in the publisher's archives and of many copies
        return (raw, dotted, self.name, f"{dotted}.gz")


@dataclass(frozen=True)
class Entry:
    """A data set. ``folder`` is its subfolder of the data folder, as torchvision has it."""

    name: str
    images: int  # training and test together
    size: tuple[int, int]
    classes: int
    licence: str
    folder: str = ""
    files: tuple[File, ...] = ()  # none: embedded in a Python package
    format: Literal["idx", "emnist", "usps", "csv"] = "idx"
    part: str = ""  # which of an archive's several data sets

    @property
    def check(self) -> str:
        """How it is verified, as text."""
        if not self.files:
            return "sha256 of the file"
        return "sha256 of the content" if all(file.sha256 for file in self.files) else "md5 of the published archive"


def _files(mirrors: tuple[str, ...], *files: tuple[str, ...]) -> tuple[File, ...]:
    """Of each file the name, the md5, and the sha256 if it is known."""
    return tuple(File(name, md5, tuple(mirror + name for mirror in mirrors), *sha256) for name, md5, *sha256 in files)


def _mnist(mirrors: tuple[str, ...], *checksums: tuple[str, ...]) -> tuple[File, ...]:
    """The four files as MNIST and two of its successors name them."""
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return _files(mirrors, *((f"{part}-ubyte.gz", *sums) for part, sums in zip(parts, checksums, strict=True)))


# Training images, training labels, test images, test labels; usps has images and labels in one file.
# Addresses and md5 are those that torchvision lists. The sha256 were computed from files whose archives have these md5.
_MNIST = _mnist(
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/"),
    ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    ("d53e105ee54ea40749a09fcbcd1e9432", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    ("9fb629c4189551a2d022fa330f9573f3", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    ("ec29112dd5afa0611ce80d1b7f02629c", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
_FASHION = _mnist(
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    ("25c81989df183df01b3e8a0aad5dffbe", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ("bef4ecab320f06d8554ea6380940ec79", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    ("bb300cfdad3c16e7a12a480ee83cd310", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
)
_KMNIST = _mnist(
    ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    ("bdb82020997e1d708af4cf47b453dcf7",),
    ("e144d726b3acfaa3e44228e80efcd344",),
    ("5c965bf0a639b31b8f53240b1b52f4d7",),
    ("7320c461ea6c1c855c0b718fb2a4b134",),
)
_QMNIST = _files(
    ("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
    ("qmnist-train-images-idx3-ubyte.gz", "ed72d4157d28c017586c42bc6afe6370"),
    ("qmnist-train-labels-idx2-int.gz", "0058f8dd561b90ffdd0f734c6a30e5e4"),
    ("qmnist-test-images-idx3-ubyte.gz", "1394631089c404de565df7b7aeaf9412"),
    ("qmnist-test-labels-idx2-int.gz", "5b5b05890a5e13444e108efe57b788aa"),
)
_USPS = _files(
    ("https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/",),
    ("usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"),
    ("usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118"),
)
_EMNIST = _files(("https://biometrics.nist.gov/cs_links/EMNIST/",), ("gzip.zip", "58c8d27c78d21e728a6bc7b3cc06412e"))

_ENTRIES = (
    Entry("mnist-5k", 5_000, (28, 28), 10, "CC BY-SA 3.0", format="csv"),
    Entry("mnist", 70_000, (28, 28), 10, "CC BY-SA 3.0", "MNIST/raw", _MNIST),
    Entry("fashion-mnist", 70_000, (28, 28), 10, "MIT", "FashionMNIST/raw", _FASHION),
    Entry("kmnist", 70_000, (28, 28), 10, "CC BY-SA 4.0", "KMNIST/raw", _KMNIST),
    Entry("qmnist", 120_000, (28, 28), 10, "BSD 3-clause", "QMNIST/raw", _QMNIST),
    *(
        Entry(f"emnist-{part}", images, (28, 28), classes, "see publisher", "EMNIST/raw", _EMNIST, "emnist", part)
        for part, images, classes in (
            ("balanced", 131_600, 47),
            ("byclass", 814_255, 62),
            ("bymerge", 814_255, 47),
            ("digits", 280_000, 10),
            ("letters", 145_600, 26),
            ("mnist", 70_000, 10),
        )
    ),
    Entry("usps", 9_298, (16, 16), 10, "see publisher", "", _USPS, "usps"),
)
CATALOGUE = {entry.name: entry for entry in _ENTRIES}
