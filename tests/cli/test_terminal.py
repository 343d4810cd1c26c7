"""What reaches a terminal or a file: no password, no control character of others, and an error where it cannot be."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer
from servers import free_port
from studies_for_tests import STUDY, Place, study

from pipeline.cli.program import _opened_home
from pipeline.errors import InputError, Interrupted

pytest_plugins = ["study_fixtures"]

WRITTEN, MEANT = "pa%24s-w%7Brd", "pa$s-w{rd"
ESCAPE = "\x1b[31m[/nope]"
COMMANDS = {
    "run": ["run", "FILE"],
    "train": ["train", "FILE"],
    "prepare": ["prepare", "FILE"],
    "evaluate": ["evaluate", "0" * 32],
    "reproduce": ["reproduce", "0" * 32],
    "list": ["list"],
    "show": ["show", "small"],
    "export": ["export", "small", "-o", "small.csv"],
    "promote": ["promote", "small"],
    "replicate": ["replicate", "small"],
    "models": ["models"],
    "delete": ["delete", "small", "--yes"],
    "doctor": ["doctor"],
    "ui": ["ui", "small"],
}


@pytest.mark.parametrize("option", ["--storage", "--tracking-uri"])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_a_password(place: Place, command: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers are down, so that every command that needs one says so."""
    monkeypatch.setenv("STUDY_PATIENCE_S", "0")
    scheme, end = ("postgresql+psycopg", "/db") if option == "--storage" else ("http", "")
    address = f"{scheme}://user:{WRITTEN}@127.0.0.1:{free_port()}{end}"
    words = [str(place.file) if word == "FILE" else word for word in COMMANDS[command]]
    shown = []
    for debug in ([], ["--debug"]):
        done = study(*words, "--home", place.path, option, address, *debug)
        shown.append(done.stdout + done.stderr)
        assert "unexpected" not in done.stderr
    assert WRITTEN not in "".join(shown)
    assert MEANT not in "".join(shown)
    if (command, option) in [("run", "--storage"), ("list", "--storage"), ("models", "--tracking-uri")]:
        assert "user:***@127.0.0.1" in shown[0]
        assert "Traceback" in shown[1]


def test_names_from_a_store_cannot_move_the_cursor(place: Place) -> None:
    client = place.client()
    client.create_registered_model("m")
    client.create_model_version("m", place.path.as_uri(), tags={"study.name": ESCAPE})
    (place.path / "checkpoints" / "\x1b[31mred").mkdir(parents=True)
    home = ("--home", str(place.path))
    models, doctor, show = study("models", *home), study("doctor", *home), study("show", ESCAPE, *home)
    assert r"\x1b[31m[/nope]" in models.stdout
    assert r"\x1b[31mred" in doctor.stdout
    assert "\x1b" not in models.stdout + doctor.stdout + show.stdout + show.stderr
    assert (models.code, doctor.code, show.code) == (0, 1, 2)


@pytest.mark.parametrize(("output", "code", "says"), [
    ("/dev/full", 1, "error: standard output: No space left on device\n"),
    ("&-", 0, ""),
])  # fmt: skip
@pytest.mark.parametrize("command", ["list", "list --json"])
def test_standard_output_that_is_full_or_closed(
    finished: Place, command: str, output: str, code: int, says: str
) -> None:
    line = f"{STUDY} {command} --home {finished.path} >{output}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", says)


@pytest.mark.parametrize("clean_up", [OSError("the disk is gone"), InputError("the lock is gone")])
def test_a_clean_up_that_fails_does_not_hide_the_cause(
    clean_up: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        with _opened_home(home=tmp_path):
            try:
                raise Interrupted("as was asked")
            finally:
                raise clean_up

    with pytest.raises(typer.Exit) as ended:
        command()
    assert (ended.value.exit_code, capsys.readouterr().err) == (130, "stopped: as was asked\n")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "doctor", "promote", "delete"])
def test_a_read_only_home_is_one_clear_line(finished_copy: Place, command: str) -> None:
    """Root gives up what lets it write everywhere."""
    for path in [finished_copy.path, *finished_copy.path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    rights = "-dac_override,-dac_read_search"
    powerless = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"] if os.geteuid() == 0 else []
    words = [str(finished_copy.file) if word == "FILE" else word for word in COMMANDS[command]]
    line = [*powerless, str(STUDY), *words, "--home", str(finished_copy.path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert re.fullmatch(r"error: .*(not writable|Permission denied).*\n", done.stderr), done.stderr


def test_patience_that_is_no_number_is_refused_before_anything_is_written(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDY_PATIENCE_S", "abc")
    done = study("run", str(place.file), "--home", str(tmp_path / "new"))
    assert (done.code, done.stdout) == (2, "study small: starting\n")
    assert done.stderr == "error: STUDY_PATIENCE_S='abc': allowed are seconds, 0 or more\n"
    assert not (tmp_path / "new").exists()


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    line = f'mkdir "{tmp_path}/gone" && cd "{tmp_path}/gone" && rmdir "{tmp_path}/gone" && {STUDY} list'
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the working directory was deleted; change into one that exists\n"
