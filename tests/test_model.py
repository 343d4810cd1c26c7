"""The autoencoders: widths, cost by hand, skip connections, shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn

from pipeline.config import ModelConfig
from pipeline.config.choices import ACTIVATIONS
from pipeline.model import Restorer, activation, build, cost, encoder_widths


def made(
    inputs: tuple[int, int] = (4, 4), outputs: tuple[int, int] | None = None, seed: int = 0, **settings: Any
) -> nn.Module:
    torch.manual_seed(seed)
    return build(ModelConfig.model_validate(settings), inputs, outputs or inputs)


def batch(height: int = 4, width: int = 4, count: int = 5) -> Tensor:
    return torch.rand(count, 1, height, width, generator=Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "inputs", "widths"),
    [
        ({"depth": 1, "bottleneck": 8}, 16, [8]),
        ({"depth": 2, "bottleneck": 8}, 16, [11, 8]),  # 16 / sqrt(2) = 11.3
        ({"depth": 2, "bottleneck": 1}, 16, [4, 1]),
        ({"depth": 3, "bottleneck": 98}, 784, [392, 196, 98]),
        ({"depth": 5, "bottleneck": 32}, 784, [414, 218, 115, 61, 32]),
        ({"depth": 5, "bottleneck": 32, "width": 512}, 784, [512, 256, 128, 64, 32]),  # the report's
        ({"depth": 2, "bottleneck": 128, "width": 256}, 196, [256, 128]),
        ({"depth": 1, "bottleneck": 8, "width": 512}, 16, [8]),  # no hidden layer to give the width to
        ({"depth": 3, "bottleneck": 400, "width": 4}, 16, [4, 40, 400]),
        ({"depth": 3, "bottleneck": 64, "width": 64}, 784, [64, 64, 64]),
    ],
)
def test_widths_change_geometrically(settings: dict[str, Any], inputs: int, widths: list[int]) -> None:
    assert encoder_widths(ModelConfig.model_validate(settings), inputs) == widths


@given(
    depth=st.integers(1, 8),
    bottleneck=st.integers(1, 4096),
    width=st.just("auto") | st.integers(1, 8192),
    inputs=st.integers(1, 4096),
)
def test_widths_lie_between_their_ends(depth: int, bottleneck: int, width: Any, inputs: int) -> None:
    widths = encoder_widths(ModelConfig(depth=depth, bottleneck=bottleneck, width=width), inputs)
    start = inputs if width == "auto" or depth == 1 else width
    assert len(widths) == depth
    assert widths[-1] == bottleneck
    assert widths in (sorted(widths), sorted(widths, reverse=True))
    assert all(min(start, bottleneck) <= w <= max(start, bottleneck) for w in widths)


@pytest.mark.parametrize("depth", range(1, 9))
@pytest.mark.parametrize("skip", [False, True])
def test_the_decoder_mirrors_the_encoder(depth: int, skip: bool) -> None:
    autoencoder = made((8, 8), depth=depth, bottleneck=4, skip=skip)
    layers = [layer for layer in autoencoder.modules() if isinstance(layer, nn.Linear)]
    widths = [layers[0].in_features, *(layer.out_features for layer in layers)]
    assert len(layers) == 2 * depth
    assert widths == widths[::-1]
    assert widths[depth] == 4
    assert autoencoder(batch(8, 8)).shape == (5, 1, 8, 8)


# 16 inputs, widths 11 and 8: the products are 16 x 11, 11 x 8, 8 x 11, 11 x 16.
PRODUCTS = 16 * 11 + 11 * 8 + 8 * 11 + 11 * 16
NORMS = 2 * (11 + 8 + 11)
HEAD_BIAS = 16


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({}, PRODUCTS + NORMS + HEAD_BIAS),  # under batch norm the layers have no bias
        ({"batch_norm": False}, PRODUCTS + 11 + 8 + 11 + HEAD_BIAS),
        ({"skip": True}, PRODUCTS + NORMS + HEAD_BIAS + 1),
        ({"dropout": 0.5}, PRODUCTS + NORMS + HEAD_BIAS),
        ({"activation": "prelu"}, PRODUCTS + NORMS + HEAD_BIAS + 3),
    ],
)
def test_cost_by_hand(settings: dict[str, Any], parameters: int) -> None:
    autoencoder = made(depth=2, bottleneck=8, **settings)
    assert cost(autoencoder, (4, 4)) == {"parameters": parameters, "multiply_adds": PRODUCTS}


def test_cost_of_superresolution_by_hand() -> None:
    # 4 inputs, 16 outputs, widths 4 and 4
    autoencoder = made((2, 2), (4, 4), depth=2, bottleneck=4, batch_norm=False)
    products = 3 * 4 * 4 + 4 * 16
    assert cost(autoencoder, (2, 2)) == {"parameters": products + 3 * 4 + 16, "multiply_adds": products}


@pytest.mark.parametrize("training", [False, True])
def test_measuring_the_cost_changes_nothing(training: bool) -> None:
    autoencoder = made(depth=2, bottleneck=8, dropout=0.5).train(training)
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    cost(autoencoder, (4, 4))
    assert autoencoder.training is training
    assert all(module.training is training for module in autoencoder.modules())
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("inputs", "outputs"), [((4, 4), (4, 4)), ((2, 2), (4, 4)), ((3, 5), (6, 10))])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_input_is_added_through_a_gain_that_starts_at_0(
    inputs: tuple[int, int], outputs: tuple[int, int], depth: int
) -> None:
    autoencoder = made(inputs, outputs, depth=depth, bottleneck=4, skip=True).eval()
    assert autoencoder.gain.tolist() == [0]
    degraded = batch(*inputs)
    closed = autoencoder(degraded)
    with torch.no_grad():
        autoencoder.gain.fill_(2)
    added = autoencoder(degraded) - closed
    enlarged = F.interpolate(degraded, size=outputs, mode="bicubic", align_corners=False)
    assert torch.allclose(added, 2 * (degraded if inputs == outputs else enlarged), atol=1e-5)
    added.sum().backward()
    assert autoencoder.gain.grad is not None


def test_each_decoder_layer_adds_the_encoders_output_of_its_width() -> None:
    with_skip = made(depth=3, bottleneck=2, skip=True, batch_norm=False).eval()
    degraded = batch()
    x, outputs = degraded.flatten(1), []
    for layer in with_skip.encoder:
        x = layer(x)
        outputs.append(x)
    x = with_skip.decoder[0](outputs[2]) + outputs[1]
    x = with_skip.decoder[1](x) + outputs[0]
    assert torch.allclose(with_skip(degraded).flatten(1), with_skip.head(x))


@pytest.mark.parametrize(("depth", "differs"), [(1, False), (2, True)])
def test_skips_pass_by_the_bottleneck_where_there_is_a_layer_to_pass(depth: int, differs: bool) -> None:
    plain, skipping = (made(depth=depth, bottleneck=4, skip=skip).eval() for skip in (False, True))
    skipping.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(plain(batch()), skipping(batch())) is not differs


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [((7, 7), (28, 28)), ((14, 14), (28, 28)), ((5, 9), (5, 9)), ((3, 2), (12, 8)), ((1, 1), (2, 2))],
)
@pytest.mark.parametrize("skip", [False, True])
def test_images_of_any_size_and_enlargement(inputs: tuple[int, int], outputs: tuple[int, int], skip: bool) -> None:
    autoencoder = made(inputs, outputs, depth=2, bottleneck=6, skip=skip)
    assert autoencoder(batch(*inputs)).shape == (5, 1, *outputs)
    assert cost(autoencoder, inputs)["parameters"] > 0


@pytest.mark.parametrize("scale", [1.0, 1e3, -1e3])
def test_restored_intensities_lie_in_0_to_1(scale: float) -> None:
    autoencoder = made(depth=2, bottleneck=8)
    with torch.no_grad():
        autoencoder.head.weight.mul_(scale)
    restored = Restorer(autoencoder).eval()(batch())
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert torch.equal(restored, torch.sigmoid(autoencoder(batch())))


def test_pixels_are_not_shuffled_on_the_way() -> None:
    """With identity weights the logits are the input, row by row, on an image that is not square."""
    autoencoder = made((2, 3), depth=1, bottleneck=6, batch_norm=False).eval()
    with torch.no_grad():
        for layer in (autoencoder.encoder[0][0], autoencoder.head):
            layer.weight.copy_(torch.eye(6))
            layer.bias.zero_()
    degraded = batch(2, 3)
    assert torch.allclose(autoencoder(degraded), degraded)


def test_the_global_seed_decides_the_weights() -> None:
    assert torch.equal(made(seed=1)(batch()), made(seed=1)(batch()))
    assert not torch.equal(made(seed=1)(batch()), made(seed=2)(batch()))


def test_dropout_acts_in_training_only() -> None:
    autoencoder = made(depth=2, bottleneck=8, dropout=0.5, batch_norm=False)
    assert not torch.equal(autoencoder(batch()), autoencoder(batch()))
    autoencoder.eval()
    assert torch.equal(autoencoder(batch()), autoencoder(batch()))
    assert not any(isinstance(m, nn.Dropout) for m in made(depth=2, bottleneck=8).modules())


@pytest.mark.parametrize(
    ("name", "settings", "at_minus_1"),
    [
        ("relu", {}, 0.0),
        ("leaky_relu", {}, -0.01),
        ("leaky_relu", {"negative_slope": 0.2}, -0.2),
        ("elu", {"alpha": 2.0}, 2 * (2.718281828**-1 - 1)),
        ("celu", {"alpha": 2.0}, 2 * (2.718281828**-0.5 - 1)),
        ("tanh", {}, -0.7615942),
        ("sigmoid", {}, 0.2689414),
    ],
)
def test_activations_take_their_parameter(name: str, settings: dict[str, float], at_minus_1: float) -> None:
    made_activation = activation(ModelConfig.model_validate({"activation": name, **settings}))
    assert made_activation(torch.tensor([-1.0])).item() == pytest.approx(at_minus_1, abs=1e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_layer_but_the_last_has_the_activation(name: str) -> None:
    autoencoder = made(depth=3, bottleneck=4, activation=name)
    found = [module for module in autoencoder.modules() if type(module).__name__ == ACTIVATIONS[name]]
    assert len(found) == 5
