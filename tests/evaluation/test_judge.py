"""The judge: the same for every study, accurate on clean images, stored by the data's digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import tiny
import torch

from pipeline.config.trial import Downscale, Gaussian
from pipeline.data import Dataset
from pipeline.data.sets import to_float
from pipeline.errors import StudyError
from pipeline.evaluation import scores as scoring
from pipeline.evaluation.batches import threads
from pipeline.evaluation.judge import judge_of


def test_the_judge_classifies_clean_images_and_is_the_same_on_any_number_of_threads(
    seen: Dataset, tmp_path: Path
) -> None:
    with threads(1):
        one = judge_of(seen, tmp_path / "one")
    with threads(2):
        two = judge_of(seen, tmp_path / "two")
    assert one is not None
    assert two is not None
    assert (one.sha256, one.accuracy) == (two.sha256, two.accuracy)
    right = one.classify(to_float(seen.val.images)) == seen.val.labels
    assert one.accuracy == right.double().mean().item() > 0.9
    assert one.classes == tiny.CLASSES


def test_training_the_judge_does_not_change_the_random_state(seen: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    judge_of(seen, tmp_path)
    assert torch.equal(torch.rand(4), wanted)


def test_the_judge_is_stored_and_a_damaged_one_is_trained_again(seen: Dataset, tmp_path: Path) -> None:
    first = judge_of(seen, tmp_path)
    assert first is not None
    file = Path(first.path)
    changed = file.stat().st_mtime_ns
    assert judge_of(seen, tmp_path) == first
    assert file.stat().st_mtime_ns == changed

    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(StudyError, match="damaged"):
        replace(first, accuracy=0.0).classify(torch.zeros(1, 1, tiny.SIDE, tiny.SIDE))  # not the one in the cache
    assert judge_of(seen, tmp_path) == first
    assert file.read_bytes() != content
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_is_no_judge_is_replaced(seen: Dataset, tmp_path: Path) -> None:
    first = judge_of(seen, tmp_path)
    assert first is not None
    described = json.dumps({"classes": first.classes, "accuracy": 1.0})
    small = {"0.weight": torch.zeros(1)}
    contents = [
        b"",
        b"\0" * 100,
        safetensors.torch.save(small),
        safetensors.torch.save(small, {"judge": "[]"}),
        safetensors.torch.save(small, {"judge": described}),
    ]
    for content in contents:
        name = Path(first.path).name.partition("-")[0]
        (tmp_path / f"{name}-{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    Path(first.path).unlink()
    assert judge_of(seen, tmp_path) == first
    assert list(tmp_path.iterdir()) == [Path(first.path)]


def test_other_data_has_another_judge(seen: Dataset, tmp_path: Path) -> None:
    first, other = judge_of(seen, tmp_path), judge_of(replace(seen, digest="f" * 64), tmp_path)
    assert first is not None
    assert other is not None
    assert first.path != other.path


def test_without_classes_there_is_no_judge(seen: Dataset, tmp_path: Path) -> None:
    for classes in (0, 1):
        assert judge_of(replace(seen, classes=classes), tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_class_kept_is_the_share_of_images_whose_class_is_unchanged(seen: Dataset, tmp_path: Path) -> None:
    judge = judge_of(seen, tmp_path)
    assert judge is not None
    clean = to_float(seen.val.images)
    restored = clean.clone()
    restored[:3] = clean[(torch.arange(3) + 1) % 3]  # three images exchanged
    scores = scoring.score(iter([(restored[:5], clean[:5]), (restored[5:], clean[5:])]), judge)
    classes = judge.classify(clean).numpy()
    moved = classes[(np.arange(3) + 1) % 3] == classes[:3]
    assert scores.summary()["class_kept"] == (moved.sum() + len(clean) - 3) / len(clean)
    assert "class_kept" not in scoring.score(iter([(restored, clean)])).summary()


@pytest.mark.parametrize(
    "how", [Gaussian(kind="gaussian", sigma=2.0), Downscale(kind="downscale", factor=4)], ids=["noise", "downscale"]
)
def test_the_accuracy_of_the_judge_is_reported(how: Gaussian | Downscale, seen: Dataset, tmp_path: Path) -> None:
    judge = judge_of(seen, tmp_path)
    assert judge is not None
    figures = scoring.judge_figures(judge, seen, how)
    assert figures["judge/accuracy_clean"] == judge.accuracy
    assert figures["judge/accuracy_degraded"] < judge.accuracy
