"""The judge: a small reference classifier that says whether a restored image still shows what the clean one showed.

Comes in: a labelled data set. Goes out: the judge's file, trained once a data set and kept by the data's digest, and
the classes it gives to images. Its seed, its threads and its recipe are its own, so that every study on the same data
has the same judge, on every machine of a kind. Knows torch only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from pipeline.data import Dataset, Split
from pipeline.data.sets import to_float
from pipeline.errors import Interrupted, StudyError
from pipeline.evaluation.batches import threads
from pipeline.files import write_atomically
from pipeline.seeds import derive_seed

EPOCHS = 4  # at least, and
STEPS = 300  # at least
BATCH = 64
LEARNING_RATE = 1e-2
MAPS = (16, 32)


@dataclass(frozen=True)
class Judge:
    """A trained judge's file, and how often it is right about clean validation images (a share)."""

    path: str
    sha256: str
    classes: int
    accuracy: float

    def classify(self, images: Float[Tensor, "batch 1 height width"]) -> Int64[Tensor, " batch"]:
        """The class that each image shows; images in [0, 1], on any device.

        Raises:
            StudyError: the file is absent, or its bytes are not those that were written.
        """
        with torch.inference_mode():
            return _network(self, (images.shape[-2], images.shape[-1]), str(images.device))(images).argmax(1)


def judge_of(data: Dataset, folder: Path, halted: Callable[[], bool] = lambda: False) -> Judge | None:
    """The judge of a data set: read from the folder, or trained and kept there.

    Args:
        data: the data set; its training images are what the judge learns, clean.
        folder: where judges are kept.
        halted: whether the user wants to stop; asked at every epoch.

    Returns:
        None where the data set has fewer than two classes.

    Raises:
        Interrupted: the user wanted to stop; nothing was kept.
    """
    if data.classes < 2:
        return None
    for path in sorted(folder.glob(f"{data.digest[:32]}-*.safetensors")):
        try:
            return _read(path)
        except StudyError:
            path.unlink(missing_ok=True)  # damaged; the same one is made again
    with threads(1), torch.random.fork_rng(devices=[]):
        network, accuracy = _train(data, halted)
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    content = safetensors.torch.save(tensors, {"judge": json.dumps({"classes": data.classes, "accuracy": accuracy})})
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / f"{data.digest[:32]}-{sha256}.safetensors"
    write_atomically(path, content)
    return Judge(str(path), sha256, data.classes, accuracy)


def _train(data: Dataset, halted: Callable[[], bool]) -> tuple[nn.Module, float]:
    seed = derive_seed("judge")
    torch.manual_seed(seed)
    targets = labels_of(data.train)
    network = _build(data.classes, data.image_size)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    batch = min(BATCH, len(targets))
    steps = len(targets) // batch
    epochs = max(EPOCHS, -(-STEPS // steps))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=epochs * steps + 1, cycle_momentum=False
    )
    shuffling = Generator().manual_seed(seed)
    for _ in range(epochs):
        if halted():
            raise Interrupted
        for chosen in torch.randperm(len(targets), generator=shuffling)[: steps * batch].split(batch):
            loss = F.cross_entropy(network(to_float(data.train.images[chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        found = torch.cat([network(to_float(images)).argmax(1) for images in data.val.images.split(1000)])
    return network, _share(found, labels_of(data.val))


def _build(classes: int, size: tuple[int, int]) -> nn.Sequential:
    height, width = ((side + 3) // 4 for side in size)  # halved twice, rounded up
    return nn.Sequential(
        nn.Conv2d(1, MAPS[0], 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(MAPS[0], MAPS[1], 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(MAPS[1] * height * width, classes),
    )


def _read(path: Path) -> Judge:
    content, sha256 = _content(path), path.stem.rpartition("-")[2]
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StudyError(f"{path}: damaged: its bytes are not those that were written; the same command makes it again")
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return Judge(str(path), sha256, **json.loads(header["__metadata__"]["judge"]))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}; the same command makes it again") from None


@lru_cache(maxsize=4)
def _network(judge: Judge, size: tuple[int, int], device: str) -> nn.Module:
    _read(Path(judge.path))
    network = _build(judge.classes, size)
    network.load_state_dict(safetensors.torch.load(_content(Path(judge.path))))
    return network.eval().to(device)


def labels_of(split: Split) -> Int64[Tensor, " n"]:
    """The classes of a split of a data set that has them."""
    assert split.labels is not None, "a data set without classes has no judge"
    return split.labels


def _share(found: Tensor, right: Tensor) -> float:
    return (found == right).double().mean().item()
