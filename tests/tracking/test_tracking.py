"""What MLflow holds of a study: read back from a real store with MLflow's own client."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.models
import numpy as np
import pytest
import tiny
import torch
from mlflow.entities import Run
from mlflow.types import TensorSpec
from PIL import Image
from studies_for_tests import (
    EPOCHS,
    SMALL,
    Place,
    Recorder,
    artifact,
    assert_sound,
    copied,
    history,
    labelled_panel,
    models,
    new_place,
    panels,
)

from pipeline.config import TrialConfig
from pipeline.config.choices import OBJECTIVES
from pipeline.config.outcomes import EpochResult
from pipeline.data import load
from pipeline.errors import Interrupted, NotFoundError, StudyError, TrackingError
from pipeline.evaluation.baselines import baseline
from pipeline.evaluation.batches import Restore, fixed_batches
from pipeline.evaluation.judge import judge_of
from pipeline.evaluation.panel import tiles
from pipeline.evaluation.scores import evaluate
from pipeline.home import open_home
from pipeline.provenance import git_state
from pipeline.study.session import precision_of
from pipeline.tracking.models import export, load_restorer
from pipeline.tracking.runs import Tracking, open_tracking, read_tracking
from pipeline.tracking.store import patience_with
from pipeline.training.weights import weights_bytes

pytest_plugins = ["study_fixtures"]

VALIDATION = {f"val/{name}" for name in (*OBJECTIVES, "bce_excess", "sharpness")}
EPOCH = {"train/loss", "time/epoch_s", "time/images_per_s"} | VALIDATION
BEST = {key.replace("val/", "best/") for key in VALIDATION}
END = {"objective", "best_epoch", "parameters", "multiply_adds"} | BEST


def of_state(place: Place, state: str) -> list[Run]:
    return [run for run in place.runs("trial") if run.data.tags["trial.state"] == state]


# --- the experiment and its runs --------------------------------------------------------------------------------------


def test_the_experiment_is_marked_as_training_and_described(finished: Place) -> None:
    experiment = finished.client().get_experiment_by_name("small")
    assert experiment is not None
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.artifact_location == finished.study_artifacts.as_uri()
    note = experiment.tags["mlflow.note.content"]
    for part in (
        "**small**",
        "downscale",
        "factor 7",
        "mnist-5k",
        "3,500 train",
        "val",
        "`psnr`",
        "`lr`",
        "tpe",
        "median",
    ):
        assert part in note


def test_runs_are_not_nested_and_have_their_roles(finished: Place) -> None:
    runs = finished.runs()
    assert [run.info.run_name for run in runs] == [
        "baseline-bicubic",
        "baseline-linear",
        "judge",
        "study-small",
        *(f"trial-{number:04d}" for number in range(6)),
    ]
    for run in runs:
        role = run.info.run_name.partition("-")[0]
        assert run.data.tags["study.role"] == role
        assert "mlflow.parentRunId" not in run.data.tags
        assert run.info.end_time >= run.info.start_time


def test_every_run_records_code_data_and_versions(finished: Place) -> None:
    digest = load("mnist-5k", finished.home.data_dir).digest
    file = hashlib.sha256(SMALL.encode()).hexdigest()
    for run in finished.runs():
        tags = run.data.tags
        assert tags["study.name"] == "small"
        assert tags["study.file_sha256"] == file
        assert tags["data.sha256"] == digest
        assert {key: tags[key] for key in ("git.commit", "git.dirty")} == git_state()
        assert json.loads(tags["zz.env.versions"])["torch"] == version("torch")
        assert "cores" in tags["env.hardware"]


def test_a_trial_s_tags_and_status_say_how_it_ended(finished: Place) -> None:
    ends = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
    uid = finished.search().uid
    for record, run in zip(finished.search().records(), finished.runs("trial"), strict=True):
        tags = run.data.tags
        assert (tags["trial.number"], tags["trial.uid"]) == (str(record.number), f"{uid}-{record.number}")
        assert (tags["trial.state"], run.info.status) == (record.state, ends[record.state])
        assert tags.get("trial.reason", "") == record.summary.reason
        assert bool(record.summary.reason) == (record.state != "COMPLETE")


def test_params_are_the_resolved_configuration(finished: Place) -> None:
    for record, run in zip(finished.search().records(), finished.runs("trial"), strict=True):
        params = run.data.params
        for key, value in record.params.items():
            assert params[key] == str(value)
        assert ("negative_slope" in params) == (params["activation"] == "leaky_relu")
        assert ("momentum" in params) == (params["optimizer"] == "sgd")
        rest = {"dataset": "mnist-5k", "degrade.kind": "downscale", "degrade.factor": "7", "epochs": "3", "seed": "0"}
        assert rest.items() <= params.items()
        assert {"loss", "batch_size", "depth", "lr_scheduler", "precision", "threads", "device"} <= params.keys()
        assert json.loads(run.data.tags["zz.trial.config"])["number"] == record.number


def test_metrics_are_logged_at_their_epochs(finished: Place) -> None:
    seen = set()
    for record, run in zip(finished.search().records(), finished.runs("trial"), strict=True):
        seen.add(record.summary.epochs)
        steps = list(range(1, record.summary.epochs + 1))
        written = history(finished, run)
        assert set(written) == (EPOCH | END if steps else set())
        for key in EPOCH & set(written):
            assert [step for step, _ in written[key]] == steps
        if steps:
            assert dict(written["val/psnr"]) == record.reported
            assert dict(written["objective"]) == {0: max(record.reported.values())}
            assert dict(written["best_epoch"]) == {0: record.summary.best_epoch}
            for key in VALIDATION:
                assert dict(written[key])[record.summary.best_epoch] == record.summary.metrics[key]
                assert dict(written[key.replace("val/", "best/")]) == {0: record.summary.metrics[key]}
            assert record.summary.cost.items() <= run.data.metrics.items()
    assert {0, EPOCHS} <= seen


def test_metrics_have_the_time_at_which_their_epoch_ended(finished: Place) -> None:
    [run, *_] = of_state(finished, "COMPLETE")
    stamps = [
        {metric.step: metric.timestamp for metric in finished.client().get_metric_history(run.info.run_id, key)}
        for key in ("train/loss", "val/psnr", "time/epoch_s")
    ]
    assert stamps[0] == stamps[1] == stamps[2]
    times = list(stamps[0].values())
    assert times == sorted(times)
    assert run.info.start_time <= times[0] <= times[-1] <= run.info.end_time


def test_baselines_have_the_same_metrics_and_a_panel(finished: Place) -> None:
    stored = finished.search().baselines
    for run in finished.runs("baseline"):
        name = run.info.run_name.removeprefix("baseline-")
        assert set(run.data.metrics) == VALIDATION | BEST | {"objective"}
        assert run.data.metrics["objective"] == run.data.metrics["val/psnr"]
        assert {key: run.data.metrics[key] for key in VALIDATION} == stored[name]
        assert {key: run.data.metrics[key.replace("val/", "best/")] for key in VALIDATION} == stored[name]
        assert run.data.params["degrade.kind"] == "downscale"
        assert [step for step, _ in panels(finished, run)] == [0]
        assert run.info.status == "FINISHED"


def test_the_figures_of_the_baselines_are_right(finished: Place) -> None:
    config = finished.search().config
    data = load(config.dataset, finished.home.data_dir)
    for run in finished.runs("baseline"):
        restore = baseline(run.info.run_name.removeprefix("baseline-"), data, config.degrade)
        judge = judge_of(data, finished.home.judges)
        for name, value in evaluate(restore, data.val, config.degrade, "val", judge).summary().items():
            assert run.data.metrics[f"val/{name}"] == pytest.approx(value, rel=1e-5)


def test_every_run_has_its_data_set_as_input(finished: Place) -> None:
    data = load("mnist-5k", finished.home.data_dir)
    for run in finished.runs():
        [entry] = run.inputs.dataset_inputs
        assert entry.dataset.name == "mnist-5k"
        assert data.digest.startswith(entry.dataset.digest)
        assert json.loads(entry.dataset.profile) == {"train": 3500, "val": 500, "select": 500, "test": 500}
        assert [(tag.key, tag.value) for tag in entry.tags] == [("mlflow.data.context", "training")]


# --- pictures ---------------------------------------------------------------------------------------------------------


def picture(place: Place, run: Run, step: int, key: str = "panel") -> np.ndarray:
    [entry] = [
        entry.path
        for entry in place.client().list_artifacts(run.info.run_id, "images")
        if entry.path.endswith(".png") and f"{key}+step+{step}+" in entry.path.replace("%", "+")
    ]
    with Image.open(artifact(place, run, entry)) as image:
        return np.asarray(image)


def test_an_epoch_s_panel_shows_ten_images_in_four_rows(finished: Place) -> None:
    [run, *_] = of_state(finished, "COMPLETE")
    [linear] = [run for run in finished.runs("baseline") if run.info.run_name == "baseline-linear"]
    shown = {step: picture(finished, run, step) for step in range(1, EPOCHS + 1)} | {0: picture(finished, linear, 0)}
    side = (28 + 2) * 3
    rows = {}
    for step, pixels in shown.items():
        assert pixels.dtype == np.uint8
        assert pixels.shape == (4 * side, 10 * side)
        rows[step] = pixels.reshape(4, side, 10 * side)
    for step in range(1, EPOCHS + 1):
        assert np.array_equal(rows[step][:2], rows[0][:2]), "the same images, degraded in the same way, everywhere"
        assert not np.array_equal(rows[step][2], rows[0][2])
    assert not np.array_equal(rows[1][2], rows[2][2])


def test_every_run_has_the_pictures_of_its_best_epoch(finished: Place) -> None:
    for run in [*finished.runs("trial"), *finished.runs("baseline")]:
        if "objective" not in run.data.metrics:
            continue
        best = picture(finished, run, int(run.data.metrics.get("best_epoch", 0)))
        assert np.array_equal(picture(finished, run, 0, "restored"), tiles(best))
        with Image.open(artifact(finished, run, "panel.png")) as image:
            labelled = np.asarray(image)
        height, width = best.shape
        assert np.array_equal(labelled[-height:, -width:], np.stack([best] * 3, -1))
        assert labelled.shape[1] < 1100, "it is readable at 900 pixels"


def test_the_image_folders_hold_no_other_files(finished: Place) -> None:
    for run in finished.runs():
        for entry in finished.client().list_artifacts(run.info.run_id, "images"):
            name = Path(entry.path).name
            assert name.startswith(("panel+", "panel%", "restored+", "restored%")), "another file hides all in the UI"


def test_the_study_s_run_holds_file_configuration_and_contact_sheet(finished: Place) -> None:
    [run] = finished.runs("study")
    assert artifact(finished, run, "study.toml").read_text() == SMALL
    stored = json.loads(artifact(finished, run, "study.json").read_text())
    assert stored == finished.search().config.canonical()
    rows = 2 + 2 + len(of_state(finished, "COMPLETE"))  # clean, degraded, two baselines, the best trials
    with Image.open(artifact(finished, run, "contact-sheet.png")) as sheet:
        assert sheet.mode == "RGB"
        assert sheet.size == (750, rows * 60), "wider ones are cut off in MLflow's notes"


# --- models -----------------------------------------------------------------------------------------------------------


def test_only_complete_trials_have_a_model(finished: Place) -> None:
    logged = {model.source_run_id: model for model in models(finished)}
    assert set(logged) == {run.info.run_id for run in of_state(finished, "COMPLETE")}
    for run in of_state(finished, "COMPLETE"):
        model = logged[run.info.run_id]
        assert str(model.status) == "READY"
        assert model.name == f"small-{run.info.run_name}"
        assert run.data.tags["zz.model.id"] == model.model_id
        [output] = run.outputs.model_outputs
        assert (output.model_id, output.step) == (model.model_id, run.data.metrics["best_epoch"])


@pytest.fixture
def logged(finished: Place) -> tuple[Run, Path]:
    """A complete trial's run and the folder of its model."""
    [run, *_] = of_state(finished, "COMPLETE")
    return run, finished.study_artifacts / "models" / run.data.tags["zz.model.id"] / "artifacts"


