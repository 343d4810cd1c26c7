"""The autoencoders.

Comes in: the ``[model]`` section of a trial and the sizes of degraded and restored images, as (height, width). Goes
out: a module whose ``forward`` returns logits; a `Restorer` around it returns images in [0, 1].

With ``skip`` each layer or level of a decoder also gets the encoder's output of its size, and the logits add the input
(enlarged bicubically if it is smaller) times a learned gain that starts at 0.
"""

from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.config import ModelConfig
from pipeline.config.choices import ACTIVATIONS
from pipeline.config.trial import applies, check_depth, grid_size
from pipeline.data.degrade import enlarge
from pipeline.data.shapes import Degraded, Images, Logits
from pipeline.errors import ShapeError


class LinearAutoencoder(nn.Module):
    """A symmetric fully connected autoencoder.

    ``depth`` layers reduce the flattened input to the bottleneck, and as many enlarge it again, in mirrored widths.
    Each layer but the last is linear -> batch norm -> activation -> dropout; the last returns one logit per pixel.
    """

    def __init__(self, config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size
        down = [input_size[0] * input_size[1], *encoder_widths(config, input_size[0] * input_size[1])]
        up = down[:0:-1]  # bottleneck ... first hidden width
        self.encoder = nn.ModuleList(_linear(config, a, b) for a, b in pairwise(down))
        self.decoder = nn.ModuleList(_linear(config, a, b) for a, b in pairwise(up))
        self.head = nn.Linear(up[-1], output_size[0] * output_size[1])
        self.gain = nn.Parameter(torch.zeros(1)) if config.skip else None

    def forward(self, degraded: Degraded) -> Logits:
        x = degraded.flatten(1)
        outputs = []
        for layer in self.encoder:
            x = layer(x)
            outputs.append(x)
        for layer, mirrored in zip(self.decoder, outputs[-2::-1], strict=True):
            x = layer(x)
            if self.gain is not None:
                x = x + mirrored
        logits = self.head(x).unflatten(1, (1, *self.output_size))
        if self.gain is not None:
            logits = logits + self.gain * enlarge(degraded, self.output_size)
        return logits


class ConvAutoencoder(nn.Module):
    """A convolutional autoencoder, with ``skip`` a small U-Net.

    With ``unshuffle`` u above 1 the pixels of each cell of u x u become u x u maps of one, so that the network works on
    a grid with fewer places; sides that u does not divide are padded with zeros at the bottom and on the right.
    Level 0 has the grid's size and ``channels`` maps. Each of the ``depth`` reductions is a convolution of stride 2
    (a side of 7 becomes 4) and leads to the next level; the deepest has ``bottleneck`` maps. In the decoder a
    transposed convolution doubles the sides, which are then cropped to the encoder's size at that level. Each level
    has ``convs`` convolutions in the encoder and as many in the decoder, each followed by batch norm -> activation ->
    dropout of whole maps. The head returns one logit per restored pixel: to enlarge the input by a factor f, its
    (u f) x (u f) maps are interleaved, and what belongs to the padding is cropped.

    Source:
        Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015, for the skips; Zhang, Zuo and Zhang, "FFDNet", IEEE TIP
        2018, for the unshuffled input; Shi et al., "Real-time single image and video super-resolution using an
        efficient sub-pixel convolutional neural network", CVPR 2016, for the head.
    """

    def __init__(self, config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> None:
        super().__init__()
        check_depth(config.depth, input_size, config.unshuffle)
        factor = output_size[0] // input_size[0]
        if output_size != (factor * input_size[0], factor * input_size[1]):
            raise ShapeError(f"{input_size} cannot be enlarged to {output_size} by one whole factor")
        self.output_size = output_size
        self.unshuffle = config.unshuffle
        grid = grid_size(input_size, config.unshuffle)
        self.padding = [0, grid[1] * config.unshuffle - input_size[1], 0, grid[0] * config.unshuffle - input_size[0]]
        # Half, rounded up, at every level, as convolutions of stride 2 have it.
        self.sizes = [[-(-side // 2**i) for side in grid] for i in range(config.depth)]
        maps = encoder_channels(config)
        levels = list(pairwise(maps))
        self.encoder = nn.ModuleList([_convs(config, config.unshuffle**2, maps[0])])
        self.encoder.extend(_convs(config, a, b, stride=2) for a, b in levels)
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(levels))
        merged = 2 if config.skip else 1
        self.decoder = nn.ModuleList(_convs(config, merged * a, a) for a, _ in reversed(levels))
        cell = factor * config.unshuffle
        head = nn.Conv2d(maps[0], cell**2, config.kernel, padding=config.kernel // 2)
        self.head = nn.Sequential(head, nn.PixelShuffle(cell))
        self.gain = nn.Parameter(torch.zeros(1)) if config.skip else None
        # For one input map both memory formats store the weights alike, but the maps that follow inherit this one:
        # channels innermost, faster on CPUs. All other weights and the optimizers' states keep the usual format.
        first = next(layer for layer in self.encoder.modules() if isinstance(layer, nn.Conv2d))
        if config.unshuffle == 1:
            first.to(memory_format=torch.channels_last)

    def forward(self, degraded: Degraded) -> Logits:
        x = degraded
        if self.unshuffle > 1:
            x = F.pixel_unshuffle(F.pad(x, self.padding), self.unshuffle).contiguous(memory_format=torch.channels_last)
        outputs = []
        for level in self.encoder:
            x = level(x)
            outputs.append(x)
        mirrored = zip(outputs[-2::-1], self.sizes[::-1], strict=True)
        for doubling, level, (skipped, (height, width)) in zip(self.enlarge, self.decoder, mirrored, strict=True):
            x = doubling(x)[..., :height, :width]
            x = level(x if self.gain is None else torch.cat([x, skipped], 1))
        logits = self.head(x)[..., : self.output_size[0], : self.output_size[1]]
        if self.gain is not None:
            logits = logits + self.gain * enlarge(degraded, self.output_size)
        return logits


class Restorer(nn.Module):
    """An autoencoder followed by a sigmoid, so that it returns intensities. This is what is exported and registered."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, degraded: Degraded) -> Images:
        return torch.sigmoid(self.autoencoder(degraded))


def build(config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> nn.Module:
    """A new autoencoder; torch's global random state decides its weights. Raises ConfigError as `check_depth` does."""
    return AUTOENCODERS[config.layer_type](config, input_size, output_size)


WEIGHTED = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
AUTOENCODERS: dict[str, Any] = {"linear": LinearAutoencoder, "conv": ConvAutoencoder}


def encoder_widths(config: ModelConfig, inputs: int) -> list[int]:
    """Output widths of the ``depth`` linear reductions, geometrically from ``inputs`` to the bottleneck.

    If ``width`` is given, it is the first layer's output width, and the others follow geometrically.
    """
    if config.width == "auto" or config.depth == 1:
        return _geometric(inputs, config.bottleneck, config.depth)[1:]
    return _geometric(config.width, config.bottleneck, config.depth - 1)


def encoder_channels(config: ModelConfig) -> list[int]:
    """Numbers of maps of the ``depth`` + 1 convolutional levels, geometrically from ``channels`` to the bottleneck."""
    return _geometric(config.channels, config.bottleneck, config.depth)


def activation(config: ModelConfig) -> nn.Module:
    """The activation that a trial names, with its parameter if it has one."""
    settings = config.model_dump()
    arguments = {key: settings[key] for key in ("negative_slope", "alpha") if applies(key, settings)}
    return getattr(nn, ACTIVATIONS[config.activation])(**arguments)


@lru_cache(maxsize=1_000)
def cost_of(config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> dict[str, int]:
    """As `cost`, of the autoencoder that `build` makes; no random numbers are drawn for its weights."""
    with torch.device("meta"):
        model = build(config, input_size, output_size)
    return cost(model.to_empty(device="cpu"), input_size)  # a first product on meta tensors would take a second


def cost(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """The size of a model and its work per image.

    ``parameters`` are trainable numbers; ``multiply_adds`` those of matrix products and convolutions for one image
    (normalisation and activations, a few per cent, are not counted).
    """
    products = 0

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal products
        # A weight is used once per place of the output, in a transposed convolution once per place of the input.
        places = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        products += layer.weight.numel() * places[0, 0].numel()  # type: ignore[operator]

    was_training = model.training
    model.eval()
    hooks = [layer.register_forward_hook(count) for layer in model.modules() if isinstance(layer, WEIGHTED)]
    with torch.no_grad():
        model(torch.zeros(1, 1, *input_size, device=next(model.parameters()).device))
    for hook in hooks:
        hook.remove()
    model.train(was_training)
    return {"parameters": sum(p.numel() for p in model.parameters()), "multiply_adds": products}


def _geometric(first: int, last: int, steps: int) -> list[int]:
    ratio = (last / first) ** (1 / steps)
    return [round(first * ratio**i) for i in range(steps)] + [last]


def _linear(config: ModelConfig, inputs: int, outputs: int) -> nn.Sequential:
    # Batch norm subtracts the mean, so a bias before it would have no effect.
    layer = nn.Linear(inputs, outputs, bias=not config.batch_norm)
    return _block(config, layer, nn.BatchNorm1d(outputs), nn.Dropout(config.dropout))


def _convs(config: ModelConfig, inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """One level's convolutions, the first of the given stride."""
    layers = nn.Sequential()
    for i in range(config.convs):
        given, step = (outputs, 1) if i else (inputs, stride)
        layer = nn.Conv2d(given, outputs, config.kernel, step, padding=config.kernel // 2, bias=not config.batch_norm)
        layers.append(_block(config, layer, nn.BatchNorm2d(outputs), nn.Dropout2d(config.dropout)))
    return layers


def _block(config: ModelConfig, layer: nn.Module, norm: nn.Module, dropout: nn.Module) -> nn.Sequential:
    layers = [layer]
    if config.batch_norm:
        layers.append(norm)
    layers.append(activation(config))
    if config.dropout:
        layers.append(dropout)
    return nn.Sequential(*layers)
