"""`study reproduce`: a recorded trial is trained again, and is identical or the differences are listed."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
import torch
from studies_for_tests import Place, Printed, purge, study

from pipeline.workers.machine import device_here, precision_here

pytest_plugins = ["study_fixtures"]


def reproduce(place: Place, run_id: str) -> Printed:
    return study("reproduce", run_id, "--home", str(place.path))


def run_id_of(place: Place, state: str) -> str:
    found = [run.info.run_id for run in place.runs("trial") if run.data.tags["trial.state"] == state]
    return str(found[0])


def change_metrics(place: Place, statement: str, *values: object, many: bool = False) -> None:
    """Change one metric, or many, directly in MLflow's database."""
    with contextlib.closing(sqlite3.connect(place.path / "mlflow.db")) as database, database:
        changed = database.execute(statement, values).rowcount
        assert changed > 1 if many else changed == 1


@pytest.mark.parametrize("state", ["COMPLETE", "PRUNED"])
def test_reproduced_trial_is_identical_to_the_bit(finished: Place, state: str) -> None:
    run_id = run_id_of(finished, state)
    run = finished.client().get_run(run_id)
    (summary,) = [r.summary for r in finished.search().records() if r.summary and r.summary.run_id == run_id]
    figures = [key for key in run.data.metrics if key == "train/loss" or key.startswith("val/")]
    before = sorted(path for path in finished.path.rglob("*") if path.suffix != ".lock")

    done = reproduce(finished, run_id)

    said = f"identical: {len(figures) * summary.epochs} figures of {summary.epochs} epochs of {run.info.run_name}"
    assert (done.code, done.lines, done.stderr) == (0, [said], "")
    assert summary.epochs * len(figures) > 0
    assert sorted(path for path in finished.path.rglob("*") if path.suffix != ".lock") == before


def test_what_auto_means_is_stored_shown_and_recorded_with_each_run(finished: Place) -> None:
    facts = finished.search().facts
    precision = precision_here(device_here(facts["device"]))
    assert facts["precision"] == precision
    assert {run.data.params["precision"] for run in finished.runs("trial")} == {precision}
    shown = study("show", "small", "--home", str(finished.path))
    assert f'precision = "auto" means {precision} in this study' in shown.lines


def test_diverged_trial_diverges_again(finished: Place) -> None:
    done = reproduce(finished, run_id_of(finished, "FAIL"))
    said = [
        "identical: 0 figures of 0 epochs of trial-0000",
        "it failed as recorded: non-finite loss (nan) in epoch 1",
    ]
    assert (done.code, done.lines, done.stderr) == (0, said, "")


@pytest.mark.skipif(torch.cuda.is_available(), reason="tests the message without a GPU")
def test_a_training_on_a_gpu_is_not_reproduced_without_one(finished_copy: Place) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    config = json.loads(finished_copy.client().get_run(run_id).data.tags["zz.trial.config"])
    finished_copy.client().set_tag(run_id, "zz.trial.config", json.dumps(config | {"device": "cuda"}))
    done = reproduce(finished_copy, run_id)
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "trained on a GPU" in done.stderr


def test_failure_outside_training_is_not_reproduced(finished_copy: Place) -> None:
    """The machine killed the trial's worker again and again."""
    run = finished_copy.client().get_run(run_id_of(finished_copy, "COMPLETE"))
    for tag, value in (("trial.state", "FAIL"), ("trial.reason", "its worker died 4 times")):
        finished_copy.client().set_tag(run.info.run_id, tag, value)
    change_metrics(finished_copy, "delete from metrics where run_uuid = ? and step = 3", run.info.run_id, many=True)
    done = reproduce(finished_copy, run.info.run_id)
    assert done.code == 1
    assert done.lines[0].startswith("0 of ")
    assert done.lines[1] == "  failure: recorded 'its worker died 4 times', now 'epoch 3 was trained'"


@pytest.mark.parametrize("state", ["COMPLETE", "FAIL"])
def test_rebuilt_run_is_compared_only_in_what_it_has(finished_copy: Place, state: str) -> None:
    lost = finished_copy.client().get_run(run_id_of(finished_copy, state))
    purge(finished_copy, lost.info.run_id)
    assert study("doctor", "--repair", "--retrain", "--home", str(finished_copy.path)).code == 0
    (made,) = [run for run in finished_copy.runs("trial") if run.info.run_name == lost.info.run_name]
    done = reproduce(finished_copy, made.info.run_id)
    figures = [key for key in lost.data.metrics if key == "train/loss" or key.startswith("val/")]
    compared = len(figures) + 2 if state == "COMPLETE" else 0  # all of the best epoch, the objective of two others
    epochs = 3 if state == "COMPLETE" else 0
    assert (done.code, done.stderr) == (0, ""), done
    assert done.lines[0] == "the run was lost and rebuilt by doctor: for most epochs it has the objective only"
    assert done.lines[1] == f"identical: {compared} figures of {epochs} epochs of {lost.info.run_name}"