def test_a_model_has_its_signature_and_requirements(logged: tuple[Run, Path]) -> None:
    _, folder = logged
    info = mlflow.models.Model.load(folder)
    assert info.signature is not None
    assert info.signature.inputs.inputs == [TensorSpec(np.dtype(np.float32), (-1, 1, 4, 4))]
    assert info.signature.outputs.inputs == [TensorSpec(np.dtype(np.float32), (-1, 1, 28, 28))]
    assert [path.name for path in (folder / "data").iterdir()] == ["model.pt2"]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert f"torch=={version('torch')}" in requirements
    example = info.load_input_example(str(folder))
    assert np.asarray(example).shape == (2, 1, 4, 4)


def test_models_restore_as_well_as_their_trials_did(finished: Place) -> None:
    search, data = finished.search(), load("mnist-5k", finished.home.data_dir)
    judge = judge_of(data, finished.home.judges)
    for run in of_state(finished, "COMPLETE"):
        record = search.records()[int(run.data.tags["trial.number"])]
        model = load_restorer(run.data.tags["zz.model.id"], run.data.tags["zz.weights.sha256"])
        scored = evaluate(without_gradients(model), data.val, search.config.degrade, "val", judge).summary()
        assert {f"val/{k}": v for k, v in scored.items()} == pytest.approx(untimed_validation(record.summary.metrics))


