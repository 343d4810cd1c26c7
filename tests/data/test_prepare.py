"""Data preparation as a stage, and the commands for data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from archives import PUBLISHED, archives, put
from PIL import Image
from studies_for_tests import Printed, study

from pipeline.config import load_study_file
from pipeline.config.catalogue import CATALOGUE
from pipeline.data import load
from pipeline.data.prepare import prepare
from pipeline.errors import ConfigError, DataError

STUDY = """
name = "any"
dataset = "{name}"
[degrade]
kind = "downscale"
factor = {factor}
"""


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small sets in place of fashion-mnist and usps, with intact files, and of kmnist, with a damaged one."""
    folder = tmp_path / "data"
    for name in ("fashion-mnist", "usps", "kmnist"):
        small = archives(name)
        monkeypatch.setitem(CATALOGUE, name, small.entry)
        put(folder / small.entry.folder, small.files)
    (folder / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
    return folder


STARTING = "study any: starting\n"


def study_file(folder: Path, name: str, factor: int = 2) -> Path:
    file = folder / "any.toml"
    file.write_text(STUDY.format(name=name, factor=factor))
    return file


def data_command(data_dir: Path, *arguments: str) -> Printed:
    return study("data", *arguments, "--data-dir", str(data_dir))


def test_prepare_prints_what_the_study_will_use(data_dir: Path, tmp_path: Path) -> None:
    file = study_file(tmp_path, "usps")
    done = study("prepare", str(file), "--data-dir", str(data_dir), "--home", str(tmp_path / "home"))
    assert (done.code, done.stderr) == (0, "")
    digest = load("usps", data_dir).digest
    for words in ("usps: verified in", str(data_dir), "16 x 16", "104 train, 13 val", "10 classes", digest):
        assert words in done.stdout, words
    said = json.loads(study("prepare", str(file), "--json", "--data-dir", str(data_dir)).stdout)
    assert said == {
        "name": "usps",
        "where": [str(data_dir)],
        "image_size": [16, 16],
        "sizes": {"train": 104, "val": 13, "select": 13, "test": 30},
        "classes": 10,
        "digest": digest,
    }
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("name", "factor", "says"),
    [
        ("usps", 3, "factor = 3 does not divide images of 16 x 16; allowed: 2, 4, 8, 16"),
        ("kmnist", 2, "t10k-labels-idx1-ubyte.gz: damaged"),
        ("no-such", 2, "allowed: mnist-5k, mnist, fashion-mnist"),
        ("folder:no-such", 2, "there is no such folder"),
    ],
)
def test_prepare_refuses_what_run_would_refuse(
    data_dir: Path, tmp_path: Path, name: str, factor: int, says: str
) -> None:
    file = study_file(tmp_path, name, factor)
    for command in (("prepare",), ("run", "--workers", "0")):
        done = study(*command, str(file), "--data-dir", str(data_dir), "--home", str(tmp_path / "home"))
        assert (done.code, done.stdout) == (2, "" if command == ("prepare",) or name == "no-such" else STARTING)
        assert says in done.stderr
        assert len(done.stderr.splitlines()) <= 2
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[sampler]\nname = 'tpe'\nfoo = 3", "[sampler] foo: tpe takes no such argument"),
        ("[train]\nbatch_size = [64, 128]", "up to 128 is searched, but usps has 104 training images"),
    ],
)
def test_prepare_and_train_refuse_what_run_would_refuse_of_the_study(
    data_dir: Path, tmp_path: Path, text: str, says: str
) -> None:
    file = study_file(tmp_path, "usps")
    file.write_text(f"{file.read_text()}\n{text}\n")
    for command, more in (("prepare", ()), ("run", ()), ("train", ("--home", str(tmp_path / "home")))):
        done = study(command, str(file), "--data-dir", str(data_dir), *more)
        assert (done.code, done.stdout) == (2, "" if command == "prepare" or "sampler" in text else STARTING), command
        if command != "train" or "sampler" in text:  # a single training first asks for one batch size
            assert says in done.stderr


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ("depth = [1, 3]\nunshuffle = [1, 2]", None),  # 14 x 14 pixels are 7 x 7 places, halved to 4, 2, 1
        ("depth = [1, 3]\nunshuffle = 4", "inputs of 4 x 4 pixels behind unshuffle = 4 can be halved 2 times at most"),
        ('depth = { by = "unshuffle", 4 = 2, default = 4 }\nunshuffle = [1, 4]', None),
        ('depth = { by = "unshuffle", 4 = 2, default = 4 }\nunshuffle = [2, 4]', "7 x 7 pixels behind unshuffle = 2"),
    ],
)
def test_the_deepest_network_of_each_unshuffle_must_fit_its_grid(
    tmp_path: Path, model: str, refused: str | None
) -> None:
    file = study_file(tmp_path, "mnist-5k")
    file.write_text(f'{file.read_text()}\n[model]\nlayer_type = "conv"\n{model}\n')
    config = load_study_file(file).config
    if refused is None:
        assert prepare(config, tmp_path).name == "mnist-5k"
    else:
        with pytest.raises(ConfigError, match=refused):
            prepare(config, tmp_path)


