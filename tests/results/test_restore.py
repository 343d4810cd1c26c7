"""Restoring the user's own pictures: how they are fitted, what is written and skipped; the same numbers over HTTP."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from servers import free_port
from studies_for_tests import Place, checksum, copied, new_place, study, wait_for

import pipeline
from pipeline.data import load
from pipeline.data.degrade import degrade
from pipeline.data.sets import to_float
from pipeline.errors import InputError, NotFoundError
from pipeline.results.promote import promote
from pipeline.results.restore import Restored, Skipped, fitted, load_for_restoring, restore_files

pytest_plugins = ["study_fixtures"]

DENOISER = """\
name = "noisy"
dataset = "mnist-5k"
[degrade]
kind = "gaussian"
sigma = 0.5
[budget]
trials = 1
epochs = 2
[model]
depth = 1
bottleneck = 64
[train]
lr = 1e-2
batch_size = 32
"""


@pytest.fixture(scope="module")
def champion(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A home with two versions of `small`, which enlarges 4 x 4 pixels to 28 x 28. Tests must not change it.

    What `study promote` printed for the second is beside it.
    """
    place = copied(finished, tmp_path_factory.mktemp("champion"))
    complete = [record.number for record in place.search().records() if record.state == "COMPLETE"]
    promote(place.home, "small", complete[1], force=True)
    printed = study("promote", "small", "--trial", str(complete[0]), "--force", *place.options)
    assert printed.code == 0, printed.stderr
    (place.path.parent / "promoted.txt").write_text(printed.stdout)
    return place


