"""The command line as a user sees it: processes, printed text, exit codes."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from studies_for_tests import SMALL, STUDY, TRIALS, Launcher, Place, assert_sound, copied, facts, study

from pipeline.results.front import COSTS
from pipeline.search.lock import study_lock

pytest_plugins = ["study_fixtures"]


def test_study_from_file_to_champion_and_table(
    finished: Place, place: Place, launcher: Launcher, tmp_path: Path
) -> None:
    """The main commands, with real Dask workers; the working directory gets only the file that was asked for."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    home = ("--home", str(place.path))

    ran = launcher.run(*place.arguments("--workers", "2", "--report"), cwd=cwd)
    assert ran.code() == 0, ran.stderr
    assert_sound(place)
    assert facts(place) == facts(finished), "the numbers depend on the number of workers"
    best = place.search().records()
    value = max(record.value for record in best if record.value is not None)
    for words in ("baseline bicubic", "baseline linear", "epoch 3/3", "loss", "next:", "study", f"{value:.4g}"):
        assert words in ran.stdout, words
    report = re.search(r"report: (.*\.html)", ran.stdout)
    assert report is not None
    assert Path(report[1]).is_file()
    assert f"--backend-store-uri sqlite:///{place.path}/mlflow.db" in ran.stdout
    assert "\x1b" not in ran.stdout

    again = launcher.run(*place.arguments("--workers", "2"), cwd=cwd)
    assert again.code() == 0
    assert "epoch 1/" not in again.stdout
    assert_sound(place)

    listed = launcher.run("list", *home, cwd=cwd)
    assert "small" in listed.stdout
    assert f"{TRIALS}/{TRIALS}" in listed.stdout
    shown = launcher.run("show", "small", *home, cwd=cwd)
    assert "linear" in shown.stdout
    assert "failed: non-finite" in shown.stdout
    promoted = launcher.run("promote", "small", *home, cwd=cwd)
    assert "small version 1 is champion" in promoted.stdout, promoted.stderr
    assert "champion" in launcher.run("models", *home, cwd=cwd).stdout
    exported = launcher.run("export", "small", "-o", "table.csv", *home, cwd=cwd)
    assert exported.code() == 0
    assert pd.read_csv(cwd / "table.csv")["objective"].iloc[0] == value
    assert sorted(os.listdir(cwd)) == ["table.csv"]


def test_run_writes_only_the_default_home_to_the_working_directory(tmp_path: Path) -> None:
    """The installed command in an empty folder, as a new user runs it."""
    (tmp_path / "small.toml").write_text(SMALL)
    command = [str(STUDY), "run", "small.toml", "--trials", "2", "--workers", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlruns", "small.toml"]
    kept = {path.name for path in (tmp_path / "mlruns").iterdir()}
    assert kept == {".gitignore", "artifacts", "checkpoints", "home.json", "judges", "locks", "mlflow.db", "optuna.db"}
    assert "study show small\n" in done.stdout
    assert "--home" not in done.stdout
    assert_sound(Place(tmp_path / "mlruns", tmp_path / "small.toml"), 2)


def in_a_terminal(*command: str) -> list[str]:
    """The lines that a command prints in a terminal of 80 columns, without colours."""
    leader, follower = os.openpty()
    with subprocess.Popen([STUDY, *command], stdout=follower, env={**os.environ, "COLUMNS": "80", "TERM": "xterm"}):
        os.close(follower)
        shown = b""
        with contextlib.suppress(OSError):  # raised at the end of the output
            while chunk := os.read(leader, 1 << 16):
                shown += chunk
    os.close(leader)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).splitlines()


def test_leaderboard_in_a_narrow_terminal_names_the_columns_left_out(finished: Place) -> None:
    lines = in_a_terminal("show", "small", "--home", str(finished.path))
    heading = next(line.split() for line in lines if line.split()[:2] == ["rank", "trial"])
    assert max(map(len, lines)) <= 80
    assert {"bottleneck", "activation"} <= set(heading)
    left = " ".join(lines).partition("no room for: ")[2]  # may take several lines
    assert "sharpness" in left
    assert "sharpness" not in heading


