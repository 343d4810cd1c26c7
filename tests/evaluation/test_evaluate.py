"""Metrics against independent code and hand-worked values, baselines against NumPy, and the panel."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import TypeAdapter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor

from pipeline import seeds
from pipeline.config import Degrade
from pipeline.data import Dataset, Split, load, sets
from pipeline.errors import ShapeError
from pipeline.evaluation import baselines, metrics, panel, scores
from pipeline.evaluation.batches import fixed_batches, threads
from pipeline.evaluation.panel import PANEL_SCALE

SECTION: TypeAdapter[Any] = TypeAdapter(Degrade)
GAUSSIAN = SECTION.validate_python({"kind": "gaussian", "sigma": 0.3})
HALVED = SECTION.validate_python({"kind": "downscale", "factor": 2})
METRICS = {name: getattr(metrics, name) for name in ("psnr", "ssim", "mse", "l1", "bce")}
PSNR_OF_EQUALS = 100.0


def pair(count: int = 6, height: int = 16, width: int = 20, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    """Restored images in [0, 1] and the clean ones they come from."""
    generator = Generator().manual_seed(0)
    clean = torch.rand(count, 1, height, width, generator=generator)
    restored = (clean + noise * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    return restored, clean


def flat(*levels: float, side: int = 12) -> Tensor:
    """One image of a single intensity a level."""
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 1, side, side).contiguous()


# --- Metrics -------------------------------------------------------------------------------------------------------

WINDOW = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
INDEPENDENT: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "psnr": lambda x, t: peak_signal_noise_ratio(t, x, data_range=1.0),
    "ssim": lambda x, t: structural_similarity(t, x, **WINDOW),
    "mse": lambda x, t: float(np.mean((x - t) ** 2)),
    "l1": lambda x, t: float(np.mean(np.abs(x - t))),
    "bce": lambda x, t: float(
        -np.mean(t * np.log(x.clip(1e-7, 1 - 1e-7)) + (1 - t) * np.log1p(-x.clip(1e-7, 1 - 1e-7)))
    ),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("strokes", [False, True], ids=["noise", "strokes"])
def test_metric_agrees_with_independent_code(metric: str, noise: float, strokes: bool) -> None:
    restored, clean = pair(noise=noise)
    if strokes:
        clean = sets.to_float(tiny.strokes(10, seed=7).images)
        restored = (clean + noise * torch.randn(clean.shape, generator=Generator().manual_seed(1))).clamp(0, 1)
    found = METRICS[metric](restored, clean)
    expected = [
        INDEPENDENT[metric](x[0].double().numpy(), t[0].double().numpy()) for x, t in zip(restored, clean, strict=True)
    ]
    assert found.shape == (len(clean),)
    # In single precision 1 - 1e-7 is 1 - 1.19e-7: where black is restored white, bce differs in the third digit.
    assert np.allclose(found.numpy(), expected, rtol=2e-2 if metric == "bce" else 1e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("metric", "restored", "clean", "value"),
    [
        ("psnr", 0.6, 0.5, 20.0),
        ("psnr", 0.51, 0.5, 40.0),
        ("psnr", 1.0, 0.0, 0.0),
        ("psnr", 0.5, 0.5, PSNR_OF_EQUALS),
        ("psnr", 1.5, 1.0, PSNR_OF_EQUALS),  # clamped first
        ("psnr", -2.0, 0.5, -10 * math.log10(0.25)),
        ("mse", 0.7, 0.5, 0.04),
        ("mse", 3.0, 0.5, 0.25),
        ("l1", 0.7, 0.5, 0.2),
        ("l1", -3.0, 0.5, 0.5),
        ("bce", 0.5, 0.3, math.log(2)),
        ("bce", 0.25, 1.0, math.log(4)),
        ("bce", 0.25, 0.5, -0.5 * (math.log(0.25) + math.log(0.75))),
        ("bce", 0.0, 0.0, 0.0),
        ("bce", 1.0, 1.0, 0.0),
        ("bce", 0.0, 1.0, -math.log(1e-7)),
        ("ssim", 0.5, 0.5, 1.0),
        ("ssim", 0.0, 1.0, 1e-4 / (1 + 1e-4)),  # flat images: (2 ab + c1) / (a^2 + b^2 + c1)
        ("ssim", 0.2, 0.4, (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)),
        ("ssim", 7.0, 1.0, 1.0),
    ],
)
def test_metric_of_flat_images_by_hand(metric: str, restored: float, clean: float, value: float) -> None:
    assert METRICS[metric](flat(restored), flat(clean)).item() == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("level", "nats"),
    [(0.0, 0.0), (1.0, 0.0), (0.5, math.log(2)), (0.25, -0.25 * math.log(0.25) - 0.75 * math.log(0.75))],
)
def test_entropy_by_hand(level: float, nats: float) -> None:
    assert metrics.entropy(flat(level)).item() == pytest.approx(nats, abs=1e-6)


def test_gradient_energy_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert metrics.gradient_energy(image).item() == pytest.approx(1 + 0 + 0.25 + 0.25)
    assert metrics.gradient_energy(flat(0.7)).item() == 0


@pytest.mark.parametrize("metric", METRICS)
def test_one_figure_an_image_whatever_its_batch(metric: str) -> None:
    restored, clean = pair()
    whole = METRICS[metric](restored, clean)
    alone = torch.cat([METRICS[metric](x[None], t[None]) for x, t in zip(restored, clean, strict=True)])
    assert torch.allclose(whole, alone, rtol=1e-6)
    assert len(whole.unique()) == len(clean)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("restored", "clean", "words"),
    [
        ((2, 1, 12, 12), (2, 1, 12, 13), "12, 13"),
        ((2, 1, 12, 12), (3, 1, 12, 12), "differ"),
        ((0, 1, 12, 12), (0, 1, 12, 12), "no image"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    metric: str, restored: tuple[int, ...], clean: tuple[int, ...], words: str
) -> None:
    def measure() -> Tensor:
        return METRICS[metric](torch.zeros(restored), torch.zeros(clean))

    if restored == clean:
        with pytest.raises(ShapeError, match=words):
            measure()
    else:  # the annotations see it first where they are checked, as in these tests
        with pytest.raises((ShapeError, TypeError)):
            measure()
        with pytest.raises(ShapeError, match=words):
            metrics._check(torch.zeros(restored), torch.zeros(clean))


@pytest.mark.parametrize("size", [(10, 20), (20, 10), (1, 1)])
def test_ssim_needs_a_whole_window(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="11 x 11"):
        metrics.ssim(torch.zeros(1, 1, *size), torch.zeros(1, 1, *size))
    assert metrics.ssim(torch.zeros(1, 1, 11, 11), torch.zeros(1, 1, 11, 11)).item() == 1


IMAGES = hnp.arrays(np.float32, (2, 1, 12, 13), elements=st.floats(0, 1, width=32))


@settings(max_examples=50, deadline=None)
@given(restored=IMAGES, clean=IMAGES)
def test_metrics_keep_to_their_bounds(restored: np.ndarray, clean: np.ndarray) -> None:
    x, t = torch.from_numpy(restored), torch.from_numpy(clean)
    values = {name: metric(x, t) for name, metric in METRICS.items()}
    assert all(value.isfinite().all() for value in values.values())
    assert (values["bce"] >= metrics.entropy(t) - 1e-5).all()
    assert (values["ssim"] <= 1 + 1e-5).all()
    assert (values["ssim"] >= -1 - 1e-5).all()
    assert (values["mse"] <= values["l1"] + 1e-6).all()  # errors are at most 1
    assert (values["mse"] >= values["l1"].square() - 1e-6).all()
    assert (values["psnr"] <= PSNR_OF_EQUALS + 1e-4).all()
    for name in ("psnr", "ssim", "mse", "l1"):
        assert torch.allclose(values[name], METRICS[name](t, x), atol=1e-4), name


@settings(max_examples=50, deadline=None)
@given(clean=IMAGES)
def test_metrics_of_equal_images(clean: np.ndarray) -> None:
    t = torch.from_numpy(clean)
    assert (metrics.psnr(t, t) == PSNR_OF_EQUALS).all()
    assert torch.allclose(metrics.ssim(t, t), torch.ones(2), atol=1e-5)
    assert (metrics.mse(t, t) == 0).all()
    assert (metrics.l1(t, t) == 0).all()
    assert torch.allclose(metrics.bce(t, t), metrics.entropy(t), atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), noise=st.floats(0.01, 0.4))
def test_more_noise_is_worse(seed: int, noise: float) -> None:
    generator = Generator().manual_seed(seed)
    clean = 0.25 + 0.5 * torch.rand(4, 1, 24, 24, generator=generator)
    error = torch.randn(clean.shape, generator=generator)
    less, more = (clean + noise * error, clean + 1.5 * noise * error)
    assert (metrics.psnr(less, clean) > metrics.psnr(more, clean)).all()
    assert (metrics.ssim(less, clean) > metrics.ssim(more, clean)).all()
    assert (metrics.l1(less, clean) < metrics.l1(more, clean)).all()


# --- Scores of a split ---------------------------------------------------------------------------------------------


def test_summary_is_the_mean_over_images_of_all_batches() -> None:
    restored, clean = pair(count=7)
    batches = [slice(0, 3), slice(3, 4), slice(4, 7)]
    summary = scores.score((restored[batch], clean[batch]) for batch in batches).summary()
    for name, metric in METRICS.items():
        assert summary[name] == pytest.approx(metric(restored, clean).double().mean().item(), rel=1e-6)
    assert summary["bce_excess"] == pytest.approx(summary["bce"] - metrics.entropy(clean).mean().item(), rel=1e-4)
    pooled = -10 * math.log10(metrics.mse(restored, clean).mean().item())
    assert summary["psnr"] != pytest.approx(pooled, rel=1e-6)  # which is another number


def test_what_is_restored_out_of_range_is_clamped_for_every_figure() -> None:
    restored, clean = pair()
    wild = torch.where(restored > 0.9, restored + 5, torch.where(restored < 0.1, restored - 5, restored))
    expected = torch.where(restored > 0.9, 1.0, torch.where(restored < 0.1, 0.0, restored))
    summaries = [scores.score(iter([(x, clean)])).summary() for x in (wild, expected)]
    assert summaries[0] == summaries[1]


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(ShapeError, match="no image"):
        scores.score(iter([]))


@pytest.mark.parametrize(
    ("change", "low", "high"),
    [
        (lambda x: x, 1, 1),
        (lambda x: torch.nn.functional.avg_pool2d(x, 3, 1, 1), 0, 0.9),
        (lambda x: x + 0.3 * torch.randn(x.shape, generator=Generator().manual_seed(0)), 1.1, 100),
        (lambda x: x * 0 + 0.5, 0, 0),
    ],
    ids=["equal", "blurred", "noisy", "flat"],
)
def test_sharpness_is_1_when_right_lower_for_blur_higher_for_noise(
    change: Callable[[Tensor], Tensor], low: float, high: float
) -> None:
    clean = sets.to_float(tiny.strokes(10, seed=8).images)
    assert low <= scores.score(iter([(change(clean), clean)])).summary()["sharpness"] <= high


def test_sharpness_of_flat_images_is_undefined() -> None:
    assert math.isnan(scores.score(iter([(flat(0.5), flat(0.2))])).summary()["sharpness"])


@pytest.fixture
def seen(tiny_data: Path) -> Dataset:
    return load(tiny.NAME, tiny_data)


def test_every_trial_is_judged_under_the_same_noise(seen: Dataset) -> None:
    def mean(purpose: str) -> float:
        torch.manual_seed(torch.seed() % 2**31)
        return scores.evaluate(lambda x: x, seen.val, GAUSSIAN, purpose).summary()["psnr"]

    assert mean("val") == mean("val")
    assert mean("val") != mean("select")


def test_large_splits_are_scored_in_batches_with_new_noise_each() -> None:
    split = Split(torch.full((600, 1, 12, 12), 128, dtype=torch.uint8), torch.zeros(600, dtype=torch.int64))
    batches = list(fixed_batches(split, GAUSSIAN, "val"))
    assert sum(len(clean) for _, clean in batches) == 600
    assert len(batches) > 1
    assert not torch.equal(batches[0][0][0], batches[1][0][0])
    assert len(scores.evaluate(lambda x: x, split, GAUSSIAN, "val").psnr) == 600


def test_intensities_are_scaled_to_0_to_1() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = sets.to_float(images)
    assert (floats.min(), floats.max(), floats.dtype) == (0, 1, torch.float32)
    assert torch.equal((floats * 255).round().to(torch.uint8), images)
    assert images.max() == 255


def test_seeds_are_stable_and_distinct() -> None:
    places = [
        (seed, number, replicate, epoch)
        for seed in (0, 1)
        for number in (0, 1, 2)
        for replicate in (0, 1)
        for epoch in range(4)
    ]
    parts = [(*place, purpose) for place in places for purpose in ("weights", "dropout", "shuffle", "noise")]
    found = [seeds.derive_seed(*part) for part in [*parts, ("val",), ("select",), ("test",), ("baseline",)]]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**63 for seed in found)
    # numpy.random.SeedSequence(0).generate_state(1, np.uint64)[0] is 15793235383387715774, by NumPy's documentation
    # the same in every version.
    assert seeds.derive_seed(0) == 15793235383387715774 >> 1


# --- Baselines -----------------------------------------------------------------------------------------------------


def blobs(count: int, seed: int, side: int = 12) -> Split:
    """Smooth images, so that there is something for a linear map to learn."""
    rough = torch.rand(count, 1, 4, 4, generator=Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, size=side, mode="bilinear")
    return Split((smooth * 255).to(torch.uint8), torch.arange(count) % 10)


@pytest.fixture
def smooth() -> Dataset:
    return Dataset("smooth", "0", blobs(600, 1), blobs(40, 2), blobs(40, 3), 0)


@pytest.mark.parametrize("how", [GAUSSIAN, HALVED], ids=lambda how: how.kind)
def test_linear_baseline_is_the_least_squares_map(smooth: Dataset, how: Any) -> None:
    batches = list(fixed_batches(smooth.train, how, "baseline"))
    x = torch.cat([degraded for degraded, _ in batches]).flatten(1).double().numpy()
    y = torch.cat([clean for _, clean in batches]).flatten(1).double().numpy()
    weights, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)
    restore = baselines.baseline("linear", smooth, how)
    for degraded, clean in fixed_batches(smooth.val, how, "val"):
        inputs = degraded.flatten(1).double().numpy()
        expected = (np.column_stack([inputs, np.ones(len(inputs))]) @ weights).clip(0, 1)
        restored = restore(degraded)
        assert restored.shape == clean.shape
        assert np.allclose(restored.flatten(1).numpy(), expected, atol=2e-3)


def test_linear_baseline_stands_pixels_that_never_vary(seen: Dataset) -> None:
    restore = baselines.baseline("linear", seen, HALVED)
    found = scores.evaluate(restore, seen.val, HALVED, "val")
    assert found.psnr.isfinite().all()


@pytest.mark.parametrize(
    ("how", "names"), [(GAUSSIAN, ["degraded", "linear"]), (HALVED, ["bicubic", "linear"])], ids=["noise", "downscale"]
)
def test_the_linear_baseline_beats_the_trivial_one(smooth: Dataset, how: Any, names: list[str]) -> None:
    assert baselines.baseline_names(how, smooth.image_size) == names
    trivial, linear = (
        scores.evaluate(baselines.baseline(name, smooth, how), smooth.val, how, "val").summary()["psnr"]
        for name in names
    )
    assert linear > trivial + 1


def test_trivial_baselines(smooth: Dataset) -> None:
    noisy = torch.rand(2, 1, 12, 12, generator=Generator().manual_seed(0)) * 2 - 0.5
    assert torch.equal(baselines.baseline("degraded", smooth, GAUSSIAN)(noisy), noisy.clamp(0, 1))
    small = torch.rand(2, 1, 6, 6, generator=Generator().manual_seed(0))
    enlarged = torch.nn.functional.interpolate(small, size=(12, 12), mode="bicubic").clamp(0, 1)
    assert torch.equal(baselines.baseline("bicubic", smooth, HALVED)(small), enlarged)


@pytest.mark.parametrize("how", [GAUSSIAN, HALVED], ids=lambda how: how.kind)
def test_baselines_are_scored_like_trials_whatever_the_threads(how: Any, tiny_data: Path) -> None:
    for name in baselines.baseline_names(how, (tiny.SIDE, tiny.SIDE)):
        with threads(1):
            figures, picture = baselines.baseline_scores(name, tiny.NAME, how, tiny_data)
        with threads(2):
            again, same_picture = baselines.baseline_scores(name, tiny.NAME, how, tiny_data)
            assert torch.get_num_threads() == 2
        assert figures == again
        assert {f"val/{metric}" for metric in METRICS} <= figures.keys()
        assert np.array_equal(picture, same_picture)


# --- The panel -----------------------------------------------------------------------------------------------------


def labelled(*labels: int) -> Split:
    """Images that can be told apart by their grey, in the labels' order."""
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
        (tuple(range(9, -1, -1)) * 3, tuple(range(9, -1, -1))),  # the first of each, in the classes' order
        ((0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 1, 2), (0, 1, 2, 9, 3, 4, 5, 6, 7, 8)),  # three classes, in turn
        ((7,) * 25, tuple(range(10))),
        ((7,) * 3, (0, 1, 2)),
        ((3, 1, 2), (1, 2, 0)),
        ((0,) + (1,) * 20, (0, *range(1, 10))),  # a class that runs out leaves its turns to the others
        (tuple(range(20)), (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)),
        (tuple(range(47)), (0, 4, 9, 14, 18, 23, 28, 32, 37, 42)),
    ],
    ids=["ten", "three", "one", "one of three", "few", "uneven", "twenty", "forty-seven"],
)
def test_panel_spreads_over_the_classes(labels: tuple[int, ...], chosen: tuple[int, ...]) -> None:
    split = labelled(*labels)
    assert panel.panel_indices(split) == chosen
    shown = panel.panel(lambda x: x, split, GAUSSIAN, "val")
    assert shown.shape == (4 * 8 * PANEL_SCALE, len(chosen) * 7 * PANEL_SCALE)
    assert [tile(shown, 0, column)[0, 0] for column in range(len(chosen))] == split.images[
        list(chosen), 0, 0, 0
    ].tolist()


