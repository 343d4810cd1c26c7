"""What both rival programs share: the denoiser, its data and its score, as one writes them with torch and torchvision.

Imports nothing of this project: the programs run in environments that do not have it.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

SIGMA = 0.5


def build_model(bottleneck: int) -> nn.Sequential:
    """784-512-256-128-64-b-64-128-256-512-784; the widths between 512 and b are geometric, as in this project."""
    widths = [784, *(round(512 * (bottleneck / 512) ** (i / 4)) for i in range(5))]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths + widths[-2:0:-1]):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.LeakyReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 784), nn.Unflatten(1, (1, 28, 28)))


def add_noise(clean: Tensor) -> Tensor:
    return (clean + SIGMA * torch.randn_like(clean)).clamp(0, 1)


def psnr(logits: Tensor, clean: Tensor) -> Tensor:
    """The mean over a batch of each image's PSNR."""
    mse = (torch.sigmoid(logits.float()) - clean).square().flatten(1).mean(1)
    return (-10 * mse.log10()).mean()


def loaders(data_dir: Path, batch_size: int) -> tuple[DataLoader, DataLoader]:
    """Without worker processes, which on two cores make it slower."""
    mnist = datasets.MNIST(data_dir, train=True, transform=transforms.ToTensor())
    splits = json.loads((data_dir / "splits.json").read_text())
    train, val = Subset(mnist, splits["train"]), Subset(mnist, splits["val"])
    return DataLoader(train, batch_size, shuffle=True, drop_last=True), DataLoader(val, batch_size=250)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--trials", type=Path, required=True, help="JSON: a list of configurations")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--bfloat16", action="store_true")
    parser.add_argument("--result", type=Path, required=True, help="JSON: best validation PSNR of each configuration")
    return parser.parse_args()
