"""The number of threads that a computation is held to."""

from __future__ import annotations

import pytest
import torch

from pipeline.evaluation.batches import threads


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert torch.get_num_threads() == before
