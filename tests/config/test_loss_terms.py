"""The training loss as text in a study file: one loss or a weighted sum."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import TrainConfig
from pipeline.config.choices import LOSSES, parse_loss

NAMES = st.lists(st.sampled_from(LOSSES), min_size=1, unique=True)
WEIGHTS = st.floats(1e-6, 1e6).map(lambda weight: f"{weight:.6g}".replace("e+", "e")) | st.integers(1, 10**6).map(str)


@given(names=NAMES, data=st.data())
def test_a_sum_is_read_in_the_order_it_is_written(names: list[str], data: st.DataObject) -> None:
    weights = [data.draw(st.none() | WEIGHTS) for _ in names]
    text = " + ".join(
        name if weight is None else f"{weight} {name}" for name, weight in zip(names, weights, strict=True)
    )
    expected = {name: 1.0 if weight is None else float(weight) for name, weight in zip(names, weights, strict=True)}
    found = parse_loss(text)
    assert found == expected
    assert list(found) == names
    assert TrainConfig(loss=text).loss == text


@given(st.text() | st.text("bce ms+0.12l", max_size=12) | NAMES.map(lambda names: "+".join(names)))
@example("bce")
@example("")
@example(" + ")
@example("1e400 bce")
def test_any_text_is_a_loss_or_is_refused_in_one_line(text: str) -> None:
    refusal, weights = None, {}
    try:
        weights = parse_loss(text)
    except ValueError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.isprintable()
        assert len(refusal) < 400
        with pytest.raises(ValidationError):
            TrainConfig(loss=text)
        return
    assert weights.keys() <= set(LOSSES)
    assert all(0 < weight <= 1e6 for weight in weights.values())
    assert TrainConfig(loss=text).loss == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bec", ["'bec'", "did you mean 'bce'", "smooth_l1"]),
        ("bce + 0.2 sim", ["'sim'", "did you mean 'ssim'"]),
        ("bce + 0.2 bce", ["bce occurs twice"]),
        ("bce + 0 ssim", ["weight of ssim", "above 0"]),
        ("bce - 0.2 ssim", ["bce - 0.2 ssim", "'bce + 0.2 ssim'"]),
        ("bce+ssim", ["'bce+ssim'", "'bce + 0.2 ssim'"]),
        ("bce + ", ["''"]),
        ("bce  +  ssim", ["'bce '"]),
        ("0.2ssim", ["'0.2ssim'"]),
        ("nan bce", ["'nan bce'"]),
        ("1e400 bce", ["weight of bce", "1e6"]),
        ("٣ bce", ["'٣ bce'"]),  # a digit, which Python's float would take
        ("x" * 10_000, ["xxx…"]),
    ],
)
def test_a_malformed_loss_is_refused_with_the_reason(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        parse_loss(text)
    for word in words:
        assert word in str(error.value)
