"""Folders of the user's own pictures, and images of any size and any number of classes: read, trained on, promoted."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from archives import archives, put
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from studies_for_tests import Place, study

from pipeline.config import load_study_file
from pipeline.config.catalogue import CATALOGUE
from pipeline.config.choices import LAYER_TYPES
from pipeline.data import LOADERS, Split, load, load_test
from pipeline.data.folder import read
from pipeline.data.prepare import prepare
from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.baselines import baseline_names
from pipeline.evaluation.panel import PANEL_SCALE, panel_indices

pytest_plugins = ["study_fixtures"]

HEIGHT, WIDTH, COUNT = 16, 24, 60


def scenes(count: int = COUNT, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Grey gradients with a bright bar, all different."""
    random = np.random.default_rng(7)
    pixels = np.linspace(0, 120, width)[None, None] * random.random((count, 1, 1)) + np.zeros((count, height, width))
    for picture in pixels:
        row = random.integers(0, height - 3)
        picture[row : row + 3] += 130
    return pixels.astype(np.uint8)


def save_pictures(folder: Path, pictures: np.ndarray, suffix: str = ".png") -> Path:
    """Write pictures as numbered files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number:04d}{suffix}")
    return folder


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "gallery", scenes())


# --- Reading -------------------------------------------------------------------------------------------------------


def test_pictures_are_split_at_random_without_labels(gallery: Path, tmp_path: Path) -> None:
    name = f"folder:{gallery}"
    seen, test = load(name, tmp_path), load_test(name, tmp_path)
    assert (seen.sizes, seen.classes) == ({"train": 42, "val": 6, "select": 6, "test": 6}, 0)
    assert seen.image_size == (HEIGHT, WIDTH)
    parts = (seen.train, seen.val, seen.select, test)
    assert all(part.labels is None for part in parts)
    everything = torch.cat([part.images for part in parts])[:, 0].numpy()
    assert sorted(p.tobytes() for p in everything) == sorted(p.tobytes() for p in scenes())
    order = {p.tobytes(): number for number, p in enumerate(scenes())}
    numbers = [order[p.numpy().tobytes()] for p in seen.train.images]
    assert numbers != sorted(numbers)


def test_the_digest_depends_on_the_pictures_and_not_on_the_folder(gallery: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(gallery, moved)
    before = load(f"folder:{gallery}", tmp_path)
    assert load(f"folder:{moved}", tmp_path).digest == before.digest
    pixels = scenes()
    pixels[5, 0, 0] ^= 1
    assert load(f"folder:{save_pictures(tmp_path / 'changed', pixels)}", tmp_path).digest != before.digest
    assert load(f"folder:{save_pictures(tmp_path / 'fewer', scenes()[1:])}", tmp_path).digest != before.digest
    turned = save_pictures(tmp_path / "turned", scenes().reshape(COUNT, WIDTH, HEIGHT))
    assert load(f"folder:{turned}", tmp_path).digest != before.digest


def test_prepare_reads_the_pictures_again(gallery: Path, tmp_path: Path) -> None:
    named(tmp_path / "a.toml", "folder:gallery")
    config = load_study_file(tmp_path / "a.toml").config
    before = prepare(config, tmp_path)
    save_pictures(gallery, scenes(70))
    assert load(config.dataset, tmp_path) is before
    assert prepare(config, tmp_path).sizes["train"] == 49


def test_subfolders_are_searched_and_hidden_and_other_files_are_left_out(gallery: Path) -> None:
    whole = read(gallery)
    (gallery / "0030.png").rename(gallery / "0029z.png")  # their order is what counts
    below = gallery / "0031"
    below.mkdir()
    (gallery / "0031.png").rename(below / "a.PNG")
    for hidden in (".hidden/a.png", ".b.png", "notes.txt", "Thumbs.db"):
        (gallery / hidden).parent.mkdir(exist_ok=True)
        (gallery / hidden).write_bytes(b"no picture")
    pixels, digest = read(gallery)
    assert np.array_equal(pixels, whole[0])
    assert digest == whole[1]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".pgm", ".gif"])
def test_lossless_formats_give_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    assert np.array_equal(read(save_pictures(tmp_path, scenes(), suffix))[0], scenes())


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats_give_nearly_the_same_pixels(tmp_path: Path, suffix: str) -> None:
    assert np.abs(read(save_pictures(tmp_path, scenes(), suffix))[0].astype(int) - scenes()).mean() < 5


def test_colours_bit_depths_and_orientations_are_converted_to_8_bit_grey(tmp_path: Path) -> None:
    folder = save_pictures(tmp_path / "mixed", scenes())
    grey = Image.fromarray(scenes()[0])
    Image.merge("RGB", [grey, grey, grey]).save(folder / "0000.png")
    Image.merge("RGBA", [grey, grey, grey, Image.new("L", grey.size, 255)]).save(folder / "0001.png")
    grey.quantize(256).save(folder / "0002.png")
    Image.fromarray(scenes()[0].astype(np.uint16) * 257).save(folder / "0003.png")
    turned = Image.fromarray(np.rot90(scenes()[0]))  # as a camera stores it, with a tag for the orientation
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "0004.png", exif=exif)
    Image.merge("RGB", [Image.fromarray(np.full((HEIGHT, WIDTH), v, np.uint8)) for v in (255, 0, 0)]).save(
        folder / "0005.png"
    )
    deep = scenes()[0].astype(">u2") * 257
    (folder / "0006.pgm").write_bytes(f"P5 {WIDTH} {HEIGHT} 65535 ".encode() + deep.tobytes())
    (folder / "0006.png").unlink()
    pixels, _ = read(folder)
    for number in (0, 1, 2, 3, 4, 6):
        assert np.abs(pixels[number].astype(int) - scenes()[0]).max() <= 1, number
    assert set(np.unique(pixels[5])) == {76}  # 0.299 of white


def test_every_linked_folder_is_read_once(gallery: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("a", "b"):
        (linked / name).symlink_to(gallery)
    (gallery / "round").symlink_to(linked)
    assert read(linked) == (pytest.approx(scenes()), read(gallery)[1])


def spoil(folder: Path, how: str) -> Path:
    """Make a folder unusable; return the path that the error must name."""
    seventh = folder / "0007.png"
    if how in ("absent", "a file", "empty"):
        shutil.rmtree(folder)
        if how == "a file":
            folder.write_text("")
        if how == "empty":
            folder.mkdir()
        return folder
    if how == "few":
        for path in sorted(folder.iterdir())[39:]:
            path.unlink()
        return folder
    if how == "of 32 bits":
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.float32)).save(folder / "0007.tif")
        return folder / "0007.tif"
    if how == "another size":
        Image.fromarray(scenes(1, HEIGHT, WIDTH + 1)[0]).save(seventh)
    elif how == "transparent":
        Image.merge("LA", [Image.fromarray(picture) for picture in scenes(2)]).save(seventh)
    elif how == "all alike":
        save_pictures(folder, np.full((COUNT, HEIGHT, WIDTH), 200, np.uint8))
        return folder
    elif how == "turned":
        Image.fromarray(scenes(1, WIDTH, HEIGHT)[0]).save(seventh)
    elif how == "no picture":
        seventh.write_text("not a picture")
    elif how == "PostScript":  # it would do what it says
        seventh.write_text(
            f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 16\n({folder / 'ran'}) (w) file closefile\n"
        )
    elif how == "a pipe":
        seventh.unlink()
        os.mkfifo(seventh)
    elif how == "cut short":
        seventh.write_bytes(seventh.read_bytes()[:-40])
    else:
        seventh.unlink()
        seventh.symlink_to("nothing")
    return seventh


SPOILT = {
    "absent": "there is no such folder",
    "a file": "there is no such folder",
    "empty": "0 pictures",
    "few": "39 pictures",
    "another size": "16 x 25 pixels, where 0000.png has 16 x 24",
    "turned": "24 x 16 pixels, where 0000.png has 16 x 24",
    "no picture": "its content is none of PNG, JPEG",
    "PostScript": "its content is none of PNG, JPEG",
    "a pipe": "it is not a file",
    "cut short": "cannot be read as a picture",
    "of 32 bits": "signed or of 32 bits",
    "transparent": "transparent in places; save it on the background",
    "all alike": "one even grey",
    "a dangling link": "No such file",
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_unusable_folder_is_one_clear_error(gallery: Path, tmp_path: Path, how: str) -> None:
    named = spoil(gallery, how)
    with pytest.raises(DataError, match=SPOILT[how]) as error:
        load(f"folder:{gallery}", tmp_path)
    assert not (gallery / "ran").exists()
    assert str(named) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_read_is_named() -> None:
    """Root can read every folder, so it becomes another user for a moment."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        gallery = save_pictures(Path(folder), scenes())
        gallery.chmod(0o755)
        save_pictures(gallery / "locked", scenes(1)).chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(DataError, match=f"folder {gallery / 'locked'}: cannot be read: Permission denied"):
                read(gallery)
        finally:
            os.seteuid(user)
            (gallery / "locked").chmod(0o755)