def test_a_metric_that_differs_is_named_with_its_epoch(finished_copy: Place) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    (then,) = [m.value for m in finished_copy.client().get_metric_history(run_id, "val/psnr") if m.step == 2]
    changed = then + 1e-9
    where = "where run_uuid = ? and key = 'val/psnr' and step = 2"
    change_metrics(finished_copy, f"update metrics set value = ? {where}", changed, run_id)

    done = reproduce(finished_copy, run_id)

    assert done.code == 1
    assert done.lines[0].startswith("1 of ")
    assert f"  epoch 2 val/psnr: recorded {changed}, now {then}" in done.lines
    assert len(done.lines) > 2  # what may be the reason
    assert done.stderr == "error: trial-0001 was not reproduced\n" or "was not reproduced" in done.stderr


def test_missing_metric_is_a_difference(finished_copy: Place) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    where = "where run_uuid = ? and key = 'val/ssim' and step = 1"
    change_metrics(finished_copy, f"delete from metrics {where}", run_id)
    done = reproduce(finished_copy, run_id)
    assert (done.code, done.lines[0].partition(" ")[0]) == (1, "1")
    assert "epoch 1 val/ssim: recorded None, now 0." in done.stdout


@pytest.mark.parametrize(
    ("tag", "value", "said"),
    [
        ("zz.env.versions", json.dumps({"torch": "1.0.0"}), "torch: recorded 1.0.0, now "),
        ("env.hardware", "another processor", "hardware: recorded another processor, now "),
        ("git.commit", "0123456", "git.commit: recorded 0123456, now "),
    ],
)
def test_differences_of_the_machine_are_listed(finished_copy: Place, tag: str, value: str, said: str) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    finished_copy.client().set_tag(run_id, tag, value)
    assert reproduce(finished_copy, run_id).code == 0  # only the figures are compared
    where = "where run_uuid = ? and key = 'train/loss' and step = 3"
    change_metrics(finished_copy, f"update metrics set value = 1 {where}", run_id)
    done = reproduce(finished_copy, run_id)
    assert done.code == 1
    assert f"  {said}" in done.stdout


@pytest.mark.parametrize("role", ["baseline", "study"])
def test_runs_that_trained_nothing_are_refused(finished: Place, role: str) -> None:
    run_id = finished.runs(role)[0].info.run_id
    done = reproduce(finished, run_id)
    said = f"error: run {run_id} ({role}) records no training of this program; give a trial's run\n"
    assert (done.code, done.stdout, done.stderr) == (2, "", said)


@pytest.mark.parametrize("run_id", ["0" * 32, "trial-0001", "../x", "a'b", "%s", "x" * 600])
def test_unknown_runs_are_refused(finished: Place, run_id: str) -> None:
    says = f"RUN {run_id[:80]!r}: allowed are a run id or its beginning, STUDY/TRIAL, or a run's name with --study\n"
    says = {
        "0" * 32: f"there is no run {run_id!r} at sqlite:///",
        "../x": "MLflow has no experiment of study '..' at sqlite:///",
    }.get(run_id, says)
    done = reproduce(finished, run_id)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {says}")
    assert len(done.stderr.splitlines()) == 1


def test_a_run_on_other_data_is_refused(finished_copy: Place) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    finished_copy.client().set_tag(run_id, "data.sha256", "0" * 64)
    done = reproduce(finished_copy, run_id)
    assert (done.code, done.stdout) == (2, "")
    assert "dataset mnist-5k here is not the one that it was trained on" in done.stderr


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"dataset": "mnist-5k", "epochs": -1}'])
def test_a_damaged_record_is_refused(finished_copy: Place, text: str) -> None:
    run_id = run_id_of(finished_copy, "COMPLETE")
    finished_copy.client().set_tag(run_id, "zz.trial.config", text)
    done = reproduce(finished_copy, run_id)
    assert (done.code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_absent_home_is_not_created(tmp_path: Path) -> None:
    done = study("reproduce", "0" * 32, "--home", str(tmp_path / "nowhere"))
    assert done.code in (1, 2)
    assert len(done.stderr.splitlines()) <= 2
    assert list(tmp_path.iterdir()) == []