def test_copies_between_splits_are_reported(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(60):  # 50 of them are copies of the first ten
        pixels = np.full((16, 16), 20 * (number % 10), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    file = study_file(tmp_path, f"folder:{folder}")
    done = study("prepare", str(file), "--data-dir", str(data_dir))
    assert "note: 6 of the 6 val images are copies of training images" in done.stdout
    assert "note" not in study("prepare", str(study_file(tmp_path, "usps")), "--data-dir", str(data_dir)).stdout


def test_images_too_small_for_ssim_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "mnist", archives("mnist").entry)
    config = load_study_file(study_file(tmp_path, "mnist")).config
    put(tmp_path, archives("mnist").files)
    assert prepare(config, tmp_path).image_size == (28, 28)
    for number in range(40):
        Image.new("L", (30, 10), number).save(tmp_path / f"{number}.png")
    small = load_study_file(study_file(tmp_path, f"folder:{tmp_path}")).config
    with pytest.raises(DataError, match="SSIM needs images of at least 11 x 11 pixels, not 10 x 30"):
        prepare(small, tmp_path)


def test_list_names_every_set_and_does_not_hash_large_files(data_dir: Path) -> None:
    done = data_command(data_dir, "list")
    assert done.code == 0
    for name, entry in CATALOGUE.items():
        [line] = [line for line in done.lines if line.split()[:1] == [name]]
        assert entry.licence in line
        assert f"{entry.images:,}" in line
    rows = {row["name"]: row for row in json.loads(data_command(data_dir, "list", "--json").stdout)}
    assert list(rows) == list(CATALOGUE)
    states = {name: row["state"] for name, row in rows.items() if row["state"] != "absent"}
    assert states == {"mnist-5k": "verified", "fashion-mnist": "present", "kmnist": "damaged", "usps": "present"}
    assert rows["usps"]["where"] == [str(data_dir)]
    assert rows["usps"]["size"] == [16, 16]
    assert rows["emnist-byclass"]["where"] == []


def test_list_with_a_data_folder_that_does_not_exist(tmp_path: Path) -> None:
    rows = json.loads(data_command(tmp_path / "absent", "list", "--json").stdout)
    assert {row["name"] for row in rows if row["state"] == "absent"} == set(PUBLISHED)
    assert not (tmp_path / "absent").exists()


def test_verify_fails_if_a_set_is_damaged(data_dir: Path) -> None:
    done = data_command(data_dir, "verify")
    assert done.code == 1
    assert "not sound: kmnist" in done.stderr
    states = {line.split()[0]: line.split()[1] for line in done.lines if line[:1].isalpha()}
    assert states == {
        name: {"mnist-5k": "verified", "fashion-mnist": "verified", "usps": "verified", "kmnist": "damaged"}.get(
            name, "absent"
        )
        for name in CATALOGUE
    }
    (data_dir / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert data_command(data_dir, "verify").code == 0  # a missing set is no failure


@pytest.mark.parametrize(
    ("name", "code", "state"),
    [("usps", 0, "verified"), ("mnist-5k", 0, "verified"), ("kmnist", 1, "damaged"), ("mnist", 1, "absent")],
)
def test_verify_of_one_set(data_dir: Path, name: str, code: int, state: str) -> None:
    done = data_command(data_dir, "verify", name)
    assert done.code == code
    assert done.lines[0].split()[:2] == [name, state]
    again = data_command(data_dir, "verify", name, "--json")
    assert again.code == code
    [row] = json.loads(again.stdout)
    assert (row["name"], row["state"], bool(row["files"])) == (name, state, code == 0)


def test_verify_of_an_unknown_name(data_dir: Path) -> None:
    done = data_command(data_dir, "verify", "no-such")
    assert done.code == 2
    assert "known: mnist-5k, mnist" in done.stderr


def test_data_commands_have_the_common_options() -> None:
    for command in ("list", "verify"):
        text = study("data", command, "--help").stdout
        for option in ("--home", "--data-dir", "--debug", "--json"):
            assert option in text, (command, option)
    assert "verify" in study("data").stdout + study("data").stderr