def test_closed_pipe_is_no_error(finished: Place) -> None:
    command = shlex.join([str(STUDY), "list", "--json", "--home", str(finished.path)])
    done = subprocess.run(f"{command} | true", shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_single_trainings_are_listed_and_shown_and_have_no_table(place: Place) -> None:
    chosen = ("enqueue=[]", "model.bottleneck=32", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")
    flags = [part for override in chosen for part in ("--set", override)]
    done = study("train", place.file, "--home", place.path, "--name", "alone", *flags)
    assert done.code == 0, done.stderr
    assert done.lines[0] == "study alone: starting"
    home = ("--home", place.path)
    shown, listed = study("show", "alone", *home), study("list", "--trainings", *home)
    [training] = json.loads(study("show", "alone", "--json", *home).stdout)["trainings"]
    for found in (shown, listed):
        line = next(line for line in found.lines if training["name"] in line)
        assert f"psnr {training['metrics']['objective']:.2f} dB" in line
        assert training["run_id"][:8] in line
    assert study("list", *home).stdout.startswith("no studies")
    assert study("show", "absent", *home).code == 2
    refused = study("export", "alone", "-o", place.path / "table.csv", *home)
    assert (refused.code, refused.stderr.count("\n")) == (2, 1)
    assert "alone has single trainings only" in refused.stderr
    evaluated = study("evaluate", f"alone/{training['name']}", "--json", *home)
    assert json.loads(evaluated.stdout)["run"] == training["name"]


def test_promote_and_models_print_json(finished_copy: Place) -> None:
    done = study("promote", "small", "--json", "--home", str(finished_copy.path))
    assert (done.code, done.stderr) == (0, "")
    promotion = json.loads(done.stdout)
    assert (promotion["model"], promotion["version"], promotion["replaced"]) == ("small", "1", None)
    assert {"psnr", "ssim", "bce_excess"} <= promotion["test"].keys()
    [version] = json.loads(study("models", "--json", "--home", str(finished_copy.path)).stdout)
    assert (version["version"], version["aliases"], version["run_id"]) == ("1", ["champion"], promotion["run_id"])


def test_promotion_refused_by_the_gate_is_one_line_and_exit_code_1(place: Place) -> None:
    poor = (
        "--set",
        "enqueue=[]",
        "--set",
        "train.optimizer=adam",
        "--set",
        "train.lr=1e-5",
        "--set",
        "budget.epochs=1",
    )
    assert study(*place.arguments("--workers", "0", "--trials", "1", *poor)).code == 0
    refused = study("promote", "small", "--home", str(place.path))
    assert (refused.code, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
    assert "are not shown to be better on select by psnr than bicubic" in refused.stderr
    assert "--force" in refused.stderr
    forced = study("promote", "small", "--force", "--home", str(place.path))
    assert forced.code == 0
    assert "small version 1 is champion" in forced.stdout


def test_reading_commands_print_json(finished: Place) -> None:
    home = ("--home", str(finished.path))
    [listed] = json.loads(study("list", "--json", *home).stdout)
    assert (listed["name"], listed["ended"], listed["metric"]) == ("small", TRIALS, "psnr")
    assert listed["state"] == "complete"
    shown = json.loads(study("show", "small", "--json", *home).stdout)
    assert len(shown["trials"]) == TRIALS
    assert set(shown["baselines"]) == {"bicubic", "linear"}
    assert shown["config"]["budget"]["trials"] == TRIALS
    assert json.loads(study("models", "--json", *home).stdout) == []


def test_nan_is_null_in_json(finished_copy: Place) -> None:
    """The sharpness of flat images is NaN, which JSON parsers refuse."""
    search = finished_copy.search()
    search.baselines = {"linear": search.baselines["linear"] | {"val/sharpness": math.nan}}
    shown = study("show", "small", "--json", "--home", str(finished_copy.path)).stdout
    document = json.loads(shown, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert document["baselines"]["linear"]["val/sharpness"] is None
    assert document["baselines"]["linear"]["val/psnr"] > 0


def test_next_commands_have_the_options_that_were_given(finished: Place, tmp_path: Path) -> None:
    """They can be typed as they are printed: spaces are quoted."""
    (tmp_path / "my place").mkdir()
    place = copied(finished, tmp_path / "my place")
    data, storage = tmp_path / "my data", f"sqlite:///{place.path}/optuna.db?timeout=60"
    done = study(*place.arguments("--data-dir", str(data), "--storage", storage))
    assert (done.code, done.stderr) == (0, "")
    [promote] = [shlex.split(line) for line in done.lines if "promote small" in line]
    assert promote[-4:] == ["--home", str(place.path), "--storage", storage]
    assert "--data-dir" not in done.stdout
    assert json.loads((place.path / "home.json").read_text())["data"] == {"mnist-5k": str(data)}
    [ui] = [shlex.split(line) for line in done.lines if "--backend-store-uri" in line]
    assert ui[ui.index("--backend-store-uri") + 1] == f"sqlite:///{place.path}/mlflow.db"


REFUSED = {
    "no file": (("run", "absent.toml"), "absent.toml"),
    "a key misspelled": (("run", "FILE", "--set", "model.dept=3"), "did you mean 'depth'"),
    "a value out of bounds": (("run", "FILE", "--set", "budget.trials=0"), "trials"),
    "a name that is a path": (("run", "FILE", "--name", "../x"), "not allowed"),
    "a negative number of workers": (("run", "FILE", "--workers", "-1"), "--workers"),
    "a factor that does not divide": (("run", "FILE", "--set", "degrade.factor=5"), "allowed: 2, 4, 7"),
    "no such study": (("show", "absent"), "no study 'absent'"),
    "no such study to promote": (("promote", "../absent"), "no study"),
    "no such study to export": (("export", "absent", "-o", "x.doc"), "absent"),
    "an unknown format": (("evaluate", "0" * 32, "-o", "x.jpg"), "allowed: .png"),
    "a tracking URI of another kind": (("list", "--tracking-uri", "file:///tmp"), "allowed"),
    "an address of MLflow that is none": (("list", "--tracking-uri", "http://[::1"), "allowed are http://…"),
    "a storage in memory": (("list", "--storage", "sqlite://"), "allowed are postgresql+psycopg://…"),
    "another kind of storage": (("list", "--storage", "mysql://u:secret@h/d"), "--storage mysql://u:***@h/d: allowed"),
    "a storage in no folder": (("run", "FILE", "--storage", "sqlite:////nonexistent/x"), "no folder /nonexistent"),
    "a home that is not UTF-8": (("list", "--home", "/tmp/\udcff"), "--home /tmp/\\udcff: "),
    "a port out of range": (("ui", "--port", "99999"), "65535"),
    "no such option": (("run", "FILE", "--frobnicate"), "--frobnicate"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_at_most_two_lines_exit_code_2_and_writes_nothing(case: str, place: Place, tmp_path: Path) -> None:
    arguments, says = REFUSED[case]
    home = tmp_path / "untouched"
    given = [str(place.file) if word == "FILE" else word for word in arguments]
    done = study(*given, *([] if "--home" in given else ["--home", str(home)]))
    assert done.code == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    if case not in ("no such option", "a port out of range"):  # typer prints its usage text
        assert len(done.stderr.strip().splitlines()) <= 2
    assert not home.exists()


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = study("run", str(tmp_path / "absent.toml"), "--debug")
    assert done.code == 2
    assert "Traceback" in done.stderr


def test_a_study_with_no_complete_trial_fails(place: Place) -> None:
    home = ("--home", str(place.path), "--workers", "0", "--trials", "1")
    done = study("run", str(place.file), *home, "--set", "train.lr=1e9", "--set", "train.optimizer=sgd")
    assert done.code == 1
    assert "no trial was completed" in done.stderr
    assert study("promote", "small", "--home", str(place.path)).code == 1


def test_version_and_completion(finished: Place, tmp_path: Path) -> None:
    assert study("--version").stdout == f"study {importlib.metadata.version('restoration-study')}\n"
    words = {
        "COMP_WORDS": f"study show --home {finished.path} sm",
        "COMP_CWORD": "4",
        "_STUDY_COMPLETE": "complete_bash",
    }
    for home, names in ((finished.path, "small"), (tmp_path / "none", "")):
        asked = words | {"COMP_WORDS": f"study show --home {home} sm"}
        done = subprocess.run([STUDY], env=os.environ | asked, capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == (names, "")


def test_a_stopped_study_is_not_called_running(finished_copy: Place) -> None:
    home = ("--home", str(finished_copy.path))
    search = finished_copy.search()
    search.study.set_user_attr("config", search.study.user_attrs["config"] | {"budget": {"trials": TRIALS + 1}})
    search.ask()
    [listed] = json.loads(study("list", "--json", *home).stdout)
    assert (listed["ended"], listed["state"]) == (TRIALS, "stopped")
    shown = study("show", "small", "--all", *home).stdout
    assert "1 unfinished" in shown
    with study_lock(finished_copy.home, "small"):
        assert json.loads(study("list", "--json", *home).stdout)[0]["state"] == "running"
        assert "1 running" in study("show", "small", *home).stdout


def test_program_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline", "--help"], capture_output=True, text=True, check=True)
    for command in ("run", "list", "show", "ui", "promote", "models", "export", "reproduce", "doctor"):
        assert f"  {command} " in done.stdout


def test_every_command_has_the_common_options(finished: Place) -> None:
    for command in ("run", "list", "show", "ui", "promote", "models", "export", "reproduce", "doctor"):
        text = study(command, "--help").stdout
        for option in ("--home", "--data-dir", "--tracking-uri", "--storage", "--debug"):
            assert option in text, (command, option)
    assert study("list", "--home", str(finished.path)).code == 0


def test_ui_is_served_on_this_machine_only_and_ends_with_all_its_processes(finished_copy: Place) -> None:
    """Of a home that was moved, whose pictures it shows."""
    [trial, *_] = [r.info.run_id for r in finished_copy.runs("trial") if r.data.tags["trial.state"] == "COMPLETE"]
    moved = finished_copy.path.rename(finished_copy.path.with_name("moved"))
    command = [str(STUDY), "ui", "small", "--port", "0", "--no-browser", "--home", str(moved)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address is not None
        picture = f"{address[0]}/get-artifact?path=panel.png&run_uuid={trial}"
        with urllib.request.urlopen(picture, timeout=60) as reply:
            assert reply.read().startswith(b"\x89PNG")
        children = _descendants(server.pid)
        assert children
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=60) == 0
        assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    finally:
        server.send_signal(signal.SIGINT)  # killed, it would leave the processes of its server
        server.communicate(timeout=60)


def test_ui_of_a_home_without_studies_is_refused(tmp_path: Path) -> None:
    done = study("ui", "--home", str(tmp_path / "none"))
    assert done.code == 2
    assert "no study" in done.stderr
    assert not (tmp_path / "none").exists()


def _descendants(pid: int) -> list[int]:
    listing = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    children = [int(word) for word in listing.split()]
    return children + [below for child in children for below in _descendants(child)]


def test_show_prints_the_front_and_has_it_as_json(finished: Place) -> None:
    shown = study("show", "small", "--front", *finished.options)
    assert "front: no other complete trial has as good a psnr with as few parameters or multiply-adds" in shown.stdout
    document = json.loads(study("show", "small", "--front", "--json", *finished.options).stdout)
    complete = {trial["number"]: trial for trial in document["trials"] if trial["state"] == "COMPLETE"}
    best = max(complete.values(), key=lambda trial: trial["objective"])
    for name in COSTS:
        entries = document["front"][name]
        assert entries[-1] == {"trial": best["number"], name: best[name], "psnr": best["objective"]}
        assert all(entry["psnr"] == complete[entry["trial"]]["objective"] for entry in entries)
    assert "front" not in json.loads(study("show", "small", "--json", *finished.options).stdout)
    assert "front:" not in study("show", "small", *finished.options).stdout
