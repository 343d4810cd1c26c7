"""The panel: which images it shows, and in which form."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from pipeline.config.trial import Downscale, Gaussian
from pipeline.data import Dataset, Split
from pipeline.data.degrade import upscale
from pipeline.evaluation.batches import fixed_batches
from pipeline.evaluation.panel import PANEL_SCALE, labelled, panel, panel_indices, panel_title, tiles

GAUSSIAN = Gaussian(kind="gaussian", sigma=0.3)
HALVED = Downscale(kind="downscale", factor=2)


def of_classes(*labels: int) -> Split:
    """Images with different greys, in the order of the labels."""
    greys = torch.arange(len(labels), dtype=torch.uint8) * (250 // len(labels))
    return Split(greys.reshape(-1, 1, 1, 1).expand(-1, 1, 6, 5).contiguous(), torch.tensor(labels))


def tile(panel: np.ndarray, row: int, column: int, height: int = 6, width: int = 5) -> np.ndarray:
    """One picture of the panel at its own size, without the frame."""
    small = panel[::PANEL_SCALE, ::PANEL_SCALE]
    top, left = row * (height + 2) + 1, column * (width + 2) + 1
    return small[top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        (tuple(range(9, -1, -1)) * 3, tuple(range(9, -1, -1))),  # the first of each, in the order of the classes
        ((0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2), (0, 1, 2, 9, 3, 4, 5, 6, 7, 8)),  # three classes, in turn
        ((7,) * 25, tuple(range(10))),
        ((7,) * 3, (0, 1, 2)),
        ((3, 1, 2), (1, 2, 0)),
        ((0,) + (1,) * 20, (0, *range(1, 10))),  # after its last image a class is skipped
        (tuple(range(20)), (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)),
        (tuple(range(47)), (0, 4, 9, 14, 18, 23, 28, 32, 37, 42)),
    ],
    ids=["ten", "three", "one", "one of three", "few", "uneven", "twenty", "forty-seven"],
)
def test_the_panel_covers_the_classes(labels: tuple[int, ...], chosen: tuple[int, ...]) -> None:
    split = of_classes(*labels)
    assert panel_indices(split) == chosen
    shown = panel(lambda x: x, split, GAUSSIAN, "val")
    assert shown.shape == (4 * 8 * PANEL_SCALE, len(chosen) * 7 * PANEL_SCALE)
    assert [tile(shown, 0, column)[0, 0] for column in range(len(chosen))] == split.images[
        list(chosen), 0, 0, 0
    ].tolist()


def test_the_panel_shows_clean_degraded_restored_and_error() -> None:
    split = of_classes(*range(10), *range(10))
    shown = panel(lambda x: torch.full_like(x, 0.25), split, GAUSSIAN, "val")
    [(degraded, clean)] = fixed_batches(split, GAUSSIAN, "val")
    assert shown.dtype == np.uint8
    for column in range(10):
        rows = [clean[column], degraded[column], torch.tensor(0.25), (0.25 - clean[column]).abs()]
        for row, image in enumerate(rows):
            expected = (image * 255).round().expand(1, 6, 5)[0].numpy()
            assert np.array_equal(tile(shown, row, column), expected)


def test_the_panel_has_the_noise_that_is_scored_whatever_batch_its_images_are_in() -> None:
    split = of_classes(*([0] * 300), *range(1, 10))
    shown = panel(lambda x: x, split, GAUSSIAN, "val")
    degraded = torch.cat([noisy for noisy, _ in fixed_batches(split, GAUSSIAN, "val")])
    for column, index in enumerate(panel_indices(split)):
        assert np.array_equal(tile(shown, 1, column), (degraded[index, 0] * 255).round().numpy())


def test_the_panel_shows_small_inputs_pixel_by_pixel() -> None:
    split = tiny.strokes(12, seed=9)
    shown = panel(lambda x: upscale(x, (16, 16)), split, HALVED, "val")
    size = (4 * (tiny.SIDE + 2) * PANEL_SCALE, 10 * (tiny.SIDE + 2) * PANEL_SCALE)
    assert shown.shape == size
    small = tile(shown, 1, 0, 16, 16)
    assert np.array_equal(small, small[::2, ::2].repeat(2, 0).repeat(2, 1))


def test_the_panel_is_the_same_every_time_and_differs_by_restoration(seen: Dataset) -> None:
    first, again, other = (
        panel(restore, seen.val, GAUSSIAN, "val") for restore in (lambda x: x, lambda x: x, lambda x: x * 0.5)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    half = len(first) // 2
    assert np.array_equal(first[:half], other[:half])  # clean and degraded rows compare between trials


def hand_built(columns: int) -> np.ndarray:
    """A panel whose rows are 0, 50, 100 … 190 and 250; each restored image has a grey of its own."""
    panel = np.repeat(np.array([0, 50, 100, 250], np.uint8), 2)[:, None].repeat(columns * 3, 1)
    panel[4:6] = np.arange(100, 100 + 10 * columns, 10, dtype=np.uint8).repeat(3)
    return panel


def test_tiles_are_the_restored_images_in_rows_of_four() -> None:
    expected = [[100, 110, 120, 130], [140, 150, 160, 170], [180, 190, 128, 128]]
    assert np.array_equal(tiles(hand_built(10)), np.array(expected, np.uint8).repeat(2, 0).repeat(3, 1))
    assert np.array_equal(tiles(hand_built(3), 3)[::2, ::3], [[100, 110, 120, 128]])


@pytest.mark.parametrize("columns", [2, 10, 300])
def test_a_labelled_panel_holds_the_panel_unchanged_and_is_the_same_every_time(columns: int) -> None:
    panel = hand_built(columns).repeat(30, 0)
    picture = labelled(panel, "trial-0001 of study · epoch 2 · psnr 18.12 dB")
    assert np.array_equal(picture, labelled(panel, "trial-0001 of study · epoch 2 · psnr 18.12 dB"))
    assert not np.array_equal(picture, labelled(panel, "trial-0002 of study · epoch 2 · psnr 18.12 dB"))
    top, left = len(picture) - len(panel), np.flatnonzero((picture[-1] == 250).all(1))[0]
    assert np.array_equal(picture[top:, left : left + panel.shape[1]], np.stack([panel] * 3, -1))
    for row in np.split(picture[top:, :left], 4):
        assert row.min() < 100, "each row has its name"
    assert (picture[:top].min(0) < 100).any()
    outside = picture.copy()
    outside[top:, left : left + panel.shape[1]] = 255
    assert (outside[[0, -1]] == 255).all(), "no text is cut off"
    assert (outside[:, [0, -1]] == 255).all()


def test_the_title_names_run_study_epoch_and_figures() -> None:
    metrics = {"val/psnr": 18.116, "val/ssim": 0.77314, "val/bce": 0.1, "train/loss": 0.2}
    assert panel_title("trial-0011", "quick", metrics, 12) == (
        "trial-0011 of quick · epoch 12 · psnr 18.12 dB · ssim 0.7731"
    )
    assert panel_title("baseline-linear", "quick", metrics | {"val/class_kept": 0.9481}) == (
        "baseline-linear of quick · psnr 18.12 dB · ssim 0.7731 · class_kept 0.948"
    )