@pytest.fixture(scope="module")
def denoiser(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A home with a champion, `noisy`, for digits of 28 x 28 pixels. Tests must not change it."""
    place = new_place(migrated, tmp_path_factory.mktemp("denoiser"))
    place.file.write_text(DENOISER)
    place.run()
    promote(place.home, "noisy", force=True)
    return place


def digits(count: int) -> np.ndarray:
    return load("mnist-5k", Path()).val.images[:count, 0].numpy()


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def opened(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def bomb(path: Path, side: int = 20_000) -> Path:
    """The beginning of a PNG whose pixels would take 400 MB."""
    chunks = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0), b"IDAT" + zlib.compress(bytes(1000))
    parts = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


# --- How a picture is fitted ---------------------------------------------------------------------------------------


def test_a_picture_of_the_model_s_size_is_not_changed() -> None:
    for digit in digits(3):
        np.testing.assert_array_equal(fitted(digit, (28, 28)), digit)


def test_a_picture_keeps_its_aspect_and_the_rest_gets_the_grey_of_its_edge() -> None:
    dark_on_light = np.full((140, 280), 230, np.uint8)
    dark_on_light[40:100, 80:200] = 10
    small = fitted(dark_on_light, (28, 28))
    dark = small < 120
    assert np.flatnonzero(dark.any(1)).tolist() == list(range(11, 17))
    assert np.flatnonzero(dark.any(0)).tolist() == list(range(8, 20))
    assert (small[:7] == 230).all()
    assert (small[21:] == 230).all()
    tall = fitted(dark_on_light.T.copy(), (28, 28))
    np.testing.assert_allclose(tall, small.T, atol=1)


def test_a_large_picture_is_averaged_and_not_sampled() -> None:
    stripes = np.zeros((280, 280), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fitted(stripes, (28, 28)).astype(int) - 127.5).max() < 20


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3, 4), (29, 27)])
@pytest.mark.parametrize("size", [(28, 28), (4, 4), (16, 24)])
def test_any_picture_gets_the_model_s_size(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert fitted(np.full(shape, 77, np.uint8), size).tolist() == np.full(size, 77).tolist()


# --- What is restored ----------------------------------------------------------------------------------------------


def test_a_picture_is_restored_as_load_model_restores_it(champion: Place, tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)
    done = study("restore", "small", save(tmp_path / "a.png", small), "-o", tmp_path / "out", *champion.options)
    assert done.code == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-before-after.png", "a-restored.png"]
    with torch.inference_mode():
        expected = pipeline.load_model("small", home=champion.path)(to_float(torch.from_numpy(small)[None, None]))
    difference = opened(tmp_path / "out" / "a-restored.png") - 255 * expected[0, 0].numpy()
    assert np.abs(difference).max() <= 0.5 + 1e-3
    assert f"{tmp_path / 'out' / 'a-restored.png'}" in done.stdout


def test_the_versions_of_a_model_are_named_by_number_or_alias(champion: Place) -> None:
    named = {"small": "2", "small@champion": "2", "small@previous": "1", "small/1": "1", "small/2": "2"}
    for text, number in named.items():
        assert load_for_restoring(champion.home, text).version.version == number
    for text, says in {
        "smal": "no registered model 'smal' with alias 'champion'; models: small",
        "small@best": "'small' with alias 'best'",
        "small/3": "'small' with version '3'",
        "small/x": "'small' with version 'x'",
    }.items():
        with pytest.raises(NotFoundError, match=says):
            load_for_restoring(champion.home, text)


def test_the_study_s_degradation_is_applied_first_and_always_the_same(denoiser: Place, tmp_path: Path) -> None:
    first, second = digits(2)
    save(tmp_path / "in" / "first.png", first)
    save(tmp_path / "in" / "below" / "second.png", second)
    for out in ("once", "again"):
        arguments = ("restore", "noisy", tmp_path / "in", "-o", tmp_path / out, "--degrade", *denoiser.options)
        assert study(*arguments).code == 0
    assert checksum(tmp_path / "once") == checksum(tmp_path / "again")
    alone = study(
        "restore",
        "noisy",
        tmp_path / "in" / "below" / "second.png",
        "-o",
        tmp_path / "alone",
        "--degrade",
        *denoiser.options,
    )
    assert alone.code == 0
    name = "second-restored.png"
    np.testing.assert_array_equal(opened(tmp_path / "alone" / name), opened(tmp_path / "once" / "below" / name))

    restorer = load_for_restoring(denoiser.home, "noisy", degrade_first=True)
    given, seen, restored = restorer(first)
    assert torch.equal(given, to_float(torch.from_numpy(first)[None, None]))
    noise = degrade(torch.full((1, 1, 280, 280), 0.5), restorer.how, torch.Generator().manual_seed(0)) - 0.5
    assert (seen - given).abs().mean() == pytest.approx(float(noise.abs().mean()), rel=0.5)
    assert (restored - given).square().mean() < 0.5 * (seen - given).square().mean()
    assert not torch.equal(restorer(second)[1] - restorer(second)[0], seen - given)


def test_for_super_resolution_degrading_makes_the_picture_small(champion: Place) -> None:
    [digit] = digits(1)
    given, seen, restored = load_for_restoring(champion.home, "small", degrade_first=True)(digit)
    assert [tuple(each.shape) for each in (given, seen, restored)] == [(1, 1, 28, 28), (1, 1, 4, 4), (1, 1, 28, 28)]
    torch.testing.assert_close(seen, torch.nn.functional.avg_pool2d(given, 7))
    plain = load_for_restoring(champion.home, "small")
    assert plain.size == (4, 4)


def test_ink_on_paper_becomes_light_on_dark(denoiser: Place, tmp_path: Path) -> None:
    [digit] = digits(1)
    paths = save(tmp_path / "light.png", digit), save(tmp_path / "dark.png", 255 - digit)
    for path, more in zip(paths, ([], ["--invert"]), strict=True):
        assert study("restore", "noisy", path, "-o", tmp_path / "out", *more, *denoiser.options).code == 0
    light, dark = (opened(tmp_path / "out" / f"{name}-restored.png") for name in ("light", "dark"))
    np.testing.assert_array_equal(light, dark)


# --- What is skipped and refused -----------------------------------------------------------------------------------


def test_files_that_are_no_pictures_broken_or_huge_are_named_and_skipped(denoiser: Place, tmp_path: Path) -> None:
    [digit] = digits(1)
    folder = tmp_path / "in"
    save(folder / "fine.png", digit)
    Image.fromarray(digit).convert("RGB").resize((40, 30)).save(folder / "colour.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / "cut.png").write_bytes((folder / "fine.png").read_bytes()[:150])
    (folder / "empty.png").touch()
    bomb(folder / "huge.png")
    (folder / ".hidden.png").write_bytes(b"left out")
    (folder / "sub").mkdir()
    os.mkfifo(folder / "pipe.png")
    absent = tmp_path / "absent.png"
    done = study(
        "restore", "noisy", folder, absent, folder / "sub", "-o", tmp_path / "out", "--json", *denoiser.options
    )
    assert done.code == 1
    document = json.loads(done.stdout)
    assert (document["model"], document["version"]) == ("noisy", "1")
    assert [Path(entry["picture"]).name for entry in document["restored"]] == ["colour.jpg", "fine.png"]
    reasons = {Path(entry["picture"]).name: entry["reason"] for entry in document["skipped"]}
    assert reasons.keys() == {"notes.txt", "cut.png", "empty.png", "huge.png", "pipe.png", "absent.png", "sub"}
    for name, words in {"huge.png": "exceeds limit", "absent.png": "No such file", "sub": "no file in it"}.items():
        assert words in reasons[name]
    lines = done.stderr.splitlines()
    assert lines[-1] == "error: 7 files of 9 skipped"
    assert len(lines) == 8
    assert all(line.startswith("skipped ") for line in lines[:-1])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{stem}-{end}.png" for stem in ("colour", "fine") for end in ("before-after", "restored")]


def test_no_file_is_replaced(denoiser: Place, tmp_path: Path) -> None:
    restorer, out = load_for_restoring(denoiser.home, "noisy"), tmp_path / "out"
    path = save(tmp_path / "a.png", digits(1)[0])
    assert [type(each) for each in restore_files(restorer, [path], out)] == [Restored]
    before = checksum(out)
    other = save(tmp_path / "b.png", digits(1)[0])
    with pytest.raises(InputError, match=r"a-restored\.png exists already"):
        restore_files(restorer, [other, path], out)
    assert checksum(out) == before
    twin = save(tmp_path / "twin" / "a.png", digits(1)[0])
    with pytest.raises(InputError, match=r"two of the pictures would become a-restored\.png"):
        restore_files(restorer, [path, twin], tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="not a folder"):
        restore_files(restorer, [path], other)


def test_nothing_is_written_where_no_file_is_a_picture(denoiser: Place, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    [skipped] = restore_files(load_for_restoring(denoiser.home, "noisy"), [tmp_path / "a.txt"], tmp_path / "out")
    assert isinstance(skipped, Skipped)
    assert not (tmp_path / "out").exists()


# --- Serving -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_printed_line_serves_the_numbers_that_restore_gives(champion: Place, tmp_path: Path) -> None:
    """A request's inputs are fitted pictures, their grey levels divided by 255; a wrong shape gets a 400."""
    restorer, random = load_for_restoring(champion.home, "small"), np.random.default_rng(1)
    pairs = [restorer(random.integers(0, 256, shape, np.uint8)) for shape in ((4, 4), (40, 60), (3, 2))]
    given, restored = torch.cat([given for given, *_ in pairs]), torch.cat([after for *_, after in pairs])
    printed = (champion.path.parent / "promoted.txt").read_text().splitlines()
    lines = dict(line.split(": ", 1) for line in printed if ": " in line)
    port = free_port()
    command = lines["serve it"].replace("-p 5001", f"-p {port}")
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, shell=True, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: server.poll() is not None or _status(f"{address}/ping") == 200, "answer from the server")
        answer = _ask(address, {"inputs": given.tolist()})
        served = np.array(answer["predictions"], np.float32)
        np.testing.assert_allclose(served, restored.numpy(), atol=1e-6)
        assert served.shape == (3, 1, 28, 28)
        [example] = [line for key, line in lines.items() if key.startswith("ask it")]
        asked = subprocess.run(example.replace(":5001", f":{port}"), shell=True, capture_output=True, check=True)
        assert np.shape(json.loads(asked.stdout)["predictions"]) == (1, 1, 28, 28)
        for wrong in (torch.zeros(1, 1, 28, 28), torch.zeros(1, 4, 4), torch.zeros(2, 3, 4, 4)):
            with pytest.raises(urllib.error.HTTPError) as refusal:
                _ask(address, {"inputs": wrong.tolist()})
            with refusal.value:
                assert refusal.value.code == 400, refusal.value.read()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _status(address: str) -> int | None:
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            return int(reply.status)
    except OSError:
        return None


def _ask(address: str, document: dict[str, Any]) -> dict[str, Any]:
    body, kind = json.dumps(document).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/invocations", body, kind), timeout=60) as reply:
        return dict(json.load(reply))
