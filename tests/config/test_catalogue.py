"""The catalogue of published data sets: its names and formats, and its files against torchvision's lists."""

from __future__ import annotations

import re

from archives import PUBLISHED
from torchvision import datasets

from pipeline.config.catalogue import CATALOGUE
from pipeline.data.formats import FORMATS


def test_study_files_may_name_these_data_sets() -> None:
    assert tuple(CATALOGUE) == (
        *("mnist-5k", "mnist", "fashion-mnist", "kmnist", "qmnist"),
        *("emnist-balanced", "emnist-byclass", "emnist-bymerge", "emnist-digits", "emnist-letters", "emnist-mnist"),
        "usps",
    )


def test_every_set_has_a_format_that_can_be_read() -> None:
    assert {entry.format for entry in CATALOGUE.values()} == set(FORMATS)


def test_every_published_file_has_its_own_checksums() -> None:
    entries = [entry for entry in CATALOGUE.values() if entry.format != "emnist"]
    known = {file for entry in CATALOGUE.values() for file in entry.files}
    assert len(known) == sum(len(entry.files) for entry in entries) + 1  # EMNIST's parts are in one archive
    assert len({file.md5 for file in known}) == len(known)
    for file in known:
        assert re.fullmatch("[0-9a-f]{32}", file.md5)
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_md5_and_addresses_are_those_of_torchvision() -> None:
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