def without_gradients(model: torch.nn.Module) -> Restore:
    def restore(degraded: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(degraded)

    return restore


def untimed_validation(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key in VALIDATION}


def test_a_model_is_the_network_of_the_best_epoch_for_any_batch(
    finished: Place, logged: tuple[Run, Path], tmp_path: Path
) -> None:
    """Trained again here; equal to the last bit."""
    run, _ = logged
    search, data = finished.search(), load("mnist-5k", finished.home.data_dir)
    record = search.records()[int(run.data.tags["trial.number"])]
    config, before = search.config.trial(record.values, record.number, "cpu", precision_of(search.facts)), None
    for _ in range(record.summary.best_epoch):
        before = tiny.train(config, before, finished.home.data_dir, tmp_path).checkpoint
    assert before is not None
    trained = without_gradients(tiny.restorer(config, data, before))
    model = without_gradients(load_restorer(run.data.tags["zz.model.id"], run.data.tags["zz.weights.sha256"]))
    degraded, clean = next(fixed_batches(data.val, config.degrade, "val"))
    for size in range(1, 6):
        restored = model(degraded[:size])
        assert torch.equal(restored, trained(degraded[:size]))
        assert restored.shape == clean[:size].shape
        assert restored.dtype == torch.float32
        assert restored.min() >= 0
        assert restored.max() <= 1
        assert restored.std() > 0.1


def test_no_pickle_is_among_the_artifacts(finished: Place) -> None:
    files = [path for path in (finished.path / "artifacts").rglob("*") if path.is_file()]
    assert any(path.suffix == ".pt2" for path in files)
    for path in files:
        assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"), path
        inner = {"": path.read_bytes()}
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = {name: archive.read(name) for name in archive.namelist()}
        for name, content in inner.items():
            assert not name.endswith(".pkl"), (path, name)
            pickled = content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05" and content.endswith(b".")
            assert not pickled, (path, name)


def test_the_digests_of_a_model_s_files_are_tags_of_its_run(logged: tuple[Run, Path]) -> None:
    run, folder = logged
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert json.loads(run.data.tags["zz.model.sha256"]) == files
    assert {"MLmodel", "data/model.pt2", "weights.safetensors"} <= set(files)
    assert run.data.tags["zz.weights.sha256"] == files["weights.safetensors"]


# --- everything may be written twice ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def again(finished: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Tracking]:
    place = copied(finished, tmp_path_factory.mktemp("again"))
    return place, read_tracking(place.home, "small", place.search().uid)


def snapshot(place: Place) -> dict[str, Any]:
    return {
        run.info.run_id: (
            run.data.params,
            history(place, run),
            panels(place, run),
            panels(place, run, "restored"),
            labelled_panel(place, run),
            [entry.dataset.to_dictionary() for entry in run.inputs.dataset_inputs],
        )
        for run in place.runs()
    } | {"models": sorted(model.model_id for model in models(place))}


def test_writing_a_run_again_changes_nothing(again: tuple[Place, Tracking]) -> None:
    place, tracking = again
    before, [run, *_] = snapshot(place), of_state(place, "COMPLETE")
    run_id, tags, data = run.info.run_id, run.data.tags, load("mnist-5k", place.home.data_dir)
    assert tracking.run(tags["trial.uid"], "again", tags, run.data.params, data, 0.0) == run_id
    metrics = place.client().get_metric_history(run_id, "val/psnr")
    results = [EpochResult(metric.step, {"val/psnr": metric.value}, metric.timestamp / 1000) for metric in metrics]
    tracking.log_epochs(run_id, results)
    panel = tracking.panel(run_id, 1)
    assert panel is not None
    tracking.log_images(run_id, {("panel", 1): panel, ("restored", 0): tiles(panel)}, look_first=True)
    tracking.log_figures(run_id, {key: run.data.metrics[key] for key in END})
    assert tracking.models.problem(run_id, tags) is None
    [objective] = place.client().get_metric_history(run_id, "objective")
    tracking.end(run_id, "COMPLETE", "", results, {"objective": objective.value}, objective.timestamp / 1000, {})
    tracking.end(run_id, "COMPLETE")
    assert snapshot(place) == before
    assert_sound(place)


def test_the_epochs_of_a_run_are_read_back(again: tuple[Place, Tracking]) -> None:
    place, tracking = again
    assert tracking.epochs(of_state(place, "COMPLETE")[0].info.run_id) == {1, 2, 3}
    assert tracking.epochs(of_state(place, "FAIL")[0].info.run_id) == frozenset()


def test_a_panel_that_does_not_exist_is_none(again: tuple[Place, Tracking]) -> None:
    place, tracking = again
    run_id = of_state(place, "COMPLETE")[0].info.run_id
    assert tracking.panel(run_id, 1) is not None
    assert tracking.panel(run_id, 11) is None, "11 is not 1"


def test_a_panel_is_read_back_unchanged(finished_copy: Place) -> None:
    tracking, [run, *_] = (
        read_tracking(finished_copy.home, "small", finished_copy.search().uid),
        finished_copy.runs("baseline"),
    )
    panel = np.arange(24 * 36, dtype=np.uint8).reshape(24, 36)
    tracking.log_images(run.info.run_id, {("panel", 7): panel})
    assert np.array_equal(tracking.panel(run.info.run_id, 7), panel)


def test_more_metrics_than_one_request_takes_are_all_logged(finished_copy: Place) -> None:
    tracking, [run, *_] = (
        read_tracking(finished_copy.home, "small", finished_copy.search().uid),
        finished_copy.runs("baseline"),
    )
    results = [EpochResult(epoch, {f"val/{i}": float(i) for i in range(60)}, 1.0) for epoch in range(1, 36)]
    tracking.log_epochs(run.info.run_id, results)
    for i in (0, 59):
        assert tracking.history(run.info.run_id, f"val/{i}") == dict.fromkeys(range(1, 36), float(i))


def test_a_run_is_read_by_its_id_unless_it_was_deleted(finished_copy: Place) -> None:
    tracking, [first, second, *_] = (
        read_tracking(finished_copy.home, "small", finished_copy.search().uid),
        finished_copy.runs("trial"),
    )
    stored = tracking.read(first.info.run_id)
    assert stored == tracking.find(first.data.tags["trial.uid"])
    assert stored is not None
    assert (stored.run_id, stored.tags, stored.metrics) == (first.info.run_id, first.data.tags, first.data.metrics)
    tracking.delete(second.info.run_id)
    assert tracking.read(second.info.run_id) is None
    assert tracking.find(second.data.tags["trial.uid"]) is None
    assert second.info.run_id not in {model.source_run_id for model in models(finished_copy)}
    assert tracking.read("0" * 32) is None


def test_a_half_logged_model_is_completed(finished_copy: Place) -> None:
    [run, *_] = of_state(finished_copy, "COMPLETE")
    tags, search = run.data.tags, finished_copy.search()
    client, tracking = finished_copy.client(), read_tracking(finished_copy.home, "small", search.uid)
    model = load_restorer(tags["zz.model.id"], tags["zz.weights.sha256"])
    config = TrialConfig.model_validate_json(tags["zz.trial.config"])
    client.delete_logged_model(tags["zz.model.id"])
    half = client.create_logged_model(tracking.experiment_id, name="model", source_run_id=run.info.run_id)
    example = np.random.default_rng(0).random((2, 1, 4, 4), dtype=np.float32)
    files = export(weights_bytes(model, config, (28, 28)), tags["zz.weights.sha256"], example)
    assert tracking.models.log(run.info.run_id, "a-model", files, 3) == half.model_id
    [left] = [m for m in models(finished_copy) if m.source_run_id == run.info.run_id]
    assert (left.model_id, str(left.status)) == (half.model_id, "READY")
    tags = client.get_run(run.info.run_id).data.tags
    assert tags["zz.model.id"] == half.model_id
    assert tags["zz.weights.sha256"] == search.ended(int(tags["trial.number"])).summary.weights_sha256
    again = load_restorer(half.model_id, tags["zz.weights.sha256"])
    assert torch.equal(again(torch.from_numpy(example)), model(torch.from_numpy(example)))


def test_the_exported_program_restores_as_the_weights_do(logged: tuple[Run, Path]) -> None:
    """What is served is what is evaluated; equal but for the last bits, as an exported graph is another program."""
    run, folder = logged
    exported = torch.export.load(folder / "data" / "model.pt2").module()
    rebuilt = load_restorer(run.data.tags["zz.model.id"], run.data.tags["zz.weights.sha256"])
    degraded = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(exported(degraded), rebuilt(degraded), rtol=0, atol=1e-6)


# --- stores -----------------------------------------------------------------------------------------------------------


def test_an_unknown_study_is_refused(finished: Place) -> None:
    with pytest.raises(NotFoundError, match="MLflow has no experiment of study 'other'"):
        read_tracking(finished.home, "other", "0" * 32)


def test_a_deleted_experiment_is_refused_and_the_message_says_what_to_do(finished_copy: Place) -> None:
    experiment = finished_copy.client().get_experiment_by_name("small")
    assert experiment is not None
    finished_copy.client().delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match=r"mlflow experiments restore -x 1\).*--name OTHER"):
        open_tracking(finished_copy.home, "small", finished_copy.search().uid, "", patience_with(finished_copy.home))


