"""Promotion: the best by validation, compared with the baselines, registered, its files verified when it is loaded."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from studies_for_tests import Place, artifact, checksum, study

import pipeline
from pipeline.data import load, load_test
from pipeline.errors import GateError, InputError, NotFoundError, TrackingError
from pipeline.evaluation.judge import judge_of
from pipeline.evaluation.scores import evaluate
from pipeline.results.promote import promote
from pipeline.search.records import ranked
from pipeline.tracking.registry import find_version, load_champion, registered, withdraw_version
from pipeline.tracking.uids import trial_uid

pytest_plugins = ["study_fixtures"]


def test_the_best_becomes_champion(finished_copy: Place) -> None:
    best = ranked(finished_copy.search().records(), "maximize")[0]
    done = promote(finished_copy.home, "small")
    assert (done.model, done.version, done.trial, done.replaced) == ("small", "1", best.number, None)
    assert all(done.select["psnr"].mean > value for value in done.baselines.values())
    [version] = registered(finished_copy.home)
    assert (version.aliases, version.run_id, version.version) == (("champion",), done.run_id, "1")
    assert float(version.tags["test.psnr"]) == pytest.approx(done.test["psnr"].mean, rel=1e-5)
    assert version.tags["forced"] == "false"


def test_listing_models_imports_no_torch(finished_copy: Place) -> None:
    promote(finished_copy.home, "small", force=True)
    code = f"""
