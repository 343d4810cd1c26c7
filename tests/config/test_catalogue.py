"""The list of data sets."""

from __future__ import annotations

from pipeline.config.catalogue import CATALOGUE


def test_the_data_sets_that_a_study_file_can_name() -> None:
    assert tuple(CATALOGUE) == (
        *("mnist-5k", "mnist", "fashion-mnist", "kmnist", "qmnist"),
        *("emnist-balanced", "emnist-byclass", "emnist-bymerge", "emnist-digits", "emnist-letters", "emnist-mnist"),
        "usps",
    )
