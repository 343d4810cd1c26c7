"""Metrics against independent code and values worked out by hand, and the table that names them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from images import flat, pair
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Generator, Tensor

from pipeline.config.choices import METRICS
from pipeline.data.sets import to_float
from pipeline.errors import ShapeError
from pipeline.evaluation import metrics

ROOT = Path(__file__).parents[2]
FUNCTIONS = {name: getattr(metrics, name) for name in ("psnr", "ssim", "mse", "l1", "bce")}
PSNR_OF_EQUALS = 100.0
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


@pytest.mark.parametrize("metric", FUNCTIONS)
@pytest.mark.parametrize("noise", [0.01, 0.2, 1.0])
@pytest.mark.parametrize("strokes", [False, True], ids=["noise", "strokes"])
def test_a_metric_agrees_with_independent_code(metric: str, noise: float, strokes: bool) -> None:
    restored, clean = pair(noise=noise)
    if strokes:
        clean = to_float(tiny.strokes(10, seed=7).images)
        restored = (clean + noise * torch.randn(clean.shape, generator=Generator().manual_seed(1))).clamp(0, 1)
    found = FUNCTIONS[metric](restored, clean)
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
def test_a_metric_of_flat_images_agrees_with_a_value_worked_out_by_hand(
    metric: str, restored: float, clean: float, value: float
) -> None:
    assert FUNCTIONS[metric](flat(restored), flat(clean)).item() == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("level", "nats"),
    [(0.0, 0.0), (1.0, 0.0), (0.5, math.log(2)), (0.25, -0.25 * math.log(0.25) - 0.75 * math.log(0.75))],
)
def test_entropy_agrees_with_values_worked_out_by_hand(level: float, nats: float) -> None:
    assert metrics.entropy(flat(level)).item() == pytest.approx(nats, abs=1e-6)


def test_gradient_energy_agrees_with_values_worked_out_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [0.5, 0.5]]]])
    assert metrics.gradient_energy(image).item() == pytest.approx(1 + 0 + 0.25 + 0.25)
    assert metrics.gradient_energy(flat(0.7)).item() == 0


@pytest.mark.parametrize("metric", FUNCTIONS)
def test_one_value_per_image_whatever_its_batch(metric: str) -> None:
    restored, clean = pair()
    whole = FUNCTIONS[metric](restored, clean)
    alone = torch.cat([FUNCTIONS[metric](x[None], t[None]) for x, t in zip(restored, clean, strict=True)])
    assert torch.allclose(whole, alone, rtol=1e-6)
    assert len(whole.unique()) == len(clean)


@pytest.mark.parametrize("metric", FUNCTIONS)
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
        return FUNCTIONS[metric](torch.zeros(restored), torch.zeros(clean))

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
def test_metrics_stay_within_their_bounds(restored: np.ndarray, clean: np.ndarray) -> None:
    x, t = torch.from_numpy(restored), torch.from_numpy(clean)
    values = {name: metric(x, t) for name, metric in FUNCTIONS.items()}
    assert all(value.isfinite().all() for value in values.values())
    assert (values["bce"] >= metrics.entropy(t) - 1e-5).all()
    assert (values["ssim"] <= 1 + 1e-5).all()
    assert (values["ssim"] >= -1 - 1e-5).all()
    assert (values["mse"] <= values["l1"] + 1e-6).all()  # errors are at most 1
    assert (values["mse"] >= values["l1"].square() - 1e-6).all()
    assert (values["psnr"] <= PSNR_OF_EQUALS + 1e-4).all()
    for name in ("psnr", "ssim", "mse", "l1"):
        assert torch.allclose(values[name], FUNCTIONS[name](t, x), atol=1e-4), name


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


def glossary() -> dict[str, tuple[str, str]]:
    """Unit and direction of each ``val/…`` metric in the documentation's table; a row may hold several metrics."""
    header = "| metric | unit | better | meaning |"
    pages = [path.read_text() for path in (*ROOT.glob("README.md"), *ROOT.glob("studies/README.md"))]
    [page] = [page for page in pages if header in page]
    rows = page.partition(header)[2].split("\n\n")[0].splitlines()[2:]
    found: dict[str, tuple[str, str]] = {}
    for row in rows:
        names, units, better, _ = (cell.strip() for cell in row.strip().strip("|").split("|"))
        listed = [name.strip("`") for name in names.split(", ")]
        each = units.split(", ") if ", " in units else [units] * len(listed)
        found |= {name: (unit, better) for name, unit in zip(listed, each, strict=True)}
    return {name.removeprefix("val/"): entry for name, entry in found.items() if name.startswith("val/")}


def test_the_glossary_lists_exactly_the_metrics_with_unit_and_direction() -> None:
    assert glossary() == {name: (metric.unit, metric.better) for name, metric in METRICS.items()}


@pytest.mark.parametrize("name", METRICS)
def test_every_function_named_in_the_table_exists(name: str) -> None:
    for function in (*METRICS[name].columns, METRICS[name].summary):
        assert callable(getattr(metrics, function))
