"""The stages one at a time: training without a search, evaluating a run, deleting a study."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from mlflow.entities import ViewType
from PIL import Image
from studies_for_tests import EPOCHS, Launcher, Place, Recorder, artifact, assert_sound, history, models, panels, study

from pipeline.config import TrialConfig, load_study_file
from pipeline.config.outcomes import Checkpoint
from pipeline.data import load
from pipeline.errors import ConfigError, InputError, Interrupted
from pipeline.evaluation.judge import judge_of
from pipeline.results.promote import promote
from pipeline.search.lock import study_lock
from pipeline.search.studies import study_names
from pipeline.study.driver import Options
from pipeline.study.single import Training, train_one
from pipeline.tracking.experiments import DELETED_TAG
from pipeline.tracking.registry import registered

pytest_plugins = ["study_fixtures"]

CHOSEN = ("model.bottleneck=32", "model.activation=relu", "train.optimizer=adam", "train.lr=1e-2")


def train(place: Place, *overrides: str, reporter: Any = None) -> Training:
    file = load_study_file(place.file, (*CHOSEN, *overrides))
    return train_one(file, place.home, Options(), reporter or Recorder())


def flags(*overrides: str) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def untimed_history(place: Place, run: Any) -> dict[str, list[tuple[int, float]]]:
    return {key: values for key, values in history(place, run).items() if not key.startswith("time/")}


# --- train ------------------------------------------------------------------------------------------------------------


def test_a_training_is_recorded_like_a_trial_with_the_numbers_of_its_epochs(place: Place, tmp_path: Path) -> None:
    done = study("train", str(place.file), "--home", str(place.path), "--seed", "7", *flags(*CHOSEN))
    assert (done.code, done.stderr) == (0, "")
    [run] = place.runs()
    assert run.info.run_id in done.stdout
    assert run.info.status == "FINISHED"
    assert run.info.run_name.startswith("train-")
    assert run.data.tags["study.role"] == "train"
    assert run.data.params["bottleneck"] == "32"
    assert [step for step, _ in panels(place, run)] == list(range(1, EPOCHS + 1))

    config = TrialConfig.model_validate_json(run.data.tags["zz.trial.config"])
    assert (config.seed, config.number, config.train.lr, config.model.activation) == (7, 0, 0.01, "relu")
    judge = judge_of(load("mnist-5k", place.home.data_dir), place.home.judges)
    before: Checkpoint | None = None
    written = untimed_history(place, run)
    for epoch in range(1, EPOCHS + 1):
        trained = tiny.train(config, before, place.home.data_dir, tmp_path / "epochs", judge)
        for key, value in trained.result.metrics.items():
            if not key.startswith("time/"):
                assert written[key][epoch - 1] == (epoch, value)
        before = trained.checkpoint
    assert not list((place.path / "checkpoints").rglob("*.safetensors"))


def test_a_finished_training_is_not_repeated_and_another_seed_is_another_training(place: Place) -> None:
    first, again, other = train(place), train(place), train(place, "seed=1")
    assert first == again
    assert other.run_id != first.run_id
    assert other.metrics["val/psnr"] != first.metrics["val/psnr"]
    assert len(place.runs()) == 2


def test_a_stopped_training_is_resumed_in_its_run(place: Place, tmp_path: Path) -> None:
    def interrupt(event: tuple[Any, ...]) -> None:
        if event[:3] == ("epoch", 0, 2):
            raise Interrupted("stopped by the test")

    with pytest.raises(Interrupted):
        train(place, reporter=Recorder(interrupt))
    [stopped] = place.runs()
    assert stopped.info.status == "SCHEDULED"
    assert study("doctor", "--home", str(place.path)).code == 0  # it does not report the checkpoints as leftovers

    recorder = Recorder()
    done = train(place, reporter=recorder)
    assert [event[1] for event in recorder.kind("epoch")] == [3]
    assert done.run_id == stopped.info.run_id

    whole = Place(tmp_path / "other" / "home", place.file)
    train(whole)
    [run], [uninterrupted] = place.runs(), whole.runs()
    assert untimed_history(place, run) == untimed_history(whole, uninterrupted)
    assert [digest for _, digest in panels(place, run)] == [digest for _, digest in panels(whole, uninterrupted)]


def test_a_training_killed_at_its_end_is_finished_by_the_same_command(
    place: Place, launcher: Launcher, tmp_path: Path
) -> None:
    arguments = ("train", str(place.file), "--home", str(place.path), *flags(*CHOSEN))
    steps = (
        ("INSERT INTO latest_metrics", 2),
        ("UPDATE runs", 1),  # it is about to end
        ("INSERT INTO logged_models", 1),
        ("UPDATE logged_models", 1),  # its model is created but not complete
    )
    for text, count in steps:
        killed = launcher.run(*arguments, kill_before=(text, count))
        assert killed.code() == -signal.SIGKILL, text
    folder = place.path / "checkpoints"
    done = launcher.run(*arguments)
    assert (done.code(), done.stderr) == (0, "")
    [run] = place.runs()
    assert run.info.status == "FINISHED"
    assert len(models(place)) == 1
    assert list(folder.iterdir()) == []

    (folder / run.data.tags["trial.uid"].removesuffix("-0") / "0000").mkdir(
        parents=True
    )  # as if killed before deleting it
    assert launcher.run(*arguments).code() == 0
    assert list(folder.iterdir()) == []

    whole = Place(tmp_path / "other" / "home", place.file)
    train(whole)
    [uninterrupted] = whole.runs()
    assert untimed_history(place, run) == untimed_history(whole, uninterrupted)


def test_equal_trainings_of_two_studies_are_separate(place: Place) -> None:
    first = train(place)
    other = train_one(load_study_file(place.file, CHOSEN, "other"), place.home, Options(), Recorder())
    assert other.name != first.name  # so their checkpoints are in different folders
    assert other.metrics["val/psnr"] == first.metrics["val/psnr"]


def test_train_refuses_while_run_holds_the_study(finished_copy: Place) -> None:
    with study_lock(finished_copy.home, "small"), pytest.raises(InputError, match="is being run by"):
        train(finished_copy)


def test_a_training_that_diverges_ends_with_an_error(place: Place) -> None:
    chosen = flags(
        "model.bottleneck=32", "model.activation=relu", "train.batch_size=64"
    )  # the enqueued values set the rest: lr = 1e9
    done = study("train", str(place.file), "--home", str(place.path), *chosen)
    assert done.code == 1
    [run] = place.runs()
    assert run.info.status == "FAILED"
    assert done.stderr == f"error: {run.info.run_name} failed: {run.data.tags['trial.reason']}\n"


def test_keys_without_a_value_are_named_and_nothing_is_written(place: Place) -> None:
    before = sorted(place.path.rglob("*"))
    done = study("train", str(place.file), "--home", str(place.path))
    assert done.code == 2
    assert done.stderr == (
        "error: one training needs a value for model.bottleneck, model.activation: "
        "fix them, as with --set model.bottleneck=…\n"
    )
    assert sorted(place.path.rglob("*")) == before


def test_set_values_override_enqueued_values(place: Place) -> None:
    config = load_study_file(place.file, CHOSEN).config
    assert config.enqueue == ({},)
    single = config.single()
    assert (single.model["bottleneck"], single.train["lr"], single.train["optimizer"]) == (32, 0.01, "adam")
    assert single.space.searched() == []
    assert (single.budget.trials, single.budget.epochs, single.pruner.name) == (1, EPOCHS, "none")
    with pytest.raises(ConfigError, match=r"needs a value for model\.activation"):
        load_study_file(place.file, ["model.bottleneck=32"]).config.single()


def test_a_training_does_not_change_its_study(finished_copy: Place) -> None:
    place = finished_copy
    before = study("show", "small", "--json", "--home", str(place.path)).stdout
    train(place)
    assert study("doctor", "--home", str(place.path)).code == 0
    outcome, _ = place.run()
    assert outcome.seconds == 0
    assert study("show", "small", "--json", "--home", str(place.path)).stdout == before
    [run] = place.runs("train")
    assert study("reproduce", run.info.run_id, "--home", str(place.path)).stdout.startswith("identical: ")


# --- evaluate ---------------------------------------------------------------------------------------------------------


def test_evaluation_gives_the_recorded_metrics_and_panel(finished: Place, tmp_path: Path) -> None:
    record = finished.search().records()[0]
    best = next(r for r in finished.search().records() if r.state == "COMPLETE")
    assert record.number == 0
    picture = tmp_path / "panel.png"
    arguments = ["evaluate", best.summary.run_id, "--home", str(finished.path)]
    done = study(*arguments, "--json", "-o", str(picture))
    assert done.code == 0, done.stderr
    evaluated = json.loads(done.stdout)
    assert evaluated["best_epoch"] == best.summary.best_epoch
    recorded = {key: value for key, value in best.summary.metrics.items() if key.startswith("val/")}
    assert evaluated["val"] == pytest.approx(recorded, rel=1e-4)  # the exported graph rounds in a different order

    run = finished.client().get_run(best.summary.run_id)
    stored = dict(panels(finished, run))
    assert len(stored) == best.summary.epochs
    with Image.open(picture) as now, Image.open(artifact(finished, run, "panel.png")) as then:
        difference = np.asarray(now, np.int16) - np.asarray(then, np.int16)
    assert np.abs(difference).max() <= 1

    lines = study(*arguments).lines
    assert lines[0].split() == [f"trial-{best.number:04d},", "epoch", str(best.summary.best_epoch), "now", "recorded"]
    assert {line.split()[0] for line in lines[1:]} == set(recorded)


def test_runs_that_cannot_be_evaluated_are_refused(finished: Place, tmp_path: Path) -> None:
    home = ["--home", str(finished.path)]
    pruned = next(r for r in finished.runs("trial") if r.data.tags["trial.state"] == "PRUNED")
    [about] = finished.runs("study")
    for run_id, message in (
        (pruned.info.run_id, "has no model"),
        (about.info.run_id, "records no training"),
        ("0" * 32, "there is no run"),
    ):
        done = study("evaluate", run_id, *home)
        assert (done.code, done.stdout) == (2, "")
        assert message in done.stderr
    for place in (tmp_path / "panel.jpg", tmp_path / "absent" / "panel.png"):
        done = study("evaluate", pruned.info.run_id, *home, "-o", str(place))
        assert (done.code, place.exists()) == (2, False)


# --- delete -----------------------------------------------------------------------------------------------------------


def test_nothing_is_deleted_without_confirmation(finished_copy: Place) -> None:
    done = study("delete", "small", "--home", str(finished_copy.path))
    assert done.code == 2
    assert "6 trials, " in done.stdout
    assert "--yes" in done.stderr
    assert_sound(finished_copy)


def test_a_deleted_study_leaves_nothing_and_can_be_run_again(finished_copy: Place) -> None:
    place = finished_copy
    promote(place.home, "small")
    train(place)
    before = study("show", "small", "--json", "--home", str(place.path)).stdout
    done = study("delete", "small", "--yes", "--home", str(place.path))
    assert (done.code, done.stderr) == (0, "")
    assert "small version 1 (champion)" in done.stdout
    assert study_names(place.home) == []
    assert registered(place.home) == []
    assert place.client().get_experiment_by_name("small") is None
    files = [p for p in place.path.rglob("*") if p.is_file() and p.suffix not in (".lock", ".db")]
    assert {p.parent.name for p in files} <= {"home", "judges"}
    assert study("delete", "small", "--yes", "--home", str(place.path)).code == 2

    place.run()
    assert_sound(place)
    again = json.loads(study("show", "small", "--json", "--home", str(place.path)).stdout)
    for now, then in zip(again["trials"], json.loads(before)["trials"], strict=True):
        for key in now.keys() - {"run_id", "started", "duration_s"}:
            assert now[key] == then[key], key


def test_deleting_a_study_leaves_other_studies_unchanged(finished_copy: Place) -> None:
    finished_copy.run(name="other", trials=1)
    assert study("delete", "other", "--yes", "--home", str(finished_copy.path)).code == 0
    assert_sound(finished_copy)
    assert study("doctor", "--home", str(finished_copy.path)).code == 0


def test_an_interrupted_deletion_is_finished_by_the_same_command(finished_copy: Place) -> None:
    place = finished_copy
    client = place.client()
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    number = experiment.experiment_id
    client.rename_experiment(number, f"deleted-{number}-small")
    client.delete_experiment(number)
    done = study("delete", "small", "--yes", "--home", str(place.path))
    assert (done.code, done.stderr) == (0, "")
    assert not list((place.path / "artifacts").glob("*"))
    assert study_names(place.home) == []


# Statements sent by the command itself; `mlflow gc` runs in its own process.
DELETING = ("DELETE FROM registered_models", "UPDATE experiments", "DELETE FROM studies")


@pytest.mark.parametrize("what", DELETING)
def test_a_deletion_killed_at_any_step_is_finished_by_the_same_command(
    finished_copy: Place, launcher: Launcher, what: str
) -> None:
    place = finished_copy
    promote(place.home, "small")
    arguments = ("delete", "small", "--yes", "--home", str(place.path))
    for count in range(1, 5):
        killed = launcher.run(*arguments, kill_before=(what, count))
        if killed.code() != -signal.SIGKILL:
            break
    assert (count > 1, killed.code(), killed.stderr) == (True, 0, "")
    assert (study_names(place.home), registered(place.home)) == ([], [])
    assert not list((place.path / "artifacts").glob("*"))
    assert [e.name for e in place.client().search_experiments(ViewType.ALL)] == ["Default"]
    assert place.client().search_registered_models() == []


def test_an_interrupted_deletion_of_a_training_without_a_study_is_finished_too(place: Place) -> None:
    train(place)
    client = place.client()
    client.create_registered_model("theirs")  # of another program, without this one's tags
    client.create_model_version("theirs", str(place.path.parent / "their-model"))
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    client.set_experiment_tag(experiment.experiment_id, DELETED_TAG, "true")
    client.rename_experiment(experiment.experiment_id, f"deleted-{experiment.experiment_id}-small")  # then killed
    done = study("delete", "small", "--yes", "--home", str(place.path))
    assert (done.code, "theirs" in done.stdout) == (0, False), done
    assert [e.name for e in client.search_experiments(ViewType.ALL)] == ["Default"]
    assert [version.model for version in registered(place.home)] == ["theirs"]


def test_experiments_of_other_programs_are_not_deleted(place: Place) -> None:
    place.client().create_experiment("other-program")
    for name in ("Default", "other-program"):
        assert study("delete", name, "--yes", "--home", str(place.path)).code == 2
    assert {e.name for e in place.client().search_experiments()} == {"Default", "other-program"}


def test_a_study_whose_tracking_store_is_lost_can_be_deleted(finished_copy: Place) -> None:
    (finished_copy.path / "mlflow.db").unlink()
    assert study("delete", "small", "--yes", "--home", str(finished_copy.path)).code == 0
    assert study_names(finished_copy.home) == []
    assert not (finished_copy.path / "mlflow.db").exists()


def test_a_study_that_is_being_run_is_not_deleted(finished_copy: Place) -> None:
    with study_lock(finished_copy.home, "small"):
        done = study("delete", "small", "--yes", "--home", str(finished_copy.path))
    assert done.code == 2
    assert "is being run by" in done.stderr
    assert_sound(finished_copy)
