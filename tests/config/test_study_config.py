"""A whole study: defaults, names, the objective, and the comparison with a stored study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_for_tests import SPACE, Load, assert_refused, assert_short, first, stored

from pipeline.config import ModelConfig, TrainConfig, check_name, load_study_file, study_config
from pipeline.config.choices import LAYER_TYPES, LOSS_OBJECTIVES, OBJECTIVES
from pipeline.config.forms import DEFAULTS
from pipeline.errors import ConfigError

BAD = {
    "unknown key of the file": ("[bugdet]\ntrials = 3", ["bugdet", "budget"]),
    "unknown key of a section": ("[budget]\ntrails = 3", ["budget", "trails", "did you mean 'trials'"]),
    "unknown key of degrade": ("clipped = true", ["degrade", "clipped", "did you mean 'clip'"]),
    "boolean for trials": ("[budget]\ntrials = true", ["budget", "trials", "True", "integer"]),
    "no trials": ("[budget]\ntrials = 0", ["budget", "trials", "0"]),
    "unknown sampler": ('[sampler]\nname = "cmaes"', ["sampler", "name", "cmaes", "tpe"]),
    "unknown pruner": ('[pruner]\nname = "median2"', ["pruner", "name", "median2"]),
    "unknown objective": ('[objective]\nmetric = "pnsr"', ["objective", "metric", "pnsr", "psnr"]),
    "a section that is a list": ("[[budget]]\ntrials = 1", ["budget"]),
    "model that is a list": ("[[model]]\ndepth = 1", ["model"]),
    "enqueue that is a table": ("[enqueue]\ndepth = 1", ["enqueue"]),
    "a start from nothing": ("[warm_start]\ntop = 3", ["warm_start", "from", "missing"]),
    "a start from no trial": ('[warm_start]\nfrom = "a"\ntop = 0', ["warm_start", "top", "0", "1"]),
    "a start from itself": ('[warm_start]\nfrom = "tiny"', ["warm_start", "from", "tiny", "itself"]),
    "a start from a path": ('[warm_start]\nfrom = "a/b"', ["warm_start", "from", "a/b", "not allowed"]),
    "a start of a design": (
        '[warm_start]\nfrom = "a"\n[sampler]\nname = "paired"\nover = ["loss"]\n[train]\nloss = ["bce", "mse"]',
        ["warm_start", "a paired design draws its own trials"],
    ),
    "unknown key of a start": ('[warm_start]\nfrom = "a"\ntpo = 3', ["warm_start", "tpo", "did you mean 'top'"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_section_is_refused_with_file_key_and_value(load: Load, case: str, tmp_path: Path) -> None:
    assert_refused(load, tmp_path, *BAD[case])


def test_a_file_with_all_sections_loads(tiny_study: Path) -> None:
    study = load_study_file(tiny_study)
    assert (study.config.name, study.config.dataset, study.config.degrade.kind) == ("tiny", "mnist-5k", "gaussian")
    assert (study.config.budget.trials, study.config.budget.epochs, study.config.budget.concurrency) == (3, 2, 2)
    assert study.config.space.searched() == ["bottleneck", "lr"]
    assert study.text == tiny_study.read_text()


def test_everything_but_name_dataset_and_degrade_has_a_default(load: Load) -> None:
    config = load().config
    values = config.space.resolve(first)
    assert values == DEFAULTS
    assert config.space.searched() == []
    assert config.trial(values, 3, "cpu", "float32").model == ModelConfig()
    assert config.trial(values, 3, "cpu", "float32").train == TrainConfig(precision="float32")
    assert config.trial(values, 3, "cpu", "float32").number == 3


@pytest.mark.parametrize(("epochs", "first_rung"), [(1, 1), (6, 1), (7, 2), (12, 2), (100, 17)])
def test_without_a_name_the_pruner_halves_from_a_sixth_of_the_epochs_on(
    load: Load, epochs: int, first_rung: int
) -> None:
    expected = {"name": "successive_halving", "min_resource": first_rung, "reduction_factor": 4}
    study = load(f"[budget]\nepochs = {epochs}")
    assert study.config.pruner.model_dump() == expected
    assert type(study.config).model_validate_json(json.dumps(stored(study))).pruner == study.config.pruner
    changed = load(f"[budget]\nepochs = {epochs}\n[pruner]\nreduction_factor = 3").config
    assert changed.pruner.model_dump() == expected | {"reduction_factor": 3}
    written = load(f'[budget]\nepochs = {epochs}\n[pruner]\nname = "successive_halving"').config
    assert written.pruner.arguments == {}, "Optuna's own defaults"


@pytest.mark.parametrize("layer_type", LAYER_TYPES)
def test_auto_means_the_machine_s_precision_for_layers_shown_equivalent(
    load: Load, layer_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(f'[model]\nlayer_type = "{layer_type}"').config
    values = config.space.resolve(first)
    assert config.auto_precision
    assert config.trial(values, 0, "cpu", "bfloat16").train.precision == "bfloat16"
    assert config.trial(values, 0, "cpu", "float32").train.precision == "float32"
    monkeypatch.setattr(study_config, "AUTO_BFLOAT16", ())
    assert config.trial(values, 0, "cpu", "bfloat16").train.precision == "float32"


def test_a_written_precision_is_kept_on_any_machine(load: Load) -> None:
    for written, machine in (("float32", "bfloat16"), ("bfloat16", "float32")):
        config = load(f'[train]\nprecision = "{written}"').config
        assert not config.auto_precision
        assert config.trial(config.space.resolve(first), 0, "cpu", machine).train.precision == written
    assert load('[train]\nprecision = ["float32", "auto"]').config.auto_precision


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-9", "x" * 100, "mnist-5k.sigma0.5"])
def test_a_good_name_is_accepted(load: Load, name: str) -> None:
    assert check_name(name, "name") == name
    assert load(name=name).config.name == name


def test_the_name_of_mlflows_default_experiment_is_refused(load: Load) -> None:
    with pytest.raises(ConfigError, match="MLflow's own") as error:
        load(name="Default")
    assert_short(error)
    assert load(name="default").config.name == "default"


BAD_NAMES = [
    "../x",
    "..",
    ".",
    "a/b",
    "a\\b",
    "x" * 101,
    "x" * 600,
    "{x}",
    "%s",
    "a b",
    "-a",
    "_a",
    "a\n",
    "\na",
    "é",
    "a\0",
    "\ud800",
    "${HOME}",
    "a;b",
    "a:b",
]


@pytest.mark.parametrize(
    ("key", "name"),
    # An empty registered_model stands for the study's name.
    [
        ("name", ""),
        ("argument", ""),
        *((key, n) for key in ("name", "registered_model", "argument") for n in BAD_NAMES),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_bad_name_is_refused(load: Load, key: str, name: str) -> None:
    overrides = [] if key == "argument" else [f"{key}={json.dumps(name, ensure_ascii=False)}"]
    with pytest.raises(ConfigError) as error:
        load("", *overrides, name=name if key == "argument" else None)
    message = assert_short(error)
    assert "study.toml" in message
    assert ("registered_model" if key == "registered_model" else "name") in message


@pytest.mark.parametrize("metric", OBJECTIVES)
@pytest.mark.parametrize(
    ("loss", "searches"),
    [
        ('"mse"', False),
        ('["mse"]', False),
        ('["mse", "bce"]', True),
        ('{ choices = ["mse"], when = { skip = [true] } }', True),  # otherwise it is the default, bce
        ('{ by = "lr_scheduler", cosine = "mse", default = "l1" }', True),
        ('{ by = "lr_scheduler", cosine = "mse", default = "mse" }', False),
    ],
)
def test_a_search_over_losses_cannot_be_ranked_by_a_loss(load: Load, metric: str, loss: str, searches: bool) -> None:
    text = f'[objective]\nmetric = "{metric}"\n[train]\nloss = {loss}\n'
    if not (searches and metric in LOSS_OBJECTIVES):
        assert load(text).config.objective.direction == OBJECTIVES[metric]
        return
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    for word in ("study.toml", "objective", metric, "mse", "psnr"):
        assert word in message


@pytest.mark.parametrize("metric", OBJECTIVES)
@pytest.mark.parametrize(
    ("loss", "trained_on_ssim"),
    [
        ('["bce", "ssim"]', True),
        ('["bce", "mse + 0.2 ssim"]', True),
        ('{ by = "lr_scheduler", cosine = "l1", default = "0.5 ssim" }', True),
        ('["bce", "bce + 0.2 l1"]', False),
    ],
)
def test_a_search_over_losses_with_ssim_cannot_be_ranked_by_ssim(
    load: Load, metric: str, loss: str, trained_on_ssim: bool
) -> None:
    text = f'[objective]\nmetric = "{metric}"\n[train]\nloss = {loss}\n'
    if metric in ("psnr", "class_kept") or (metric == "ssim" and not trained_on_ssim):
        assert load(text).config.objective.metric == metric
        return
    with pytest.raises(ConfigError) as error:
        load(text)
    message = assert_short(error)
    assert "psnr" in message
    assert ("by psnr or ssim" in message) is not trained_on_ssim


def test_trials_of_one_loss_can_be_ranked_by_it(load: Load) -> None:
    assert load('[objective]\nmetric = "ssim"\n[train]\nloss = "bce + 0.2 ssim"\n').config.objective.metric == "ssim"


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        ([], []),
        (["budget.trials=99", "registered_model=best"], []),
        (["seed=1"], [["seed", "0", "1"]]),
        (["budget.epochs=99"], [["budget.epochs", "10", "99"], ["pruner.min_resource", "2", "17"]]),
        (["degrade.sigma=0.6"], [["degrade.sigma", "0.5", "0.6"]]),
        (["model.depth=4", "train.loss=l1"], [["model.depth", "2", "4"], ["train.loss", '"bce"', '"l1"']]),
        (['model.activation=["relu"]'], [["model.activation", "leaky_relu", '["relu"]']]),
        (["sampler.n_ei_candidates=3"], [["sampler.n_ei_candidates", "(absent)", "3"]]),
    ],
)
def test_differences_from_a_stored_study(load: Load, overrides: list[str], lines: list[list[str]]) -> None:
    space = SPACE.replace("negative_slope", "# negative_slope")
    before, after = load(space), load(space, *overrides)
    found = after.config.differences(stored(before))
    assert len(found) == len(lines)
    for line, words in zip(found, lines, strict=True):
        for word in words:
            assert word in line


def test_writing_a_default_explicitly_is_no_difference(load: Load) -> None:
    plain, spelt = load(), load('[train]\nlr = 1e-3\nloss = "bce"\n[budget]\nepochs = 10\n')
    assert spelt.config.differences(stored(plain)) == []
    assert plain.config.differences(stored(spelt)) == []


def test_a_removed_key_is_a_difference(load: Load) -> None:
    [line] = load().config.differences(stored(load("", "pruner.bootstrap_count=3")))
    assert "pruner.bootstrap_count" in line
    assert "(absent)" in line
