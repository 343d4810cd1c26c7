"""Degradations against theory: the statistics of each noise, downscaling against independent code, determinism."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter
from scipy import stats
from skimage.transform import downscale_local_mean
from torch import Generator, Tensor

from pipeline.config import Degrade, Downscale
from pipeline.data.degrade import degrade, input_size, upscale
from pipeline.data.sets import to_float
from pipeline.errors import DataError

SECTION: TypeAdapter[Any] = TypeAdapter(Degrade)
PIXELS = 400 * 500
NOISES = [
    {"kind": "gaussian", "sigma": 0.3},
    {"kind": "speckle", "sigma": 0.3},
    {"kind": "salt_pepper", "prob": 0.3},
    {"kind": "masking", "prob": 0.3},
    {"kind": "poisson", "peak": 8.0},
]
DOWNSCALES = [{"kind": "downscale", "factor": 2, "method": method} for method in ("area", "bicubic")]
kinds = pytest.mark.parametrize("how", NOISES + DOWNSCALES, ids=lambda how: f"{how['kind']}{how.get('method', '')}")


def grey(level: float) -> Tensor:
    """One large image of a single intensity."""
    return torch.full((1, 1, 400, 500), level)


def apply(clean: Tensor, how: dict[str, Any], seed: int = 0) -> Tensor:
    return degrade(clean, SECTION.validate_python(how), Generator().manual_seed(seed))


def assert_moments(sample: Tensor, mean: float, deviation: float) -> None:
    """Mean and standard deviation are within five standard errors of the theory's (for a kurtosis up to 6)."""
    assert sample.mean().item() == pytest.approx(mean, abs=5 * deviation / math.sqrt(PIXELS) + 1e-6)
    assert sample.std().item() == pytest.approx(deviation, rel=5 * math.sqrt(5 / 4 / PIXELS))


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_gaussian_noise_is_normal_white_and_independent_of_the_image(sigma: float, level: float) -> None:
    noise = apply(grey(level), {"kind": "gaussian", "sigma": sigma, "clip": False}) - level
    assert_moments(noise, 0, sigma)
    assert stats.kstest(noise.flatten().numpy()[:20_000] / sigma, "norm").pvalue > 1e-4
    across = (noise[..., 1:] * noise[..., :-1]).mean().item() / sigma**2
    assert abs(across) < 5 / math.sqrt(PIXELS)


@pytest.mark.parametrize("level", [0.0, 0.25, 1.0])
def test_speckle_grows_with_the_intensity(level: float) -> None:
    noisy = apply(grey(level), {"kind": "speckle", "sigma": 0.4, "clip": False})
    assert_moments(noisy, level, 0.4 * level)


@pytest.mark.parametrize("prob", [0.1, 0.7, 1.0])
def test_salt_and_pepper_are_equally_frequent_and_change_no_other_pixel(prob: float) -> None:
    noisy = apply(grey(0.4), {"kind": "salt_pepper", "prob": prob})
    shares = [(noisy == value).float().mean().item() for value in (0.0, 1.0, torch.tensor(0.4).item())]
    for share, expected in zip(shares, (prob / 2, prob / 2, 1 - prob), strict=True):
        assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / PIXELS))
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize("prob", [0.1, 0.7, 1.0])
def test_masking_blackens_its_share_and_changes_no_other_pixel(prob: float) -> None:
    noisy = apply(grey(0.4), {"kind": "masking", "prob": prob})
    assert set(noisy.unique().tolist()) <= {0.0, torch.tensor(0.4).item()}
    share = (noisy == 0).float().mean().item()
    assert share == pytest.approx(prob, abs=5 * math.sqrt(prob * (1 - prob) / PIXELS))


@pytest.mark.parametrize("peak", [1.0, 20.0, 500.0])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_poisson_counts_photons(peak: float, level: float) -> None:
    noisy = apply(grey(level), {"kind": "poisson", "peak": peak, "clip": False})
    assert_moments(noisy, level, math.sqrt(level / peak))
    counts = noisy * peak
    assert torch.allclose(counts, counts.round(), atol=1e-3)


@pytest.mark.parametrize(
    "how", [how for how in NOISES if how["kind"] in ("gaussian", "speckle", "poisson")], ids=lambda how: how["kind"]
)
def test_clip_limits_the_range_and_changes_nothing_inside_it(how: dict[str, Any]) -> None:
    clean = torch.linspace(0, 1, 10_000).reshape(1, 1, 100, 100)
    free, clipped = apply(clean, {**how, "clip": False}), apply(clean, {**how, "clip": True})
    assert free.max() > 1
    assert torch.equal(clipped, free.clamp(0, 1))
    assert torch.equal(clipped, apply(clean, how))  # clip is the default