import sys
from pathlib import Path
from pipeline.home import open_home
from pipeline.tracking.registry import registered
from pipeline.tracking.experiments import experiment_names
home = open_home(Path({str(finished_copy.path)!r}))
print(len(registered(home)), experiment_names(home), "torch" in sys.modules, "mlflow.pytorch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 {'small'} False False\n"


def test_all_models_are_listed_and_not_only_mlflow_s_first_page(finished_copy: Place) -> None:
    client = finished_copy.client()
    for i in range(101):
        client.create_registered_model(f"another-{i:03d}")
    promote(finished_copy.home, "small")
    assert [version.model for version in registered(finished_copy.home)] == ["small"]


def test_an_edited_tag_of_the_run_does_not_end_a_promotion(finished_copy: Place) -> None:
    best = ranked(finished_copy.search().records(), "maximize")[0]
    finished_copy.client().delete_tag(best.summary.run_id, "trial.uid")
    finished_copy.client().set_tag(best.summary.run_id, "replicate", "9")
    promote(finished_copy.home, "small")
    [version] = registered(finished_copy.home)
    assert version.tags["trial.uid"] == trial_uid(finished_copy.search().uid, best.number)
    assert version.tags["replicate"] == ""


def test_lost_weights_of_the_search_s_winner_do_not_block_another_trial(finished_copy: Place) -> None:
    winner, other, *_ = ranked(finished_copy.search().records(), "maximize")
    (finished_copy.study_artifacts / winner.summary.run_id / "artifacts" / "weights.safetensors").unlink()
    assert promote(finished_copy.home, "small", other.number, force=True).optimism is None


def test_a_version_records_its_source_and_its_figures(finished_copy: Place) -> None:
    done = promote(finished_copy.home, "small")
    version = finished_copy.client().get_model_version_by_alias("small", "champion")
    run = finished_copy.client().get_run(done.run_id)
    assert version.run_id == done.run_id
    assert version.source == f"models:/{run.data.tags['zz.model.id']}"
    search = finished_copy.search()
    facts = {"study.name": "small", "study.uid": search.uid, "trial.number": str(done.trial)}
    facts |= {key: run.data.tags[key] for key in ("data.sha256", "zz.model.sha256", "zz.weights.sha256")}
    assert facts.items() <= version.tags.items()
    assert version.tags["zz.weights.sha256"] == search.ended(done.trial).summary.weights_sha256
    for split, figures in (("select", done.select), ("test", done.test)):
        for name, found in figures.items():
            for end, value in (("", found.mean), (".low", found.low), (".high", found.high)):
                assert float(version.tags[f"{split}.{name}{end}"]) == pytest.approx(value, rel=1e-5)
                assert run.data.tags[f"{split}.{name}{end}"] == version.tags[f"{split}.{name}{end}"]
    for name, value in done.baselines.items():
        assert float(version.tags[f"baseline.{name}.select.psnr"]) == pytest.approx(value, rel=1e-5)
    assert not list(Path.cwd().glob("mlflow.db")), "MLflow creates versions in the store of its global state"


def test_a_version_s_description_says_what_it_is_how_good_and_how_to_use_it(finished_copy: Place) -> None:
    done, search = promote(finished_copy.home, "small"), finished_copy.search()
    client, trial = finished_copy.client(), search.ended(done.trial)
    text = client.get_model_version_by_alias("small", "champion").description
    for part in (
        f"**Trial {done.trial} of study small**",
        "mnist-5k after downscale (factor 7, method area)",
        "It is best of 2 complete trials",
        "on select&emsp; | &emsp;on test&emsp; | &emsp;baseline bicubic, on select&emsp; |",
        f"bottleneck {trial.params['bottleneck']}",
        f"{trial.summary.cost['parameters']:,} parameters",
        f"/runs/{done.run_id}",
        'pipeline.load_model("small")',
        "models:/small@champion",
        f"/runs/{done.run_id}/artifacts/panel.png?",
    ):
        assert part in text, text
    [row] = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| psnr")]
    own = [f"{x.mean:.2f} dB [{x.low:.2f}, {x.high:.2f}]" for x in (done.select["psnr"], done.test["psnr"])]
    shown = [trial.summary.metrics["val/psnr"], *done.baselines.values()]
    val, *baselines = (f"{value:.2f} dB" for value in shown)
    assert row == ["psnr", val, *own, *baselines]
    assert client.get_registered_model("small").description
    client.update_registered_model("small", "My own words.")
    promote(finished_copy.home, "small", ranked(search.records(), "maximize")[-1].number, force=True)
    assert client.get_registered_model("small").description == "My own words."


def test_the_study_file_may_name_the_model(finished_copy: Place) -> None:
    finished_copy.run("registered_model=digits-x7")
    assert promote(finished_copy.home, "small").model == "digits-x7"
    assert [version.model for version in registered(finished_copy.home)] == ["digits-x7"]
    with pytest.raises(NotFoundError, match=r"no registered model 'small'.*models: digits-x7"):
        load_champion(finished_copy.home, "small")


def test_data_that_changed_since_training_is_refused(finished_copy: Place) -> None:
    search = finished_copy.search()
    search.facts = search.facts | {"data.sha256": "0" * 64}
    with pytest.raises(InputError, match="mnist-5k: not the data"):
        promote(finished_copy.home, "small")
    assert registered(finished_copy.home) == []


def test_the_figures_are_those_of_the_two_splits(finished_copy: Place) -> None:
    done = promote(finished_copy.home, "small")
    model, config = load_champion(finished_copy.home, "small"), finished_copy.search().config
    data = load(config.dataset, finished_copy.home.data_dir)
    test = load_test(config.dataset, finished_copy.home.data_dir)
    judge = judge_of(data, finished_copy.home.judges)

    def restore(degraded: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return model(degraded)

    for split, purpose, figures in ((data.select, "select", done.select), (test, "test", done.test)):
        found = evaluate(restore, split, config.degrade, purpose, judge).summary()
        assert found == pytest.approx({name: each.mean for name, each in figures.items()}, rel=1e-5)


def test_the_test_split_is_read_once_per_run_and_that_is_recorded(finished_copy: Place) -> None:
    done = promote(finished_copy.home, "small")
    run = finished_copy.client().get_run(done.run_id)
    assert float(run.data.tags["test.psnr"]) == pytest.approx(done.test["psnr"].mean, rel=1e-5)
    assert not [key for key in run.data.metrics if key.startswith(("select/", "test/"))], "charts of one bar"
    assert sum(tag.startswith("test.read.") for tag in run.data.tags) == 1
    with pytest.raises(InputError, match="champion already"):
        promote(finished_copy.home, "small")
    run = finished_copy.client().get_run(done.run_id)
    assert sum(tag.startswith("test.read.") for tag in run.data.tags) == 1
    assert len(registered(finished_copy.home)) == 1


def test_a_second_champion_replaces_the_first_which_becomes_previous(finished_copy: Place) -> None:
    order = ranked(finished_copy.search().records(), "maximize")
    first_done = promote(finished_copy.home, "small")
    done = promote(finished_copy.home, "small", order[-1].number, force=True)
    assert (done.version, done.replaced, done.trial) == ("2", "1", order[-1].number)
    assert {v.version: v.aliases for v in registered(finished_copy.home)} == {"1": ("previous",), "2": ("champion",)}
    first, second = load_champion(finished_copy.home, "small", "previous"), load_champion(finished_copy.home, "small")
    degraded = torch.rand(2, 1, 4, 4)
    assert not torch.equal(first(degraded), second(degraded))

    back = promote(finished_copy.home, "small")
    assert (back.version, back.replaced, back.trial) == ("3", "2", order[0].number)
    aliases = {v.version: v.aliases for v in registered(finished_copy.home)}
    assert aliases == {"1": (), "2": ("previous",), "3": ("champion",)}
    assert torch.equal(load_champion(finished_copy.home, "small")(degraded), first(degraded))
    assert back.test == first_done.test


def test_a_model_worse_than_a_baseline_is_only_promoted_by_force(place: Place) -> None:
    place.run("model.bottleneck=1", "budget.epochs=1", "train.lr=1e-5", "train.optimizer=adam", "enqueue=[]", trials=1)
    with pytest.raises(GateError, match="bicubic"):
        promote(place.home, "small")
    assert registered(place.home) == []
    [run] = place.runs("trial")
    assert not any(key.startswith("test.") for key in run.data.tags)
    done = promote(place.home, "small", force=True)
    assert done.version == "1"
    assert registered(place.home)[0].tags["forced"] == "true"
    about = place.client().get_model_version("small", "1").description
    assert re.search(r"\*\*Promoted by force\.\*\*", about)
    assert re.search(r"not shown to be better on select by psnr than bicubic .* worse", about)


def test_checking_changes_nothing_and_its_exit_code_is_the_verdict_s(finished_copy: Place) -> None:
    home = ("--home", str(finished_copy.path))
    before = checksum(finished_copy.path)
    passed, refused = (
        study("promote", "small", "--check", *home),
        study("promote", "small", "--check", "--margin", "50", *home),
    )
    assert (passed.code, passed.stderr, passed.lines[-1]) == (0, "", "exit code 0")
    assert (refused.code, refused.stderr, refused.lines[-1]) == (1, "", "exit code 1")
    assert "passes the gate" in passed.stdout
    assert "does not pass the gate" in refused.stdout
    assert "better, but by less than the margin" in refused.stdout
    document = json.loads(study("promote", "small", "--check", "--json", *home).stdout)
    assert document["passed"]
    assert [each["rival"] for each in document["comparisons"]] == ["bicubic", "linear"]
    assert checksum(finished_copy.path) == before
    assert finished_copy.search().test_readings == []


def test_refusals_reasons_and_readings_of_the_test_split_are_on_record(finished_copy: Place) -> None:
    home = ("--home", str(finished_copy.path))
    refused = study("promote", "small", "--margin", "50", "--reason", "a try", *home)
    assert refused.code == 1
    [entry] = finished_copy.search().refusals
    assert (entry["reason"], entry["verdict"] in refused.stderr) == ("a try", True)
    shown = study("show", "small", *home).stdout
    assert "the test split was never read" in shown
    assert f"not promoted at {entry['at']}: these weights" in shown

    forced = study("promote", "small", "--margin", "50", "--force", "--reason", "50 dB is too much", *home)
    assert forced.code == 0, forced.stderr
    tags = registered(finished_copy.home)[0].tags
    assert (tags["forced"], tags["reason"], tags["validation_status"]) == ("true", "50 dB is too much", "approved")
    assert "**Why**: 50 dB is too much" in finished_copy.client().get_model_version("small", "1").description
    assert len(finished_copy.search().refusals) == 1
    assert "the test split was read 1 time: " in study("show", "small", *home).stdout
    assert len(json.loads(study("show", "small", "--json", *home).stdout)["test_readings"]) == 1
    listed = study("models", *home).stdout
    assert "forced: 50 dB is too much" in listed
    assert tags["gate.gain"] in listed
    assert re.fullmatch(r"\+\d+\.\d{3} dB \[\d+\.\d{3}, \d+\.\d{3}\] over linear", tags["gate.gain"])


@pytest.mark.parametrize(
    ("tag", "value", "says"), [("data.sha256", "0" * 64, "other data"), ("degrade", "{}", "another")]
)
def test_a_champion_that_cannot_be_compared_is_replaced_by_force_only(
    tag: str, value: str, says: str, finished_copy: Place
) -> None:
    order = ranked(finished_copy.search().records(), "maximize")
    promote(finished_copy.home, "small", order[-1].number, force=True)
    finished_copy.client().set_model_version_tag("small", "1", tag, value)
    with pytest.raises(GateError, match=f"version 1 is of {says}.*not comparable") as refusal:
        promote(finished_copy.home, "small")
    assert len(str(refusal.value).splitlines()) == 1
    assert promote(finished_copy.home, "small", force=True).version == "2"
    assert "not comparable" in registered(finished_copy.home)[0].tags["gate.verdict"]


def test_a_version_that_its_alias_does_not_give_is_withdrawn(finished_copy: Place) -> None:
    order = ranked(finished_copy.search().records(), "maximize")
    for number in (order[-1].number, order[0].number):
        before = {alias: find_version(finished_copy.home, "small", alias) for alias in ("champion", "previous")}
        promote(finished_copy.home, "small", number, force=True)
    withdraw_version(finished_copy.home, "small", "2", before)
    found = {v.version: (v.aliases, v.tags["validation_status"]) for v in registered(finished_copy.home)}
    assert found == {"1": (("champion",), "approved"), "2": ((), "failed")}
    assert "passed the gate, failed" in study("models", "--home", str(finished_copy.path)).stdout


def test_the_worst_restorations_and_the_share_kept_per_class_are_logged(finished_copy: Place) -> None:
    done = promote(finished_copy.home, "small")
    run = finished_copy.client().get_run(done.run_id)
    shares = json.loads(artifact(finished_copy, run, "select-class-kept.json").read_text())
    assert sorted(shares) == list("0123456789")
    assert np.mean(list(shares.values())) == pytest.approx(done.select["class_kept"].mean, abs=0.02)
    with Image.open(artifact(finished_copy, run, "select-worst.png")) as picture:
        assert picture.width > 10 * 28 * 3
    about = finished_copy.client().get_model_version("small", "1").description
    assert f"**Class kept on select**: 0 {shares['0']:.1%}, " in about


@pytest.mark.parametrize("number", [-1, 99])
def test_a_trial_that_does_not_exist_is_refused(number: int, finished: Place) -> None:
    with pytest.raises(NotFoundError, match="has no trial"):
        promote(finished.home, "small", number)


def test_a_trial_without_a_model_is_refused(finished: Place) -> None:
    failed = next(r.number for r in finished.search().records() if r.state == "FAIL")
    with pytest.raises(InputError, match="FAIL"):
        promote(finished.home, "small", failed)


def test_unknown_names_are_refused_with_the_known_ones(finished: Place) -> None:
    with pytest.raises(NotFoundError, match="small"):
        promote(finished.home, "smal")
    with pytest.raises(NotFoundError, match="no registered model"):
        load_champion(finished.home, "small")


def _flip(folder: Path, name: str = "data/model.pt2") -> None:
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _add(folder: Path) -> None:
    (folder / "code.py").write_text("print('run me')\n")


def _edit(folder: Path) -> None:
    file = folder / "MLmodel"
    file.write_text(file.read_text().replace("mlflow.pytorch", "os"))


def _remove(folder: Path) -> None:
    (folder / "requirements.txt").unlink()


def _remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


HARMS = [
    (_flip, "data/model.pt2 was changed"),
    (_add, "code.py was added"),
    (_edit, "MLmodel was changed"),
    (_remove, "requirements.txt is missing"),
    (_remove_all, "model m-"),
]


@pytest.mark.parametrize(("harm", "says"), HARMS)
def test_a_model_whose_files_changed_is_not_promoted(
    harm: Callable[[Path], None], says: str, finished_copy: Place
) -> None:
    best = ranked(finished_copy.search().records(), "maximize")[0]
    model = finished_copy.client().get_run(best.summary.run_id).data.tags["zz.model.id"]
    harm(finished_copy.study_artifacts / "models" / model / "artifacts")
    with pytest.raises(TrackingError, match=says) as refusal:
        promote(finished_copy.home, "small", force=True)
    assert len(str(refusal.value).splitlines()) == 1
    assert registered(finished_copy.home) == []
    run = finished_copy.client().get_run(best.summary.run_id)
    assert not [key for key in run.data.tags if key.startswith("test.")]


@pytest.mark.parametrize(("harm", "says"), HARMS)
def test_a_champion_is_rebuilt_from_its_weights_whatever_became_of_its_export(
    harm: Callable[[Path], None], says: str, finished_copy: Place
) -> None:
    done = promote(finished_copy.home, "small")
    before = load_champion(finished_copy.home, "small").state_dict()
    model = finished_copy.client().get_run(done.run_id).data.tags["zz.model.id"]
    harm(finished_copy.study_artifacts / "models" / model / "artifacts")
    if harm is _remove_all:
        with pytest.raises(TrackingError, match=f"small version 1: {says}"):
            load_champion(finished_copy.home, "small")
    else:
        after = load_champion(finished_copy.home, "small").state_dict()
        assert all(torch.equal(value, after[name]) for name, value in before.items())
    other = next(r for r in ranked(finished_copy.search().records(), "maximize") if r.number != done.trial)
    assert promote(finished_copy.home, "small", other.number, force=True).version == "2"


def test_damaged_weights_are_neither_loaded_nor_promoted_nor_evaluated(finished_copy: Place) -> None:
    best = ranked(finished_copy.search().records(), "maximize")[0]
    promote(finished_copy.home, "small")
    tags = finished_copy.client().get_run(best.summary.run_id).data.tags
    folder = finished_copy.study_artifacts / "models" / tags["zz.model.id"] / "artifacts"
    _flip(folder, "weights.safetensors")
    _flip(finished_copy.study_artifacts / best.summary.run_id / "artifacts", "weights.safetensors")
    with pytest.raises(TrackingError, match=r"small version 1: model m-\w+: weights.safetensors is damaged: its bytes"):
        load_champion(finished_copy.home, "small")
    assert (
        "weights.safetensors is damaged" in study("evaluate", best.summary.run_id, "--home", finished_copy.path).stderr
    )

    # Whoever damaged them may have written their digest to every tag, too; Optuna's counts.
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    client = finished_copy.client()
    client.set_tag(best.summary.run_id, "zz.weights.sha256", digest)
    client.set_model_version_tag("small", "1", "zz.weights.sha256", digest)
    with pytest.raises(TrackingError, match=r"weights\.safetensors is damaged"):
        load_champion(finished_copy.home, "small")
    assert (
        "weights.safetensors is damaged" in study("evaluate", best.summary.run_id, "--home", finished_copy.path).stderr
    )
    with pytest.raises(TrackingError, match=r"weights\.safetensors was changed"):
        promote(finished_copy.home, "small", force=True)


@pytest.mark.parametrize(
    ("tags", "says"),
    [
        ({"trial.uid": "f" * 32, "zz.weights.sha256": "{}"}, "weights.safetensors is damaged"),
        ({"trial.uid": "", "study.name": "", "trial.number": "x"}, ""),  # the version's own digest is right
        ({"trial.uid": "99", "zz.weights.sha256": ""}, "no zz.weights.sha256 is recorded"),
    ],
)
def test_edited_tags_of_a_champion_end_in_one_clear_line(tags: dict[str, str], says: str, finished_copy: Place) -> None:
    promote(finished_copy.home, "small")
    for key, value in tags.items():
        finished_copy.client().set_model_version_tag("small", "1", key, value)
    if not says:
        assert not load_champion(finished_copy.home, "small").training
        return
    with pytest.raises(TrackingError, match=says) as refusal:
        load_champion(finished_copy.home, "small")
    assert len(str(refusal.value).splitlines()) == 1


def test_those_who_have_the_registry_only_verify_with_the_version_s_tags(finished_copy: Place) -> None:
    promote(finished_copy.home, "small")
    before = load_champion(finished_copy.home, "small").state_dict()
    (finished_copy.path / "optuna.db").unlink()
    after = load_champion(finished_copy.home, "small").state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    finished_copy.client().delete_model_version_tag("small", "1", "zz.weights.sha256")
    with pytest.raises(TrackingError, match=r"small version 1: no zz\.weights\.sha256 is recorded"):
        load_champion(finished_copy.home, "small")


def test_a_champion_without_its_logged_model_is_one_clear_error(finished_copy: Place) -> None:
    done = promote(finished_copy.home, "small")
    client = finished_copy.client()
    client.delete_logged_model(client.get_run(done.run_id).data.tags["zz.model.id"])
    with pytest.raises(TrackingError, match=r"small version 1: model m-\w+: its files cannot be read: .*not found"):
        load_champion(finished_copy.home, "small")


def test_a_hostile_exported_program_is_never_evaluated(finished_copy: Place, tmp_path: Path) -> None:
    """torch evaluates the expressions of shapes that an archive holds; here they create a file."""
    best = ranked(finished_copy.search().records(), "maximize")[0]
    created = tmp_path / "created"
    client = finished_copy.client()
    model_id = client.get_run(best.summary.run_id).data.tags["zz.model.id"]
    folder = finished_copy.study_artifacts / "models" / model_id / "artifacts"

    def harm() -> None:
        _evaluate(folder / "data" / "model.pt2", f"__import__('pathlib').Path({str(created)!r}).touch()")
        digests = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
        manifest = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in digests.items()}
        client.set_tag(best.summary.run_id, "zz.model.sha256", json.dumps(manifest))  # whoever writes files writes tags

    harm()
    torch.export.load(folder / "data" / "model.pt2")
    assert created.exists(), "the archive is harmless, so that this test shows nothing"
    created.unlink()

    assert study("evaluate", best.summary.run_id, "--home", finished_copy.path).code == 0
    promote(finished_copy.home, "small")
    pipeline.load_model("small", home=finished_copy.path)
    client.set_tag(best.summary.run_id, "zz.model.sha256", "{}")
    assert study("doctor", "--repair", "--home", finished_copy.path).code == 0
    harm()
    for entry in finished_copy.path.rglob("images/*"):
        entry.unlink()
    assert study("doctor", "--repair", "--home", finished_copy.path).code == 0
    assert not created.exists()


def _evaluate(archive: Path, expression: str) -> None:
    """Add an expression to the shapes of an exported program."""
    with zipfile.ZipFile(archive) as read:
        content = {entry.filename: read.read(entry) for entry in read.infolist()}
    [name] = [name for name in content if name.endswith("models/model.json")]
    hostile = content[name].decode().replace('"expr_str": "', f'"expr_str": "{expression} or ')
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as written:
        for entry, data in (content | {name: hostile.encode()}).items():
            written.writestr(entry, data)
