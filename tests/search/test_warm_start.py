"""A study that begins with what another one found: what is taken, what is left and why, and that it is taken once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline.config import StudyConfig
from pipeline.errors import ConfigError, InputError, NotFoundError
from pipeline.home import Home, open_home
from pipeline.search.ask_tell import Search
from pipeline.search.records import Summary
from pipeline.search.studies import delete_search, open_search, study_names, warm_start_notes

FACTS = {"data.sha256": "0" * 64, "device": "cpu"}
SPACE: dict[str, Any] = {
    "model": {"bottleneck": {"low": 8, "high": 256}, "activation": ["relu", "leaky_relu", "silu"], "depth": 2},
    "train": {
        "optimizer": ["adam", "sgd"],
        "lr": {"by": "optimizer", "sgd": {"low": 0.01, "high": 10.0, "log": True}, "default": [1e-3, 1e-2]},
    },
}
ADAM, SGD = {"optimizer": "adam", "lr": 1e-3}, {"optimizer": "sgd", "lr": 0.5}
FOUND: list[tuple[dict[str, Any], float]] = [  # trials 0 to 4 of the earlier study, with their objectives
    ({"bottleneck": 16, "activation": "relu", **ADAM}, 15.0),
    ({"bottleneck": 64, "activation": "silu", **SGD}, 18.0),
    ({"bottleneck": 200, "activation": "relu", **ADAM}, 19.0),
    ({"bottleneck": 64, "activation": "relu", **SGD}, 17.0),
    ({"bottleneck": 32, "activation": "relu", **ADAM}, 14.0),
]


def config(name: str, enqueue: list[dict[str, Any]] | None = None, **changes: Any) -> StudyConfig:
    raw: dict[str, Any] = {
        "name": name,
        "dataset": "mnist-5k",
        "degrade": {"kind": "gaussian", "sigma": 0.5},
        "budget": {"trials": 20, "concurrency": 1},
        "enqueue": enqueue or [],
    }
    return StudyConfig.model_validate_json(json.dumps(raw | SPACE | changes))


def opened(home: Home, study: StudyConfig) -> Search:
    return open_search(home, study, study.name, FACTS)


def run(search: Search, *values: float | None) -> list[dict[str, Any]]:
    """Ask so many trials and end them with these objectives; the searched keys of each."""
    for value in values:
        trial = search.ask()
        search.tell(trial, "FAIL" if value is None else "COMPLETE", value, Summary("run"))
    return [record.params for record in search.records()]


@contextmanager
def new_home() -> Iterator[Home]:
    with TemporaryDirectory() as folder:
        home = open_home(Path(folder) / "home")
        home.prepare()
        yield home


@pytest.fixture
def home() -> Iterator[Home]:
    """A home with a study, `earlier`, of the five trials that were `FOUND`."""
    with new_home() as home:
        found = run(opened(home, config("earlier", [params for params, _ in FOUND])), *(value for _, value in FOUND))
        assert found == [params for params, _ in FOUND]
        yield home


def narrower(top: int = 4, **rest: Any) -> StudyConfig:
    """A study without SiLU and with at most 128 for the bottleneck, which starts from `earlier`."""
    model = SPACE["model"] | {"bottleneck": {"low": 8, "high": 128}, "activation": ["relu", "leaky_relu"]}
    return config("later", model=model, warm_start={"from": "earlier", "top": top}, **rest)


def test_the_best_that_fit_are_tried_first_and_the_others_named(home: Home) -> None:
    search = opened(home, narrower(enqueue=[{"bottleneck": 100}]))
    assert list(warm_start_notes(search)) == [
        "of the 4 best trials of earlier these are enqueued: 3, 0",
        "trial 2 of earlier does not fit: bottleneck 200 is not in 8 to 128",
        "trial 1 of earlier does not fit: activation 'silu' is not in relu, leaky_relu",
    ]
    asked = run(search, 1.0, 2.0, 3.0, 4.0)
    assert asked[0]["bottleneck"] == 100
    assert asked[1:3] == [FOUND[3][0], FOUND[0][0]]
    assert asked[3] not in [params for params, _ in FOUND]


def test_what_was_taken_is_kept_though_the_earlier_study_grows_or_is_deleted(home: Home) -> None:
    whole = run(opened(home, narrower()), 1.0, 2.0, 3.0)
    with new_home() as other:
        run(opened(other, config("earlier", [params for params, _ in FOUND])), *(value for _, value in FOUND))
        run(opened(other, narrower()), 1.0)
        better = [*(params for params, _ in FOUND), {"bottleneck": 20, "activation": "relu", **ADAM}]
        earlier = opened(other, config("grown", better))
        assert run(earlier, *[1.0] * 6)
        delete_search(other, "earlier")
        assert run(opened(other, narrower()), 2.0, 3.0) == whole


def test_a_fixed_key_and_a_default_decide_too(home: Home) -> None:
    """Every key counts: a configuration that this space does not have exactly is not taken."""
    model = SPACE["model"] | {"activation": "relu", "batch_norm": [True, False], "skip": True}
    search = opened(home, config("later", model=model, warm_start={"from": "earlier", "top": 2}))
    assert search.warm_start["taken"] == []
    reasons = {each["trial"]: each["reason"] for each in search.warm_start["left"]}
    assert reasons[1] == "activation is 'silu', and 'relu' here"
    assert reasons[2] == "skip is False, and True here"
    assert len(run(search, 1.0)) == 1


def test_a_key_that_was_fixed_there_may_be_searched_here(home: Home) -> None:
    model = SPACE["model"] | {"depth": [1, 2], "batch_norm": [True, False]}
    search = opened(home, config("later", model=model, warm_start={"from": "earlier", "top": 1}))
    assert run(search, 1.0) == [FOUND[2][0] | {"depth": 2, "batch_norm": True}]


def test_of_two_that_are_the_same_here_one_is_taken(home: Home) -> None:
    search = opened(home, config("twins", [FOUND[0][0], FOUND[0][0]]))
    run(search, 3.0, 4.0)
    later = opened(home, config("later", warm_start={"from": "twins"}))
    assert [each["trial"] for each in later.warm_start["taken"]] == [1]
    assert later.warm_start["left"] == [{"trial": 0, "reason": "the same here as trial 1"}]


Make = Callable[[Home], object]
REFUSED: dict[str, tuple[Make, type[InputError], str]] = {
    "no such study": (
        lambda home: opened(home, config("later", warm_start={"from": "earlie"})),
        NotFoundError,
        "there is no study 'earlie'.*did you mean 'earlier'",
    ),
    "no complete trial": (
        lambda home: (
            run(opened(home, config("failed")), None),
            opened(home, config("later", warm_start={"from": "failed"})),
        ),
        InputError,
        "from = 'failed': that study has no complete trial yet",
    ),
    "another start": (
        lambda home: (opened(home, narrower(top=3)), opened(home, narrower(top=4))),
        ConfigError,
        "warm_start.top: 3 is stored, 4 is asked",
    ),
    "a start where there was none": (
        lambda home: (opened(home, config("later")), opened(home, config("later", warm_start={"from": "earlier"}))),
        ConfigError,
        r"warm_start.from: \(absent\) is stored",
    ),
}


@pytest.mark.parametrize(("make", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_start_is_refused(home: Home, make: Make, error: type[InputError], says: str) -> None:
    with pytest.raises(error, match=says):
        make(home)
    if "start" not in says:
        assert "later" not in study_names(home)
