"""Weights files: the same bytes for the same weights, and nothing but a verified file of this program is loaded."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tiny
import torch

from pipeline.config.outcomes import WEIGHTS_FILE
from pipeline.data import load
from pipeline.epoch import trained_weights
from pipeline.errors import CheckpointError
from pipeline.files import safetensors_metadata
from pipeline.training.weights import load_weights, weights_bytes

SIZE = (tiny.SIDE, tiny.SIDE)
NETWORKS: dict[str, dict[str, Any]] = {
    "linear": {"skip": True, "dropout": 0.1},
    "conv": {"layer_type": "conv", "depth": 2, "convs": 2, "skip": True},
    "enlarging": {"layer_type": "conv", "depth": 2, "degrade": {"kind": "downscale", "factor": 2}},
    "prelu": {"activation": "prelu", "batch_norm": False},
}


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def stored(tiny_data: Path, tmp_path: Path) -> bytes:
    """The weights file of a trained linear network."""
    trial = tiny.trial()
    epoch = tiny.train(trial, None, tiny_data, tmp_path)
    return trained_weights(trial, load(tiny.NAME, tiny_data), epoch.checkpoint)


@pytest.mark.parametrize("settings", NETWORKS.values(), ids=NETWORKS)
def test_a_rebuilt_network_computes_the_same_bits(settings: dict[str, Any], tiny_data: Path, tmp_path: Path) -> None:
    trial, data = tiny.trial(**settings), load(tiny.NAME, tiny_data)
    epoch = tiny.train(trial, None, tiny_data, tmp_path)
    trained = tiny.restorer(trial, data, epoch.checkpoint)
    content = weights_bytes(trained, trial, SIZE)
    assert content == trained_weights(trial, data, epoch.checkpoint)
    assert sha256_of(content) == epoch.result.weights_sha256, "the worker's digest is that of the file"

    before = torch.get_rng_state()
    rebuilt = load_weights(content, sha256_of(content))
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in rebuilt.modules())
    side = tiny.SIDE // 2 if "degrade" in settings else tiny.SIDE
    degraded = torch.rand(3, 1, side, side)
    with torch.inference_mode():
        assert torch.equal(rebuilt(degraded), trained(degraded))
    # The order of axes in memory decides which kernels compute, and with them the last bits.
    strides = {name: value.stride() for name, value in trained.state_dict().items()}
    assert {name: value.stride() for name, value in rebuilt.state_dict().items()} == strides


def test_a_file_is_the_same_in_every_process_and_has_one_metadata_key(stored: bytes) -> None:
    assert list(safetensors_metadata(stored)) == ["model"]
    code = (
        "import sys, hashlib; from pipeline.training.weights import *; from pipeline.config import TrialConfig\n"
        "data = sys.stdin.buffer.read(); model = load_weights(data, hashlib.sha256(data).hexdigest())\n"
        "import json; from pipeline.files import safetensors_metadata\n"
        "said = json.loads(safetensors_metadata(data)['model'])\n"
        "again = weights_bytes(model, TrialConfig.model_validate(said['config']), tuple(said['image_size']))\n"
        "print(hashlib.sha256(again).hexdigest())"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run([sys.executable, "-c", code], input=stored, capture_output=True, env=environment)
        assert done.stdout.decode().strip() == sha256_of(stored), done.stderr.decode()


def test_other_bytes_are_refused_before_they_are_read(stored: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bytes) -> None:
        raise AssertionError("the bytes were read")

    monkeypatch.setattr(safetensors.torch, "load", refuse)
    changed = bytearray(stored)
    changed[-1] ^= 1
    for data, sha256 in ((bytes(changed), sha256_of(stored)), (stored, ""), (stored, "not a digest")):
        with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE} is damaged: its bytes are not those"):
            load_weights(data, sha256)


def rewritten(stored: bytes, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> bytes:
    description = json.loads(safetensors_metadata(stored)["model"])
    tensors = safetensors.torch.load(stored)
    edit(description, tensors)
    return safetensors.torch.save(tensors, {"model": json.dumps(description)})


def _set(section: str, key: str, value: object) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], None]:
    return lambda description, _: description["config"][section].update({key: value})


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], object], str]] = {
    "an unknown activation": (_set("model", "activation", "Module"), "activation"),
    "an unknown key": (_set("model", "loader_module", "os"), "loader_module"),
    "a depth beyond the limit": (_set("model", "depth", 10**6), "depth"),
    "text for a number": (_set("model", "bottleneck", "8"), "bottleneck"),
    "a huge network": (_set("model", "width", 8192), "its tensors are not those of the network"),
    "a huge image": (
        lambda said, _: said.update(image_size=[65536, 65536]),
        "its tensors are not those of the network",
    ),
    "an image of no size": (lambda said, _: said.update(image_size=[0, 16]), "image_size"),
    "a factor that does not fit": (
        lambda said, _: said["config"].update(degrade={"kind": "downscale", "factor": 3}),
        "does not divide",
    ),
    "a tensor too many": (lambda _, tensors: tensors.update(more=torch.zeros(1)), "its tensors are not those"),
    "a tensor too few": (lambda _, tensors: tensors.popitem(), "its tensors are not those"),
    "another type of number": (
        lambda _, tensors: tensors.update({name: t.double() for name, t in tensors.items()}),
        "its tensors are not those",
    ),
}


@pytest.mark.parametrize(("edit", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_configuration_that_is_not_the_network_s_is_refused(
    stored: bytes, edit: Callable[[dict[str, Any], dict[str, torch.Tensor]], None], says: str
) -> None:
    """Also where whoever wrote the file wrote its digest too."""
    data, before = rewritten(stored, edit), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=f"(?s){WEIGHTS_FILE}.*{says}") as refusal:
        load_weights(data, sha256_of(data))
    assert len(str(refusal.value).splitlines()) == 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB; the huge networks take gigabytes
    assert grown < 200 * 1024


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"\xff" * 64, safetensors.torch.save({"a": torch.zeros(1)})])
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="holds no model of this program"):
        load_weights(data, sha256_of(data))