def test_every_home_has_a_store_of_its_own(migrated: Path, tmp_path: Path) -> None:
    """MLflow keeps the last store that was set in the environment, where the next home would find it."""
    environment = {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}
    places = [new_place(migrated, folder) for folder in folders(tmp_path)]
    for place in places:
        open_tracking(place.home, "one", "0" * 32, "", patience_with(place.home))
    for place in places:
        assert place.home.tracking_uri == f"sqlite:///{place.path / 'mlflow.db'}"
        assert place.client().get_experiment_by_name("one") is not None
    assert {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")} == environment


def folders(path: Path) -> Iterator[Path]:
    for name in ("a", "b"):
        (path / name).mkdir()
        yield path / name


def test_a_file_that_is_not_a_database_is_an_error_of_one_line(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    home.prepare()
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to be taken for one at first sight" * 10)
    with pytest.raises(StudyError) as refusal:
        open_tracking(home, "small", "0" * 32, "", patience_with(home))
    assert str(tmp_path / "mlflow.db") in str(refusal.value)
    assert len(str(refusal.value).splitlines()) == 1


def test_an_interrupted_study_leaves_no_run_running(place: Place) -> None:
    def stop(event: tuple[Any, ...]) -> None:
        if event[0] == "epoch":
            raise Interrupted("enough")

    with pytest.raises(Interrupted):
        place.run(reporter=Recorder(stop))
    assert {run.info.status for run in place.runs()} <= {"SCHEDULED", "FINISHED", "FAILED"}
    assert any(
        run.status in ("RUNNING", "SCHEDULED") for run in read_tracking(place.home, "small", place.search().uid).runs()
    )