@kinds
def test_only_the_generator_decides_the_noise(how: dict[str, Any]) -> None:
    clean = to_float(tiny.strokes(20, seed=5).images)
    kept = clean.clone()
    first = apply(clean, how, seed=1)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert torch.equal(first, apply(clean, how, seed=1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(clean, kept)
    assert first.dtype == torch.float32
    assert torch.equal(first, apply(clean, how, seed=2)) == (how["kind"] == "downscale")


@pytest.mark.parametrize("how", NOISES, ids=lambda how: how["kind"])
def test_consecutive_batches_and_images_differ(how: dict[str, Any]) -> None:
    section, generator = SECTION.validate_python(how), Generator().manual_seed(0)
    clean = torch.full((2, 1, 16, 16), 0.5)
    first, second = degrade(clean, section, generator), degrade(clean, section, generator)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@kinds
def test_the_result_has_the_size_of_input_size_and_lies_in_0_to_1(how: dict[str, Any]) -> None:
    clean = torch.rand(3, 1, 12, 20, generator=Generator().manual_seed(0))
    degraded = apply(clean, how)
    assert degraded.shape == (3, 1, *input_size((12, 20), SECTION.validate_python(how)))
    assert degraded.min() >= 0
    assert degraded.max() <= 1


SIZES = pytest.mark.parametrize(("height", "width", "factor"), [(28, 28, 2), (28, 28, 4), (12, 18, 3), (8, 24, 8)])


@SIZES
def test_area_downscale_is_the_mean_of_blocks(height: int, width: int, factor: int) -> None:
    clean = torch.rand(2, 1, height, width, generator=Generator().manual_seed(1))
    small = apply(clean, {"kind": "downscale", "factor": factor})  # area is the default
    expected = clean.numpy().reshape(2, 1, height // factor, factor, width // factor, factor).mean((3, 5))
    assert np.allclose(small.numpy(), expected, atol=1e-6)
    assert np.allclose(small[0, 0].numpy(), downscale_local_mean(clean[0, 0].numpy(), (factor, factor)), atol=1e-6)


@SIZES
def test_bicubic_downscale_equals_that_of_pillow(height: int, width: int, factor: int) -> None:
    clean = torch.rand(2, 1, height, width, generator=Generator().manual_seed(1))
    small = apply(clean, {"kind": "downscale", "factor": factor, "method": "bicubic"})
    size = (width // factor, height // factor)
    for image, found in zip(clean, small, strict=True):
        expected = Image.fromarray(image[0].numpy()).resize(size, Image.Resampling.BICUBIC)
        assert np.allclose(found[0].numpy(), np.clip(np.asarray(expected), 0, 1), atol=1e-5)


def test_bicubic_downscale_stays_in_0_to_1() -> None:
    edges = torch.zeros(1, 1, 16, 16)
    edges[..., 6:] = 1  # a step, at which a cubic overshoots
    small = apply(edges, {"kind": "downscale", "factor": 4, "method": "bicubic"})
    assert small.min() == 0
    assert small.max() == 1


@pytest.mark.parametrize("method", ["area", "bicubic"])
@pytest.mark.parametrize(
    ("size", "factor", "allowed"), [((28, 28), 3, "2, 4, 7, 14, 28"), ((28, 21), 2, "7"), ((7, 9), 2, "none")]
)
def test_a_factor_that_does_not_divide_the_sides_is_refused(
    size: tuple[int, int], factor: int, allowed: str, method: str
) -> None:
    how = {"kind": "downscale", "factor": factor, "method": method}
    for attempt in (
        lambda: input_size(size, Downscale.model_validate(how)),
        lambda: apply(torch.zeros(1, 1, *size), how),
    ):
        with pytest.raises(DataError) as error:
            attempt()
        for word in ("degrade", f"factor = {factor}", f"{size[0]} x {size[1]}", f"allowed: {allowed}"):
            assert word in str(error.value)


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), factor=st.integers(2, 64))
def test_a_size_is_divided_or_refused(height: int, width: int, factor: int) -> None:
    how = Downscale(kind="downscale", factor=factor)
    if height % factor or width % factor:
        with pytest.raises(DataError):
            input_size((height, width), how)
    else:
        assert input_size((height, width), how) == (height // factor, width // factor)


def test_noise_does_not_change_the_size() -> None:
    assert input_size((7, 9), SECTION.validate_python(NOISES[0])) == (7, 9)


@pytest.mark.parametrize("method", ["bicubic", "nearest"])
def test_enlarging_keeps_shape_range_and_flat_images(method: str) -> None:
    small = torch.rand(3, 1, 4, 6, generator=Generator().manual_seed(0)).round()
    large = upscale(small, (12, 18), method)
    assert large.shape == (3, 1, 12, 18)
    assert large.min() >= 0
    assert large.max() <= 1
    assert torch.allclose(upscale(torch.full((1, 1, 4, 6), 0.3), (12, 18), method), torch.full((1, 1, 12, 18), 0.3))
    if method == "nearest":
        assert torch.equal(large[..., ::3, ::3], small)


def test_images_that_have_the_size_are_only_clamped() -> None:
    assert upscale(torch.tensor([[[[-0.5, 0.25, 1.5]]]]), (1, 3)).flatten().tolist() == [0.0, 0.25, 1.0]
