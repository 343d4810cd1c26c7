"""Reading study files: TOML, overrides, and files that cannot be read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_for_tests import DEGRADE, HEAD, Load, assert_short

from pipeline.config import Fixed, load_study_file
from pipeline.errors import ConfigError, NotFoundError

ROOT = Path(__file__).parents[2]


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    """To open it would wait for a writer."""
    os.mkfifo(tmp_path / "study.toml")
    with pytest.raises(ConfigError, match="not a file"):
        load_study_file(tmp_path / "study.toml")


@pytest.mark.parametrize("kind", ["masking", "salt_pepper"])
def test_a_degradation_of_no_pixel_is_refused(load: Load, kind: str) -> None:
    with pytest.raises(ConfigError, match=r"\[degrade\] prob = 0.*must be greater than 0"):
        load("", f"degrade={{ kind = '{kind}', prob = 0 }}")


@pytest.mark.parametrize(
    ("override", "section", "key", "expected"),
    [
        ("train.lr=1e-2", "train", "lr", 1e-2),
        ("train.loss=mse", "train", "loss", "mse"),
        ('train.loss="mse"', "train", "loss", "mse"),
        (" train.loss = mse ", "train", "loss", "mse"),
        ("model.bottleneck={ low = 8, high = 64 }", "model", "bottleneck", {"low": 8, "high": 64}),
        ('train.loss=["mse", "l1"]', "train", "loss", ["mse", "l1"]),
        ("model.skip=true", "model", "skip", True),
        ("budget.trials=7", "budget", "trials", 7),
        ("objective.metric=ssim", "objective", "metric", "ssim"),
        ("degrade.sigma=0.1", "degrade", "sigma", 0.1),
        ("sampler.name=random", "sampler", "name", "random"),
    ],
)
def test_an_override_changes_one_key(load: Load, override: str, section: str, key: str, expected: Any) -> None:
    study = load("[model]\nbottleneck = 16\n", override)
    assert study.config.canonical()[section][key] == expected
    assert study.overrides == (override,)


def test_override_of_a_top_level_key_and_the_last_one_wins(load: Load) -> None:
    assert load("", "seed=3", "seed=4").config.seed == 4


def test_a_given_name_replaces_the_name_in_the_file(load: Load) -> None:
    config = load(name="other").config
    assert (config.name, config.model_name) == ("other", "other")
    assert load("", "registered_model=best", name="other").config.model_name == "best"


def test_digest_covers_text_and_overrides(load: Load) -> None:
    studies = [load(), load("# a comment\n"), load("", "seed=0"), load("", "seed=0", "seed=0")]
    assert len({study.sha256 for study in studies}) == len(studies)
    assert load().sha256 == load().sha256


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (DEGRADE, ["name is missing"]),
        ('name = "a"\n' + DEGRADE, ["dataset is missing"]),
        (HEAD, ["degrade is missing"]),
        (HEAD + "[degrade]\nsigma = 0.5", ["degrade", "kind is missing"]),
        (HEAD + '[degrade]\nkind = "gausian"\nsigma = 0.5', ["degrade", "gausian", "'gaussian'"]),
        (HEAD + '[degrade]\nkind = "gaussian"', ["degrade", "sigma is missing"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nsigma = 0', ["degrade", "sigma", "greater than 0"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nsigma = nan', ["degrade", "sigma", "finite"]),
        (HEAD + '[degrade]\nkind = "gaussian"\nprob = 0.5', ["degrade", "sigma"]),
        (HEAD + '[degrade]\nkind = "masking"\nprob = 1.5', ["degrade", "prob", "1.5"]),
        (HEAD + '[degrade]\nkind = "downscale"\nfactor = 2.0', ["degrade", "factor", "2.0", "integer"]),
        (HEAD + '[degrade]\nkind = "downscale"\nfactor = 2\nmethod = "mean"', ["degrade", "method", "mean", "area"]),
        (HEAD + "seed = -1\n" + DEGRADE, ["seed = -1"]),
        (HEAD + "seed = true\n" + DEGRADE, ["seed = True"]),
        ("degrade = 3\n" + HEAD, ["degrade = 3"]),
        ("model = 3\n" + HEAD + DEGRADE, ["model = 3"]),
        ('name = 3\ndataset = "mnist"\n' + DEGRADE, ["name = 3"]),
        ('name = "a"\ndataset = "mnist-6k"\n' + DEGRADE, ["dataset", "mnist-6k", "mnist-5k"]),
        ("", ["name is missing"]),
        (HEAD + DEGRADE + "[model\ndepth = 3", ["not valid TOML", "line 6"]),
        (HEAD + HEAD + DEGRADE, ["not valid TOML"]),
        (b"\xff\xfe" + HEAD.encode("utf-16-le"), ["not UTF-8", "byte 0"]),
        (HEAD.encode() + b'registered_model = "\xe9"\n', ["not UTF-8", "byte 55"]),
        (HEAD + "#" * (1 << 20), ["larger than 1 MiB"]),
        (HEAD + f"seed = {'9' * 5000}\n" + DEGRADE, ["not valid TOML"]),
        (HEAD + f"seed = 0x{'f' * 5000}\n" + DEGRADE, ["seed", "64"]),
        (HEAD + DEGRADE + f"[train]\nlr = {'9' * 400}\n", ["train", "lr", "64"]),
        (HEAD + DEGRADE + f"[objective]\nmetric = '{'x' * 100_000}'\n", ["objective", "metric", "xxx"]),
        (HEAD + DEGRADE + f"[model]\n{'x' * 100_000} = 1\n", ["model", "xxx"]),
        (HEAD + '"two\\nlines\\nand more" = 1\n' + DEGRADE, [r"two\nlines\nand more"]),
        (HEAD + DEGRADE + '[budget]\n"two\\nlines\\nand more" = 1\n', ["budget", r"two\nlines\nand more"]),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, list) else "",
)
def test_bad_file_is_refused(load: Load, top: str | bytes, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(whole=top)
    message = assert_short(error)
    assert message.startswith(f"{tmp_path / 'study.toml'}: ")
    for word in words:
        assert word in message


@pytest.mark.parametrize("depth", [25, 300, 5_000])
@pytest.mark.parametrize(
    "form",
    [
        lambda depth: "[sampler]\na = " + "[" * depth + "]" * depth,
        lambda depth: "[sampler]\n" + ".".join(["a"] * depth) + " = 1",
        lambda depth: "[model]\ndepth = " + "{a=" * depth + "1" + "}" * depth,
        lambda depth: "[" + ".".join(["a"] * depth) + "]",
    ],
    ids=["lists", "dotted keys", "tables", "section"],
)
def test_deep_nesting_is_refused(load: Load, form: Callable[[int], str], depth: int) -> None:
    with pytest.raises(ConfigError) as error:
        load(form(depth))
    assert "study.toml" in assert_short(error)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        load_study_file(tmp_path / "absent.toml")
    assert "absent.toml" in assert_short(error)


def test_a_folder_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_study_file(tmp_path)
    assert str(tmp_path) in assert_short(error)


@pytest.mark.parametrize(
    "override",
    [
        "train.lr",
        "=1",
        "train.=1",
        "model.depth.low=1",
        "name.x=1",
        "train.lr=",
        "train.lr=1=2",
        "train.lr=1\nloss=2",
        "train.lr=1\n\n\n= 2",
        "train.lr=[[",
        "train.lr=[" + "[" * 5000,
        "train.lr=" + "9" * 5000,
        "train.lr=0x" + "f" * 5000,
        "train.lr=-1",
        "train.loss=2024-01-01",
        "train.loss='\udcff'",
        "train.\udcff=1",
        "trian.lr=1",
        "train=1",
        "sampler.x=" + "x " * 5000,
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bad_override_is_refused(load: Load, override: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("", override)
    assert_short(error)


def test_an_unquoted_sum_of_losses_and_a_byte_order_mark_are_accepted(load: Load) -> None:
    file = load("", "train.loss=bce + 0.2 ssim", whole=b"\xef\xbb\xbf" + (HEAD + DEGRADE).encode())
    assert file.config.space.dimension("loss") == Fixed(value="bce + 0.2 ssim")


def test_checking_a_study_file_needs_no_torch() -> None:
    code = "import sys, pipeline.config; sys.exit(bool({'torch', 'optuna', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
