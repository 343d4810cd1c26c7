"""The number of threads of a computation."""

from __future__ import annotations

import pytest
import torch

from pipeline.evaluation.batches import threads


def test_the_number_of_threads_is_restored_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert torch.get_num_threads() == before
