"""The judge: a small classifier that says whether a restored image still shows the same class as the clean one.

Comes in: a labelled data set. Goes out: the judge's file, trained once per data set and named by the data's digest.
Seed, threads and recipe are fixed: every study on the same data has the same judge on every machine of a kind.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Generator, nn
from torch.optim.lr_scheduler import OneCycleLR

from pipeline.data import Dataset, Split, load
from pipeline.data.sets import to_float
from pipeline.data.shapes import Images, Labels
from pipeline.errors import StudyError
from pipeline.evaluation.batches import threads
from pipeline.files import safetensors_metadata, write_atomically
from pipeline.seeds import derive_seed

LEAST_EPOCHS = 3
LEAST_STEPS = 200
BATCH_SIZE = 128
MAPS = 32
AGAIN = "run the same command to train it again"


@dataclass(frozen=True)
class Judge:
    """A trained judge's file, and the share of clean validation images that it classifies correctly."""

    path: str
    sha256: str
    classes: int
    accuracy: float

    def classify(self, images: Images) -> Labels:
        """The class of each image in [0, 1], on any device. Raises StudyError if the file is missing or damaged."""
        with torch.inference_mode():
            return _network(self, (images.shape[-2], images.shape[-1]), str(images.device))(images).argmax(1)


def find_judge(name: str, data_dir: Path, folder: Path) -> Judge | None:
    """As `judge_of`, of the data set of this name: a task that any worker can run. Raises DataError as `load`."""
    return judge_of(load(name, data_dir), folder)


def judge_of(data: Dataset, folder: Path) -> Judge | None:
    """The judge of a data set: read from the folder, or trained on its clean images and stored there.

    None if there are fewer than two classes.
    """
    if data.classes < 2:
        return None
    for path in sorted(folder.glob(f"{data.digest[:32]}-*.safetensors")):
        try:
            judge = _read(path)[0]
            _network(judge, data.image_size, "cpu")
            if judge.classes == data.classes:
                return judge
        except StudyError:
            pass
        path.unlink(missing_ok=True)  # damaged; the same one is trained again
    with threads(1), torch.random.fork_rng(devices=[]):
        network, accuracy = _train(data)
    described = json.dumps({"classes": data.classes, "accuracy": accuracy})
    content = safetensors.torch.save(network.state_dict(), {"judge": described})
    sha256 = hashlib.sha256(content).hexdigest()
    path = folder / f"{data.digest[:32]}-{sha256}.safetensors"
    write_atomically(path, content)
    return Judge(str(path), sha256, data.classes, accuracy)


def _train(data: Dataset) -> tuple[nn.Module, float]:
    seed = derive_seed("judge")
    torch.manual_seed(seed)
    targets = labels_of(data.train)
    network = _build(data.classes, data.image_size)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    batch = min(BATCH_SIZE, len(targets))
    steps = len(targets) // batch
    epochs = max(LEAST_EPOCHS, -(-LEAST_STEPS // steps))
    schedule = OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * steps + 1, cycle_momentum=False)
    shuffling = Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(targets), generator=shuffling)[: steps * batch].split(batch):
            loss = F.cross_entropy(network(to_float(data.train.images[chosen])), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.inference_mode():
        found = torch.cat([network(to_float(images)).argmax(1) for images in data.val.images.split(1000)])
    return network, (found == labels_of(data.val)).double().mean().item()


def _build(classes: int, size: tuple[int, int]) -> nn.Sequential:
    height, width = ((side + 3) // 4 for side in size)  # the first layer's places: a quarter, rounded up
    return nn.Sequential(
        nn.Conv2d(1, MAPS, 7, stride=4, padding=3),
        nn.ReLU(),
        nn.Conv2d(MAPS, MAPS, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(MAPS * height * width, classes),
    )


def _read(path: Path) -> tuple[Judge, bytes]:
    """A judge, and the content of its file, verified against the digest in the file's name."""
    sha256 = path.stem.rpartition("-")[2]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}; {AGAIN}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise StudyError(f"{path}: damaged: not the bytes that were written; {AGAIN}")
    try:
        described = json.loads(safetensors_metadata(content)["judge"])
        return Judge(str(path), sha256, int(described["classes"]), float(described["accuracy"])), content
    except (KeyError, TypeError, ValueError):
        raise StudyError(f"{path}: not a judge's file; {AGAIN}") from None


@lru_cache(maxsize=4)
def _network(judge: Judge, size: tuple[int, int], device: str) -> nn.Module:
    network = _build(judge.classes, size)
    try:
        network.load_state_dict(safetensors.torch.load(_read(Path(judge.path))[1]))
    except (RuntimeError, SafetensorError):
        raise StudyError(f"{judge.path}: not a judge of images of this size; {AGAIN}") from None
    return network.eval().to(device)


def labels_of(split: Split) -> Labels:
    """The labels of a split of a data set that has them."""
    assert split.labels is not None, "a data set without classes has no judge"
    return split.labels
