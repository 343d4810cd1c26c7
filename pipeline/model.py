"""The autoencoders.

Comes in: a degraded batch, float ``[N, 1, h, w]``. Goes out: ``forward`` gives logits ``[N, 1, H, W]``, ``restore`` the
images themselves in [0, 1].

Shape legend: N batch, h x w the degraded image, H x W the restored one, B the bottleneck's width.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config import ModelConfig
from pipeline.config.choices import ACTIVATIONS

Degraded = Float[Tensor, "batch 1 h w"]
Images = Float[Tensor, "batch 1 height width"]


class LinearAutoencoder(nn.Module):
    """A symmetric fully connected autoencoder.

    ``depth`` layers reduce the flattened input to the bottleneck, and as many bring it back; the decoder mirrors the
    encoder's widths, its last layer gives one logit a pixel of the restored image. Each layer but the last is
    linear -> batch norm -> activation -> dropout.

    With ``skip`` each decoder layer adds the encoder's output of the same width, and the logits add the input itself
    (bicubically enlarged where it is smaller) times a learned gain that starts at 0.
    """

    def __init__(self, config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> None:
        super().__init__()
        self.output_size = output_size
        down = [input_size[0] * input_size[1], *encoder_widths(config, input_size[0] * input_size[1])]
        up = down[:0:-1]  # bottleneck ... first hidden width
        self.encoder = nn.ModuleList(_block(config, a, b) for a, b in pairwise(down))
        self.decoder = nn.ModuleList(_block(config, a, b) for a, b in pairwise(up))
        self.head = nn.Linear(up[-1], output_size[0] * output_size[1])
        self.gain = nn.Parameter(torch.zeros(1)) if config.skip else None

    def forward(self, degraded: Degraded) -> Images:
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
            logits = logits + self.gain * _enlarge(degraded, self.output_size)
        return logits


class Restorer(nn.Module):
    """An autoencoder with its logits turned into intensities: what is exported and registered."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, degraded: Degraded) -> Images:
        return torch.sigmoid(self.autoencoder(degraded))


def build(config: ModelConfig, input_size: tuple[int, int], output_size: tuple[int, int]) -> nn.Module:
    """A freshly initialised autoencoder; torch's global random state decides the weights.

    Args:
        config: the ``[model]`` section of one trial.
        input_size: height and width of the degraded image.
        output_size: height and width of the restored image.
    """
    return LAYER_TYPES[config.layer_type](config, input_size, output_size)


LAYER_TYPES: dict[str, Any] = {"linear": LinearAutoencoder}


def encoder_widths(config: ModelConfig, inputs: int) -> list[int]:
    """Output widths of the ``depth`` reductions, the last of them the bottleneck.

    They change geometrically: from the number of input pixels, or, where ``width`` is given, from that width, which
    is then the first layer's.
    """
    depth, bottleneck = config.depth, config.bottleneck
    if config.width == "auto" or depth == 1:
        start, steps = inputs, depth
        ratio = (bottleneck / start) ** (1 / steps)
        return [round(start * ratio**i) for i in range(1, depth)] + [bottleneck]
    ratio = (bottleneck / config.width) ** (1 / (depth - 1))
    return [round(config.width * ratio**i) for i in range(depth - 1)] + [bottleneck]


def activation(config: ModelConfig) -> nn.Module:
    """The activation a trial asks for, with its own parameter where it has one."""
    cls = getattr(nn, ACTIVATIONS[config.activation])
    match config.activation:
        case "leaky_relu":
            return cls(config.negative_slope)
        case "elu" | "celu":
            return cls(config.alpha)
        case _:
            return cls()


def cost(model: nn.Module, input_size: tuple[int, int]) -> dict[str, int]:
    """What a model costs.

    Returns:
        ``parameters``: trainable numbers; ``multiply_adds``: of the matrix products and convolutions for one image
        (normalisation and activations, a few per cent, are not counted).

    Source:
        torch.utils.flop_counter, which counts a multiply-add as two operations.
    """
    was_training = model.training
    model.eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(1, 1, *input_size, device=next(model.parameters()).device))
    model.train(was_training)
    parameters = sum(p.numel() for p in model.parameters())
    return {"parameters": parameters, "multiply_adds": counter.get_total_flops() // 2}


def _block(config: ModelConfig, inputs: int, outputs: int) -> nn.Sequential:
    # Batch norm subtracts the mean, so a bias before it would have no effect.
    layers: list[nn.Module] = [nn.Linear(inputs, outputs, bias=not config.batch_norm)]
    if config.batch_norm:
        layers.append(nn.BatchNorm1d(outputs))
    layers.append(activation(config))
    if config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers)


def _enlarge(degraded: Tensor, size: tuple[int, int]) -> Tensor:
    if degraded.shape[-2:] == size:
        return degraded
    return F.interpolate(degraded, size=size, mode="bicubic", align_corners=False)