def test_panel_shows_clean_degraded_restored_and_error() -> None:
    split = labelled(*range(10), *range(10))
    shown = panel.panel(lambda x: torch.full_like(x, 0.25), split, GAUSSIAN, "val")
    [(degraded, clean)] = fixed_batches(split, GAUSSIAN, "val")
    assert shown.dtype == np.uint8
    for column in range(10):
        rows = [clean[column], degraded[column], torch.tensor(0.25), (0.25 - clean[column]).abs()]
        for row, image in enumerate(rows):
            expected = (image * 255).round().expand(1, 6, 5)[0].numpy()
            assert np.array_equal(tile(shown, row, column), expected)


def test_panel_has_the_noise_that_is_scored_in_whatever_batch_its_images_lie() -> None:
    split = labelled(*([0] * 300), *range(1, 10))
    shown = panel.panel(lambda x: x, split, GAUSSIAN, "val")
    degraded = torch.cat([noisy for noisy, _ in fixed_batches(split, GAUSSIAN, "val")])
    for column, index in enumerate(panel.panel_indices(split)):
        assert np.array_equal(tile(shown, 1, column), (degraded[index, 0] * 255).round().numpy())


def test_panel_shows_small_inputs_pixel_by_pixel() -> None:
    split = tiny.strokes(12, seed=9)
    shown = panel.panel(lambda x: scores.upscale(x, (16, 16)), split, HALVED, "val")
    size = (4 * (tiny.SIDE + 2) * PANEL_SCALE, 10 * (tiny.SIDE + 2) * PANEL_SCALE)
    assert shown.shape == size
    small = tile(shown, 1, 0, 16, 16)
    assert np.array_equal(small, small[::2, ::2].repeat(2, 0).repeat(2, 1))


def test_panel_is_the_same_every_time_and_differs_by_restoration(seen: Dataset) -> None:
    first, again, other = (
        panel.panel(restore, seen.val, GAUSSIAN, "val") for restore in (lambda x: x, lambda x: x, lambda x: x * 0.5)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    half = len(first) // 2
    assert np.array_equal(first[:half], other[:half])  # clean and degraded rows compare between trials


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert torch.get_num_threads() == before