def test_too_many_pixels_are_refused_before_they_are_read(gallery: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.folder.MOST_BYTES", HEIGHT * WIDTH * COUNT - 1)
    with pytest.raises(DataError, match="use fewer or smaller"):
        read(gallery)


@given(content=st.binary(max_size=60), cut=st.integers(8, 200))
def test_any_bytes_are_a_picture_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, cut: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "any"
    if not folder.exists():
        save_pictures(folder, scenes())
    whole = (folder / "0001.png").read_bytes()
    (folder / "0000.png").write_bytes(whole[:cut] + content)
    try:
        pixels, _ = read(folder)
    except DataError as error:
        assert "0000.png" in str(error)  # noqa: PT017
        return
    assert pixels.shape == (COUNT, HEIGHT, WIDTH)


# --- Naming a folder in a study file -------------------------------------------------------------------------------


def named(file: Path, dataset: str, *overrides: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'name = "x"\ndataset = {json.dumps(dataset)}\n[degrade]\nkind = "gaussian"\nsigma = 0.5\n')
    return load_study_file(file, overrides).config.dataset


def test_a_path_is_relative_to_the_study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    (tmp_path / "cwd" / "studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "cwd")
    for file in (Path("studies/a.toml"), tmp_path / "cwd" / "studies" / "a.toml"):
        assert named(file, "folder:pictures") == f"folder:{tmp_path}/cwd/studies/pictures"
        assert named(file, "folder:../pictures/") == f"folder:{tmp_path}/cwd/pictures"
        assert named(file, "folder:~/pictures") == f"folder:{tmp_path}/me/pictures"
        assert named(file, "folder:/some/Bilder für [mich]") == "folder:/some/Bilder für [mich]"
        for override in ("dataset=folder:other", 'dataset="folder:other"'):
            assert named(file, "mnist", override) == f"folder:{tmp_path}/cwd/studies/other"


@pytest.mark.parametrize("path", ["", "a\nb", "a\x00b", "a\x1b[31mb", "a\x7f", "~nobody-of-that-name/x", "x" * 500])
def test_an_unusable_path_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match="dataset") as error:
        named(tmp_path / "a.toml", f"folder:{path}")
    assert str(error.value).isprintable()


# --- Training on any size and any number of classes ----------------------------------------------------------------


def other(count: int, size: tuple[int, int], classes: int) -> Split:
    pixels = torch.from_numpy(scenes(count, *size)).unsqueeze(1)
    return Split(pixels, torch.arange(count) % classes if classes else None)


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
@pytest.mark.parametrize(
    ("size", "classes", "columns"),
    [
        ((16, 16), 10, 10),
        ((20, 32), 0, 10),
        ((33, 13), 1, 10),
        ((12, 12), 2, 10),
        ((28, 28), 26, 10),
        ((11, 40), 47, 10),
    ],
)
@pytest.mark.parametrize("degrade", [{"kind": "gaussian", "sigma": 0.3}, {"kind": "poisson", "peak": 9.0}])
def test_a_leg_on_images_of_other_sizes(
    size: tuple[int, int],
    classes: int,
    columns: int,
    degrade: dict[str, Any],
    layer_type: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOADERS, "other", lambda _data_dir, _download: (other(480, size, classes), None, ["other"]))
    trial = tiny.trial(dataset="other", degrade=degrade, layer_type=layer_type)
    trained = tiny.train(trial, None, tmp_path, tmp_path / "epochs")
    assert all(np.isfinite(value) for value in trained.result.metrics.values())
    assert trained.panel.shape == (4 * (size[0] + 2) * PANEL_SCALE, columns * (size[1] + 2) * PANEL_SCALE)
    assert load("other", tmp_path).classes == classes


def test_the_panel_of_unlabelled_pictures_shows_the_first_ten() -> None:
    assert panel_indices(other(30, (12, 12), 0)) == tuple(range(10))
    assert panel_indices(other(4, (12, 12), 0)) == (0, 1, 2, 3)


def test_the_linear_baseline_is_left_out_if_its_matrix_would_be_huge() -> None:
    how = tiny.trial().degrade
    assert baseline_names(how, (64, 64)) == ["degraded", "linear"]
    assert baseline_names(how, (64, 65)) == ["degraded"]


PICTURES = ("--set", "dataset=folder:gallery", "--set", "degrade.factor=4", "--set", "train.batch_size=16")


def test_a_whole_study_of_a_folder(place: Place, tmp_path: Path) -> None:
    """Prepare, run, show, promote and export; the study file lies beside the folder that it names."""
    save_pictures(place.file.parent / "gallery", scenes(120))
    home = ("--home", str(place.path), "--data-dir", str(tmp_path / "nothing"))
    prepared = study("prepare", str(place.file), *PICTURES, "--json", *home)
    assert (prepared.code, prepared.stderr) == (0, "")
    said = json.loads(prepared.stdout)
    assert (said["sizes"]["train"], said["classes"], said["image_size"]) == (84, 0, [HEIGHT, WIDTH])
    assert said["where"] == [str(place.file.parent / "gallery")]
    ran = study(*place.arguments("--workers", "0", "--trials", "2", *PICTURES, "--set", "enqueue=[]", *home[2:]))
    assert ran.code == 0, ran.stderr
    assert study("list", *home).code == 0
    shown = json.loads(study("show", "small", "--json", *home).stdout)
    assert {trial["state"] for trial in shown["trials"]} == {"COMPLETE"}
    assert set(shown["baselines"]) == {"bicubic", "linear"}
    promoted = study("promote", "small", "--force", *home)
    assert promoted.code == 0, promoted.stderr
    assert study("export", "small", "-o", str(tmp_path / "table.csv"), *home).code == 0
    assert len(pd.read_csv(tmp_path / "table.csv")) == 2
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", ["usps", "emnist-letters"])
def test_a_whole_study_of_a_published_set(
    place: Place, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = archives(name)
    monkeypatch.setitem(CATALOGUE, name, small.entry)
    folder = put(tmp_path / "data", small.files)
    arguments = (
        "--set",
        f"dataset={name}",
        "--set",
        "degrade.factor=4",
        "--set",
        "enqueue=[]",
        "--set",
        "train.lr=0.01",
    )
    ran = study(*place.arguments("--workers", "0", "--trials", "2", *arguments, "--data-dir", str(folder)))
    assert ran.code == 0, ran.stderr
    assert f"on {name} (104 train, 13 val, 13 select, 30 test)" in ran.stdout
