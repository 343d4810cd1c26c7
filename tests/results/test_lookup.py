"""Runs as a user names them: ids, beginnings, STUDY/TRIAL, names."""

from __future__ import annotations

import pytest
from studies_for_tests import TRIALS, Place

from pipeline.errors import InputError, NotFoundError
from pipeline.results.lookup import find_run, trainings

pytest_plugins = ["study_fixtures"]


def test_a_run_is_found_by_every_form(finished: Place) -> None:
    trial = finished.search().ended(1)
    run_id = trial.summary.run_id
    for run, study in [
        (run_id, None),
        (run_id[:12], None),
        ("small/1", None),
        ("small/trial-0001", None),
        ("1", "small"),
        ("trial-0001", "small"),
    ]:
        assert find_run(finished.home, run, study) == run_id
    assert find_run(finished.home, "baseline-lin", "small") == find_run(finished.home, "baseline-linear", "small")


REFUSED = {
    "several": (
        "trial-000",
        "small",
        InputError,
        rf"begins {TRIALS} runs: [0-9a-f]{{12}} \(trial-0000 of small\), .*…",
    ),
    "no such trial": (f"small/{TRIALS}", None, NotFoundError, f"no trial {TRIALS}; it has {TRIALS} trials"),
    "no such study": ("other/1", None, NotFoundError, "no study 'other'.*studies: small"),
    "no such name": ("train-1", "small", NotFoundError, "no run of study small is named 'train-1'"),
    "no such id": ("0123456789abcdef", None, NotFoundError, "no run of /.* is named '0123456789abcdef'"),
    "a name without its study": ("trial-0001", None, InputError, "allowed are a run id or its beginning, STUDY/TRIAL"),
    "a query": ("x' OR name != '", "small", NotFoundError, "no run of study small"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_absent_or_ambiguous_is_named(case: str, finished: Place) -> None:
    run, study, error, says = REFUSED[case]
    with pytest.raises(error, match=says):
        find_run(finished.home, run, study)


def test_a_home_without_trainings_has_none(finished: Place) -> None:
    assert trainings(finished.home) == []
    assert trainings(finished.home, "small") == []
