"""Building on earlier work: a study that starts from another, and a trial's configuration trained longer."""

from __future__ import annotations

import json

import pytest
from mlflow.entities import Run
from studies_for_tests import EPOCHS, Place, assert_sound, history, study

from pipeline.config import TrialConfig
from pipeline.errors import InputError, NotFoundError
from pipeline.search.records import ranked
from pipeline.study.lines import PlainLines
from pipeline.study.session import Options
from pipeline.study.single import find_trial, train_one

pytest_plugins = ["study_fixtures"]


def configuration(run: Run) -> TrialConfig:
    return TrialConfig.model_validate_json(run.data.tags["zz.trial.config"])


def test_a_study_that_starts_from_another_says_what_it_took(finished_copy: Place) -> None:
    best, other, *_ = ranked(finished_copy.search().records(), "maximize")
    start = ("enqueue=[]", "warm_start.from=small", f"model.bottleneck={best.params['bottleneck']}")
    start += (f"train.optimizer={best.params['optimizer']}", f"model.activation={best.params['activation']}")
    _, recorder = finished_copy.run(*start, name="later", trials=1)
    notes = [text for (text,) in recorder.kind("note")]
    [taken] = [text for text in notes if "best trials of small these are enqueued" in text]
    assert taken.split(": ")[1].split(", ")[0] == str(best.number)
    [trial] = finished_copy.search("later").records()
    assert {key: trial.values[key] for key in best.values} == best.values
    shown = study("show", "later", *finished_copy.options)
    assert taken in shown.stdout
    document = json.loads(study("show", "later", "--json", *finished_copy.options).stdout)
    left = [each["trial"] for each in document["warm_start"]["left"]]
    assert (other.number in left) == any(f"trial {other.number} of small does not fit: " in text for text in notes)

    _, resumed = finished_copy.run(*start, name="later", trials=2)
    assert not [text for (text,) in resumed.kind("note") if "small" in text]
    assert_sound(finished_copy, 2, name="later")


def test_a_trial_is_trained_longer_with_its_schedule_stretched(finished_copy: Place) -> None:
    best = ranked(finished_copy.search().records(), "maximize")[0]
    named = f"small/{best.number}"
    for more in ([], ["--epochs", "5"]):
        done = study("train", named, *more, *finished_copy.options)
        assert (done.code, done.stderr) == (0, "")
    runs = {configuration(run).epochs: run for run in finished_copy.runs("train")}
    assert runs.keys() == {EPOCHS, 5}
    [original] = [run for run in finished_copy.runs("trial") if run.info.run_id == best.summary.run_id]
    for epochs, run in runs.items():
        assert run.data.tags["train.of"] == named
        changed = {"epochs": epochs, "number": 0}
        assert configuration(run) == configuration(original).model_copy(update=changed)
        assert len(history(finished_copy, run)["val/psnr"]) == epochs
    first = [history(finished_copy, run)["train/loss"][0] for run in runs.values()]
    assert first[0] != first[1], "the same first epoch, so the schedule of three epochs"
    assert study("doctor", *finished_copy.options).code == 0
    assert study("train", named, "--epochs", "5", *finished_copy.options).code == 0
    assert len(finished_copy.runs("train")) == 2


def test_a_trial_that_cannot_be_trained_is_refused(finished_copy: Place) -> None:
    for named, says in {
        "small/99": "study small has no trial 99; it has 6 trials, from 0",
        "smal/1": "there is no study 'smal'",
        "small/x": "there is no such study file",
    }.items():
        done = study("train", named, *finished_copy.options)
        assert (done.code, done.stderr.count("\n")) == (2, 1)
        assert says in done.stderr
    with pytest.raises(NotFoundError, match="no trial 99"):
        find_trial(finished_copy.home, "small/99")
    origin = find_trial(finished_copy.home, "small/1")
    assert origin is not None
    origin.search.facts = origin.search.facts | {"data.sha256": "0" * 64}
    with pytest.raises(InputError, match="mnist-5k: not the data that study small was trained on"):
        train_one(origin.file(), finished_copy.home, Options(), PlainLines(), origin)
    assert finished_copy.runs("train") == []
