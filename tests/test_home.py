"""A home's identity: copies, moves, what lies inside it, and what it refuses to remove."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, StudyError
from pipeline.home import Home, open_home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = open_home(tmp_path / "home")
    home.prepare()
    return home


def test_a_home_keeps_its_id(home: Home) -> None:
    before = home.id
    assert len(before) == 32
    home.prepare()
    assert (home.id, home.original, home.moved_from) == (before, None, None)


def test_many_first_uses_at_a_time_make_one_identity(tmp_path: Path) -> None:
    def use(_: int) -> str:
        home = open_home(tmp_path / "fresh")
        home.prepare()
        return home.id

    with ThreadPoolExecutor(12) as pool:
        ids = set(pool.map(use, range(12)))
    assert len(ids) == 1
    assert "" not in ids


def test_a_copy_is_told_from_a_move(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.path, tmp_path / "other")
    other = open_home(tmp_path / "other")
    assert (other.original, other.moved_from) == (home.path, None)
    with pytest.raises(InputError, match=f"is a copy of {home.path}.*doctor --adopt"):
        other.prepare()
    assert home.original is None

    shutil.rmtree(home.path)
    assert (other.original, other.moved_from) == (None, home.path)
    other.prepare()  # a moved home may be used


def test_a_home_of_another_id_at_the_old_path_is_no_original(home: Home, tmp_path: Path) -> None:
    home.path.rename(tmp_path / "moved")
    open_home(home.path).prepare()
    moved = open_home(tmp_path / "moved")
    assert (moved.original, moved.moved_from) == (None, home.path)


def test_a_link_to_a_home_is_the_same_home(home: Home, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home.path)
    linked = open_home(tmp_path / "link")
    assert (linked.path, linked.original, linked.moved_from) == (home.path, None, None)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"id": 3}', '{"id": "../x", "path": "/x", "format": 1}', '{"id": "%s", "path": "/x"}'],
)
def test_a_folder_whose_identity_is_of_another_format_is_refused(home: Home, content: str) -> None:
    (home.path / "home.json").write_text(content.replace("%s", "0" * 32))
    assert home.id == ""
    with pytest.raises(InputError, match=r"home\.json is missing or of another format"):
        home.prepare()
    assert (home.path / "home.json").read_text() == content.replace("%s", "0" * 32)


@pytest.mark.parametrize("option", [{"path": Path("~no-such-user/x")}, {"data_dir": Path("~no-such-user/x")}])
def test_the_folder_of_an_unknown_user_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="~no-such-user"):
        open_home(**option)


def test_databases_without_an_identity_are_refused(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"")
    with pytest.raises(InputError, match=r"home\.json is missing"):
        open_home(tmp_path).prepare()
    assert not (tmp_path / "home.json").exists()


def test_an_interrupted_adoption_is_refused_until_it_is_completed(home: Home, tmp_path: Path) -> None:
    shutil.copytree(home.path, tmp_path / "other")
    other = open_home(tmp_path / "other")
    other.identify(new=True)
    assert (other.original, other.replaces) == (None, home.id)
    assert other.id != home.id
    with pytest.raises(InputError, match="its adoption was interrupted"):
        other.prepare()
    other.identify(adopted=True)
    other.prepare()
    assert other.replaces is None
    assert json.loads((other.path / "home.json").read_text()).keys() == {"id", "path", "format"}


def outside(home: Home) -> list[Path]:
    return [home.path.parent / "victim", home.path / ".." / "victim", home.path, home.path / "..", Path("/")]


@pytest.mark.parametrize("which", range(5))
def test_nothing_outside_a_home_is_removed(home: Home, which: int) -> None:
    victim = home.path.parent / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    with pytest.raises(StudyError, match="lies outside the home"):
        home.remove(outside(home)[which])
    assert (victim / "file").read_text() == "kept"
    assert home.id


def test_files_folders_and_links_of_a_home_are_removed(home: Home, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").write_text("kept")
    folder, file, link = home.path / "folder", home.path / "file", home.path / "link"
    (folder / "inner").mkdir(parents=True)
    file.write_text("")
    link.symlink_to(tmp_path / "target")
    for path in (folder, file, link, home.path / "absent"):
        home.remove(path)
        assert not path.exists()
    assert (tmp_path / "target" / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "uid", ["", "..", "../x", "/etc", "a" * 31, "A" * 32, "train-1", "train-" + "g" * 16, "0" * 33]
)
def test_a_uid_of_another_form_becomes_no_path(home: Home, uid: str) -> None:
    with pytest.raises(StudyError, match="is not the uid of a study"):
        home.checkpoints(uid)


def test_a_data_folder_is_remembered_with_its_data_set(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    found = open_home(home.path, tmp_path / "data")
    found.remember_data("mnist")
    assert home.with_data("mnist").data_dir == tmp_path / "data"
    assert home.with_data("kmnist").data_dir == home.data_dir
    other = open_home(home.path, tmp_path / "other")  # what is given wins
    assert other.with_data("mnist").data_dir == tmp_path / "other"
    home.remember_data("kmnist")  # nothing was given
    assert json.loads((home.path / "home.json").read_text())["data"] == {"mnist": str(tmp_path / "data")}


def test_a_data_folder_in_the_environment_wins_over_the_remembered_one(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    open_home(home.path, tmp_path / "data").remember_data("mnist")
    monkeypatch.setenv("STUDY_DATA_DIR", str(tmp_path / "given"))
    assert open_home(home.path).with_data("mnist").data_dir == tmp_path / "given"


def test_a_remembered_data_folder_that_is_gone_is_not_used(home: Home, tmp_path: Path) -> None:
    open_home(home.path, tmp_path / "data").remember_data("mnist")
    assert home.with_data("mnist").data_dir == home.data_dir


def test_copies_and_moved_homes_remember_the_data_folder(home: Home, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    open_home(home.path, tmp_path / "data").remember_data("mnist")
    shutil.copytree(home.path, tmp_path / "copy")
    copy = open_home(tmp_path / "copy", tmp_path)
    copy.remember_data("kmnist")  # a copy may only be read
    assert "kmnist" not in (copy.path / "home.json").read_text()
    copy.identify(new=True)
    copy.identify(adopted=True)
    home.path.rename(tmp_path / "moved")
    for path in ("copy", "moved"):
        assert open_home(tmp_path / path).with_data("mnist").data_dir == tmp_path / "data"
