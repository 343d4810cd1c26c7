"""The autoencoders: widths, cost by hand, skip connections, shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import ModelConfig
from pipeline.config.choices import ACTIVATIONS, LAYER_TYPES
from pipeline.config.trial import check_depth
from pipeline.errors import ConfigError, ShapeError
from pipeline.training.model import Restorer, activation, build, cost, cost_of, encoder_channels, encoder_widths


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
def test_widths_are_between_the_first_and_the_last(depth: int, bottleneck: int, width: Any, inputs: int) -> None:
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


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [((8, 8), (8, 8)), ((7, 5), (14, 10)), ((5, 7), (5, 7))])
def test_cost_is_what_torch_counts(
    layer_type: Literal["linear", "conv"], skip: bool, inputs: tuple[int, int], outputs: tuple[int, int]
) -> None:
    config = ModelConfig(layer_type=layer_type, depth=2, bottleneck=6, skip=skip)
    autoencoder = build(config, inputs, outputs).eval()
    with FlopCounterMode(display=False) as counter:
        autoencoder(batch(*inputs, count=1))
    found = cost_of(config, inputs, outputs)
    assert found == cost(autoencoder, inputs)
    assert 2 * found["multiply_adds"] == counter.get_total_flops()


@pytest.mark.parametrize("training", [False, True])
def test_measuring_the_cost_changes_nothing(training: bool) -> None:
    autoencoder = made(depth=2, bottleneck=8, dropout=0.5).train(training)
    before = {name: value.clone() for name, value in autoencoder.state_dict().items()}
    cost(autoencoder, (4, 4))
    assert autoencoder.training is training
    assert all(module.training is training for module in autoencoder.modules())
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("inputs", "outputs"), [((6, 6), (6, 6)), ((5, 5), (10, 10)), ((5, 7), (15, 21))])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_the_input_is_added_through_a_gain_that_starts_at_0(
    inputs: tuple[int, int], outputs: tuple[int, int], depth: int, layer_type: str
) -> None:
    autoencoder = made(inputs, outputs, layer_type=layer_type, depth=depth, bottleneck=4, skip=True).eval()
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


def test_every_decoder_layer_adds_the_encoders_output_of_its_width() -> None:
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
def test_skips_bypass_the_bottleneck_if_there_is_more_than_one_layer(depth: int, differs: bool) -> None:
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


@pytest.mark.parametrize("scale", [1.0, 1e3, -1e3])
def test_restored_intensities_are_in_0_to_1(scale: float) -> None:
    autoencoder = made(depth=2, bottleneck=8)
    with torch.no_grad():
        autoencoder.head.weight.mul_(scale)
    restored = Restorer(autoencoder).eval()(batch())
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert torch.equal(restored, torch.sigmoid(autoencoder(batch())))


def test_pixels_keep_their_positions() -> None:
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


def test_dropout_is_active_in_training_only() -> None:
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
        ("hardsigmoid", {}, 1 / 3),
        ("hardshrink", {}, -1.0),  # 0 between -0.5 and 0.5, and itself elsewhere
        ("softshrink", {}, -0.5),
        ("tanhshrink", {}, -1 + 0.7615942),
        ("logsigmoid", {}, -1.3132617),
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


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_keep_the_shape(name: str) -> None:
    made_activation = activation(ModelConfig.model_validate({"activation": name})).eval()
    for shape in ((2, 3), (2, 3, 5, 4)):
        assert made_activation(torch.randn(shape)).shape == shape


# --- Convolutions --------------------------------------------------------------------------------------------------


def conv(inputs: tuple[int, int] = (8, 8), outputs: tuple[int, int] | None = None, **settings: Any) -> nn.Module:
    return made(inputs, outputs, layer_type="conv", **settings)


@pytest.mark.parametrize(
    ("settings", "channels"),
    [
        ({"depth": 1, "channels": 16, "bottleneck": 64}, [16, 64]),
        ({"depth": 2, "channels": 16, "bottleneck": 64}, [16, 32, 64]),
        ({"depth": 3, "channels": 16, "bottleneck": 64}, [16, 25, 40, 64]),
        ({"depth": 2, "channels": 32, "bottleneck": 2}, [32, 8, 2]),
        ({"depth": 3, "channels": 24, "bottleneck": 24}, [24, 24, 24, 24]),
    ],
)
def test_channels_change_geometrically(settings: dict[str, Any], channels: list[int]) -> None:
    config = ModelConfig.model_validate(settings)
    assert encoder_channels(config) == channels
    maps = []
    autoencoder = conv((16, 16), **settings)
    for level in autoencoder.encoder:
        level.register_forward_hook(lambda _level, _given, out: maps.append(tuple(out.shape[1:])))
    autoencoder(batch(16, 16))
    assert maps == [(count, 16 >> i, 16 >> i) for i, count in enumerate(channels)]


# Of 4 x 4 pixels, two maps, then four of 2 x 2: 3 x 3 kernels 1 -> 2 and 2 -> 4, 2 x 2 kernels 4 -> 2 on the way
# back, 3 x 3 kernels 2 -> 2 (4 -> 2 with the encoder's maps beside) and 2 -> 1 in the head.
WEIGHTS = [2 * 9, 2 * 4 * 9, 4 * 2 * 4, 2 * 2 * 9, 2 * 9]
CONV_NORMS = 2 * (2 + 4 + 2)
CONV_BIASES = 2 + 1  # of the enlargement and the head
PRODUCTS_CONV = 16 * 18 + 4 * 72 + 4 * 32 + 16 * 36 + 16 * 18


@pytest.mark.parametrize(
    ("settings", "parameters", "multiply_adds"),
    [
        ({}, sum(WEIGHTS) + CONV_NORMS + CONV_BIASES, PRODUCTS_CONV),
        ({"batch_norm": False}, sum(WEIGHTS) + (2 + 4 + 2) + CONV_BIASES, PRODUCTS_CONV),
        ({"skip": True}, sum(WEIGHTS) + 36 + CONV_NORMS + CONV_BIASES + 1, PRODUCTS_CONV + 16 * 36),
        (  # a second one of 2 -> 2, 4 -> 4 and 2 -> 2
            {"convs": 2},
            sum(WEIGHTS) + 36 + 144 + 36 + 2 * CONV_NORMS + CONV_BIASES,
            PRODUCTS_CONV + 16 * 36 + 4 * 144 + 16 * 36,
        ),
    ],
)
def test_cost_of_convolutions_by_hand(settings: dict[str, Any], parameters: int, multiply_adds: int) -> None:
    autoencoder = conv((4, 4), channels=2, bottleneck=4, depth=1, **settings)
    assert cost(autoencoder, (4, 4)) == {"parameters": parameters, "multiply_adds": multiply_adds}


def test_cost_of_convolutions_that_enlarge_by_hand() -> None:
    autoencoder = conv((4, 4), (12, 12), channels=2, bottleneck=4, depth=1)
    more = 8 * (18 + 1)  # the head has nine maps instead of one
    found = cost(autoencoder, (4, 4))
    assert found["parameters"] == sum(WEIGHTS) + CONV_NORMS + CONV_BIASES + more
    assert found["multiply_adds"] == PRODUCTS_CONV + 16 * 8 * 18


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    ("inputs", "factor"), [((15, 13), 1), ((9, 16), 1), ((28, 28), 1), ((14, 14), 2), ((11, 9), 3), ((9, 9), 7)]
)
def test_convolutions_take_images_of_any_size(inputs: tuple[int, int], factor: int, skip: bool, depth: int) -> None:
    outputs = (factor * inputs[0], factor * inputs[1])
    autoencoder = conv(inputs, outputs, channels=3, bottleneck=5, depth=depth, skip=skip)
    assert autoencoder(batch(*inputs)).shape == (5, 1, *outputs)


@pytest.mark.parametrize(
    ("inputs", "unshuffle", "grid", "most"),
    [
        *((inputs, 1, inputs, most) for inputs, most in (((28, 28), 5), ((15, 13), 4), ((7, 7), 3), ((4, 28), 2))),
        *((inputs, 1, inputs, most) for inputs, most in (((2, 9), 1), ((1, 9), 0))),
        *(((28, 28), 2, (14, 14), 4), ((15, 13), 2, (8, 7), 3), ((28, 28), 4, (7, 7), 3), ((5, 30), 4, (2, 8), 1)),
    ],
)
def test_more_reductions_than_places_are_refused(
    inputs: tuple[int, int], unshuffle: int, grid: tuple[int, int], most: int
) -> None:
    for depth in range(1, most + 1):
        check_depth(depth, inputs, unshuffle)
    if most:
        assert conv(inputs, depth=most, unshuffle=unshuffle)(batch(*inputs)).shape == (5, 1, *inputs)
    with pytest.raises(ConfigError) as error:
        conv(inputs, depth=most + 1, unshuffle=unshuffle)
    for word in (f"depth = {most + 1}", f"{grid[0]} x {grid[1]}", f"{most} times", "conv"):
        assert word in str(error.value)


@given(
    height=st.integers(5, 19), width=st.integers(5, 19), factor=st.integers(1, 3), unshuffle=st.sampled_from([1, 2, 4])
)
def test_unshuffled_networks_keep_the_shape_of_any_image(height: int, width: int, factor: int, unshuffle: int) -> None:
    outputs = (factor * height, factor * width)
    for skip in (False, True):
        autoencoder = conv((height, width), outputs, depth=1, channels=3, bottleneck=4, skip=skip, unshuffle=unshuffle)
        assert autoencoder(batch(height, width)).shape == (5, 1, *outputs)


@pytest.mark.parametrize("unshuffle", [2, 4])
@pytest.mark.parametrize(("inputs", "factor"), [((8, 8), 1), ((7, 10), 1), ((7, 6), 3)])
def test_pixels_keep_their_places_through_unshuffling(inputs: tuple[int, int], factor: int, unshuffle: int) -> None:
    """A head that repeats the unshuffled maps f x f times, in place of the network, enlarges by repetition."""
    outputs = (factor * inputs[0], factor * inputs[1])
    autoencoder = conv(inputs, outputs, depth=1, channels=3, bottleneck=4, unshuffle=unshuffle)
    given_maps = []
    autoencoder.encoder[0].register_forward_pre_hook(lambda _level, given: given_maps.append(given[0]))

    def repeat(*_: Any) -> Tensor:
        pixels = F.pixel_shuffle(given_maps[0], unshuffle)
        return F.pixel_unshuffle(pixels.repeat_interleave(factor, 2).repeat_interleave(factor, 3), unshuffle * factor)

    autoencoder.head[0].register_forward_hook(repeat)
    degraded = batch(*inputs)
    enlarged = degraded.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert torch.equal(autoencoder(degraded), enlarged)
    assert given_maps[0].shape[1] == unshuffle**2


def test_cost_behind_an_unshuffle_by_hand() -> None:
    """Of 8 x 8 pixels: the network of 4 x 4 places, with four maps in and four out in place of one."""
    autoencoder = conv((8, 8), channels=2, bottleneck=4, depth=1, unshuffle=2)
    found = cost(autoencoder, (8, 8))
    assert found["parameters"] == sum(WEIGHTS) + CONV_NORMS + CONV_BIASES + 3 * 18 + 3 * (18 + 1)
    assert found["multiply_adds"] == PRODUCTS_CONV + 2 * 16 * 3 * 18


def test_an_enlargement_by_two_different_factors_is_refused() -> None:
    with pytest.raises(ShapeError):
        conv((4, 4), (8, 12), depth=1)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_every_convolution_has_the_given_kernel(kernel: int) -> None:
    autoencoder = conv(depth=2, channels=2, bottleneck=3, kernel=kernel, convs=2)
    found = [m.kernel_size for m in autoencoder.modules() if isinstance(m, nn.Conv2d)]
    assert found == [(kernel, kernel)] * (2 * 3 + 2 * 2 + 1)
    assert autoencoder(batch(8, 8)).shape == (5, 1, 8, 8)


def test_the_u_net_equals_one_written_out_by_hand() -> None:
    autoencoder = conv((7, 5), depth=2, channels=2, bottleneck=3, skip=True, batch_norm=False).eval()
    with torch.no_grad():
        autoencoder.gain.fill_(0.5)
    weights = autoencoder.state_dict()
    first, second, deepest = (f"encoder.{i}.0.0" for i in range(3))

    def convolved(x: Tensor, name: str, stride: int = 1) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding=1)

    def doubled(x: Tensor, name: str) -> Tensor:
        return F.conv_transpose2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=2)

    degraded = batch(7, 5)
    full = convolved(degraded, first).relu()
    half = convolved(full, second, 2).relu()
    quarter = convolved(half, deepest, 2).relu()
    assert [tuple(x.shape[2:]) for x in (full, half, quarter)] == [(7, 5), (4, 3), (2, 2)]
    x = torch.cat([doubled(quarter, "enlarge.0")[..., :4, :3], half], 1)
    x = convolved(x, "decoder.0.0.0").relu()
    x = torch.cat([doubled(x, "enlarge.1")[..., :7, :5], full], 1)
    x = convolved(x, "decoder.1.0.0").relu()
    expected = convolved(x, "head.0") + 0.5 * degraded
    assert torch.allclose(autoencoder(degraded), expected, atol=1e-6)


def test_without_skips_everything_passes_through_the_bottleneck() -> None:
    """Zeros there leave nothing of the image."""
    plain, skipping = (conv(depth=2, bottleneck=3, skip=skip).eval() for skip in (False, True))
    for autoencoder in (plain, skipping):
        autoencoder.encoder[-1].register_forward_hook(lambda _level, _given, maps: torch.zeros_like(maps))
    images = plain(batch(8, 8))
    assert torch.allclose(images[0], images[1])
    images = skipping(batch(8, 8))
    assert not torch.allclose(images[0], images[1])


def test_the_maps_of_the_head_become_neighbouring_pixels() -> None:
    autoencoder = conv((2, 3), (4, 6), depth=1, bottleneck=2)
    with torch.no_grad():
        autoencoder.head[0].weight.zero_()
        autoencoder.head[0].bias.copy_(torch.arange(4.0))
    expected = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).repeat(2, 3)
    assert torch.equal(autoencoder(batch(2, 3))[0, 0], expected)


def test_dropout_zeroes_whole_maps() -> None:
    autoencoder = conv(depth=1, channels=8, bottleneck=8, dropout=0.5, batch_norm=False, activation="sigmoid")
    maps = autoencoder.encoder[0](batch(8, 8))
    dropped = (maps == 0).flatten(2)
    assert dropped.any()
    assert torch.equal(dropped.any(-1), dropped.all(-1))
    assert not any(isinstance(m, nn.Dropout2d) for m in conv(depth=1).modules())


@pytest.mark.parametrize(("inputs", "factor", "unshuffle"), [((15, 13), 1, 1), ((7, 7), 4, 1), ((15, 13), 1, 2)])
@pytest.mark.parametrize("layout", ["as made", "as restored"])
def test_maps_have_channels_last_in_memory(inputs: tuple[int, int], factor: int, unshuffle: int, layout: str) -> None:
    settings: dict[str, Any] = {"depth": 2, "skip": True, "convs": 2, "channels": 3, "bottleneck": 5}
    settings["unshuffle"] = unshuffle
    outputs = (factor * inputs[0], factor * inputs[1])
    autoencoder = conv(inputs, outputs, **settings)
    if layout == "as restored":
        weights = {name: value.contiguous() for name, value in conv(inputs, outputs, **settings).state_dict().items()}
        autoencoder.load_state_dict(weights)
    seen = []
    for layer in autoencoder.modules():
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda _layer, _given, maps: seen.append(maps.is_contiguous(memory_format=torch.channels_last))
            )
    autoencoder(batch(*inputs))
    assert len(seen) == 2 * 2 * (3 + 2) + 1
    assert all(seen)


@pytest.mark.parametrize(("layer_type", "unshuffle"), [*((name, 1) for name in LAYER_TYPES), ("conv", 2)])
@pytest.mark.parametrize(("inputs", "outputs"), [((15, 13), (15, 13)), ((5, 5), (10, 10))])
def test_an_exported_model_accepts_batches_of_any_size(
    inputs: tuple[int, int], outputs: tuple[int, int], layer_type: str, unshuffle: int, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"layer_type": layer_type, "depth": 2, "bottleneck": 4, "skip": True}
    restorer = Restorer(made(inputs, outputs, unshuffle=unshuffle, **settings)).eval()
    sizes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    exported = torch.export.export(restorer, (batch(*inputs, count=2),), dynamic_shapes=sizes)
    torch.export.save(exported, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    for count in (1, 2, 7):
        degraded = batch(*inputs, count=count)
        assert torch.allclose(loaded(degraded), restorer(degraded), atol=1e-6)
