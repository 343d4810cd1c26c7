"""The search alone, with an invented objective instead of training.

The main property: a study's trials must not depend on the order in which epochs arrive, on when the study was killed
and resumed, or on whether its total was raised later.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
import sqlalchemy
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.config import StudyConfig
from pipeline.config.study_config import PRUNERS, SAMPLERS
from pipeline.errors import ConfigError, InputError, NotFoundError, StudyError
from pipeline.home import Home, open_home
from pipeline.search.ask_tell import IMPORTANCES_FROM, OpenTrial, Search
from pipeline.search.database import reading_once
from pipeline.search.records import EndedTrial, RunningTrial, Summary, ranked
from pipeline.search.studies import load_search, open_search, study_names

UID = "0" * 32
FACTS = {"data.sha256": "0" * 64, "device": "cpu"}
TRIALS, EPOCHS, WINDOW = 8, 4, 3
# Settings with which a sampler or pruner acts within so few trials; one without an entry keeps its defaults.
BUSY: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 3},
    "median": {"n_startup_trials": 2},
    "successive_halving": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "reduction_factor": 2},
    "paired": {"over": ["optimizer"]},  # totals of pairs of trials
}
COMBINATIONS = [(sampler, pruner) for sampler in SAMPLERS for pruner in PRUNERS if sampler != "paired"]
COMBINATIONS.append(("paired", "none"))
SPACE = {
    "model": {
        "bottleneck": {"low": 8, "high": 256, "log": True},
        "depth": {"low": 1, "high": 4},
        "activation": ["relu", "leaky_relu"],
        "negative_slope": {"low": 0.01, "high": 0.3},
        "dropout": {"choices": [0.1, 0.2], "when": {"depth": [3, 4]}},
    },
    "train": {
        "optimizer": ["adam", "sgd"],
        "lr": {
            "by": "optimizer",
            "sgd": {"low": 0.01, "high": 10.0, "log": True},
            "default": {"low": 1e-4, "high": 1e-2, "log": True},
        },
        "momentum": {"low": 0.5, "high": 0.9, "step": 0.1},
    },
}


def configuration(sampler: str = "tpe", pruner: str = "median", /, **changes: Any) -> StudyConfig:
    raw: dict[str, Any] = {
        "name": "made-up",
        "dataset": "mnist-5k",
        "seed": 2,  # with it every pruner prunes, and results of other trials change what is sampled
        "degrade": {"kind": "gaussian", "sigma": 0.5},
        "budget": {"trials": TRIALS, "epochs": EPOCHS, "concurrency": WINDOW},
        "sampler": {"name": sampler, **BUSY.get(sampler, {})},
        "pruner": {"name": pruner, **BUSY.get(pruner, {})},
        **SPACE,
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if key in ("budget", "sampler", "pruner") else value
    return StudyConfig.model_validate_json(json.dumps(raw))


def objective(number: int, values: Mapping[str, Any], epoch: int, outlier: int | None) -> float:
    """An invented objective: as with a real one, settings differ, epochs improve the value, and there is noise."""
    best_lr = 1e-3 if values["optimizer"] == "adam" else 1.0
    noise = random.Random(1000 * number + epoch).gauss(0, 0.2)
    fit = -((math.log10(values["lr"] / best_lr)) ** 2) - abs(math.log2(values["bottleneck"]) - 6) * 0.3
    fit += values["negative_slope"] - values["dropout"] + (values["optimizer"] == "adam") * 0.5
    return 20 + fit + 2 * (1 - math.exp(-epoch / 3)) + noise + 50 * (number == outlier)


def fails(number: int, epoch: int) -> bool:
    """Whether a trial diverges in this epoch."""
    return number == 4 and epoch == 1


class SimulatedDriver:
    """A driver without training: it follows the rules of `pipeline.study` with an invented objective.

    Args:
        home: the home with the database.
        config: the study's configuration.
        eager: whether to ask for a trial as soon as the window allows, or only when no trial is open.
        outlier: number of a trial whose objective is far above the others'.
    """

    def __init__(self, home: Home, config: StudyConfig, eager: bool = True, outlier: int | None = None) -> None:
        self.home, self.config, self.eager, self.outlier = home, config, eager, outlier
        self.search = open_search(home, config, UID, FACTS)
        self.running: dict[int, OpenTrial] = {}
        self.ended: dict[int, tuple[str, float | None]] = {}

    def fill(self) -> None:
        """Ask for all trials that the window allows."""
        if self.running and not self.eager:
            return
        asked, recorded = len(self.search.trials()), self.search.told()
        for number in range(asked, min(self.config.budget.trials, recorded + WINDOW)):
            self.running[number] = self.search.ask()
            assert self.running[number].number == number

    def unended(self) -> list[int]:
        return [number for number in self.running if number not in self.ended]

    def epoch(self, number: int) -> None:
        """Report the next epoch of an open trial."""
        trial, epoch = self.running[number], len(self.running[number].reported) + 1
        if fails(number, epoch):
            self.ended[number] = ("FAIL", None)
            return
        prune = trial.report(epoch, objective(number, trial.values, epoch, self.outlier))
        if epoch == EPOCHS:
            self.ended[number] = ("COMPLETE", max(trial.reported.values()))
        elif prune:
            self.ended[number] = ("PRUNED", None)

    def tell(self) -> None:
        """Record the results of trials that have ended, in the order of their numbers."""
        for number in range(self.search.told(), self.config.budget.trials):
            if number not in self.ended:
                return
            state, value = self.ended.pop(number)
            trial = self.running.pop(number)
            self.search.tell(trial, state, value, Summary(f"run-{number}", epochs=len(trial.reported)))  # type: ignore[arg-type]

    def restarted(self, kept: int = EPOCHS) -> SimulatedDriver:
        """A new driver that resumes the study; at most ``kept`` epochs of each open trial were saved."""
        resumed = SimulatedDriver(self.home, self.config, self.eager, self.outlier)
        for record in resumed.search.records():
            if isinstance(record, RunningTrial):
                resumed.running[record.number] = resumed.search.reopen(record.number)
                for _ in range(min(kept, len(self.running[record.number].reported))):
                    resumed.epoch(record.number)
        return resumed

    def finish(self) -> list[Any]:
        self.tell()
        self.fill()
        while self.running:
            for number in self.unended():
                self.epoch(number)
            self.tell()
            self.fill()
        return self.digest()

    def digest(self) -> list[Any]:
        """Everything about the trials except their times."""
        return [
            (t.number, t.state.name, t.value, t.params, t.distributions, t.intermediate_values, rungs(t), t.user_attrs)
            for t in self.search.trials()
        ]


def rungs(trial: Any) -> dict[str, Any]:
    """The values that a pruner stored with a trial."""
    return {key: value for key, value in trial.system_attrs.items() if "rung" in key}


MEMORY_DISK = Path("/dev/shm")  # databases wait for the disk at every commit; a disk in memory is faster


@contextmanager
def new_home() -> Iterator[Home]:
    """A home with an empty database, copied because creating one takes long."""
    with TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as folder:
        (Path(folder) / "optuna.db").write_bytes(empty_database())
        yield open_home(Path(folder))


@cache
def empty_database() -> bytes:
    """The content of a database with Optuna's tables and no rows."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "optuna.db"
        optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
        return file.read_bytes()


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


@cache
def uninterrupted(sampler: str, pruner: str) -> str:
    with new_home() as home:
        return repr(SimulatedDriver(home, configuration(sampler, pruner)).finish())


combined = pytest.mark.parametrize(("sampler", "pruner"), COMBINATIONS)


@combined
def test_the_pruner_prunes_and_the_sampler_uses_results(sampler: str, pruner: str) -> None:
    digest = uninterrupted(sampler, pruner)
    assert digest.count("'COMPLETE'") >= 2
    assert digest.count("'FAIL'") == 1
    assert ("'PRUNED'" in digest) == (pruner != "none")
    assert (digest != uninterrupted("random", pruner)) == (sampler != "random")


def test_epochs_in_another_order_give_the_same_trials(home: Home) -> None:
    driver = SimulatedDriver(home, configuration())
    driver.fill()
    while driver.unended():
        driver.epoch(max(driver.unended()))  # the window waits for its lowest trial, which is last here
        driver.tell()
        driver.fill()
    assert repr(driver.finish()) == uninterrupted("tpe", "median")


def test_a_trial_asked_later_than_allowed_is_the_same(home: Home) -> None:
    """A trial that has ended counts as running if it ran when the window first allowed the new trial."""
    assert repr(SimulatedDriver(home, configuration(), eager=False).finish()) == uninterrupted("tpe", "median")


def test_a_total_raised_later_gives_the_same_trials(home: Home) -> None:
    for total in (1, WINDOW, WINDOW + 1):
        SimulatedDriver(home, configuration(budget={"trials": total})).finish()
    assert repr(SimulatedDriver(home, configuration()).finish()) == uninterrupted("tpe", "median")


@combined
def test_reverse_order_late_asking_and_repeated_kills_give_the_same_trials(
    sampler: str, pruner: str, home: Home
) -> None:
    SimulatedDriver(home, configuration(sampler, pruner, budget={"trials": 2})).finish()
    driver, step = SimulatedDriver(home, configuration(sampler, pruner), eager=False), 0
    driver.fill()
    while driver.unended():
        driver.epoch(max(driver.unended()))
        if (step := step + 1) % 3 == 0:
            driver = driver.restarted()
        driver.tell()
        driver.fill()
    assert repr(driver.finish()) == uninterrupted(sampler, pruner)


STEPS = st.tuples(st.sampled_from(["epoch", "epoch", "epoch", "tell", "ask"]), st.integers(0, WINDOW - 1))
KILLS = st.tuples(st.just("kill"), st.integers(0, EPOCHS))


@given(
    combination=st.sampled_from(COMBINATIONS),
    steps=st.lists(STEPS | KILLS, max_size=40),
    first_total=st.sampled_from(range(2, TRIALS + 1, 2)),
)
@settings(max_examples=15, deadline=None)
def test_any_interleaving_gives_the_same_trials(
    combination: tuple[str, str], steps: list[tuple[str, int]], first_total: int
) -> None:
    with new_home() as home:
        driver = SimulatedDriver(home, configuration(*combination, budget={"trials": first_total}))
        for step, choice in steps:
            match step:
                case "epoch" if driver.unended():
                    driver.epoch(driver.unended()[choice % len(driver.unended())])
                case "tell":
                    driver.tell()
                case "ask":
                    driver.fill()
                case "kill":
                    driver = driver.restarted(choice)
        driver.finish()
        assert repr(SimulatedDriver(home, configuration(*combination)).finish()) == uninterrupted(*combination)


@pytest.mark.parametrize("outlier", [0, 2])
def test_a_result_affects_sampling_only_after_its_trial_left_the_window(outlier: int, home: Home) -> None:
    plain = SimulatedDriver(home, configuration("tpe", "none")).finish()
    with new_home() as other:
        changed = SimulatedDriver(other, configuration("tpe", "none"), outlier=outlier).finish()
    params = [[trial[3] for trial in digest] for digest in (plain, changed)]
    assert params[0][: outlier + WINDOW] == params[1][: outlier + WINDOW]
    assert params[0][outlier + WINDOW :] != params[1][outlier + WINDOW :]


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_rung_values_are_stored_with_the_trials(pruner: str, home: Home) -> None:
    driver = SimulatedDriver(home, configuration("tpe", pruner))
    driver.finish()
    noted = [rungs(trial) for trial in driver.search.trials()]
    assert sum(map(bool, noted)) > TRIALS // 2
    for trial, notes in zip(driver.search.trials(), noted, strict=True):
        for key, value in notes.items():
            rung = int(key.rpartition("_")[2])
            assert value in trial.intermediate_values.values()
            assert trial.last_step is not None
            assert trial.last_step >= 2**rung


def test_another_seed_gives_other_trials(home: Home) -> None:
    assert repr(SimulatedDriver(home, configuration(seed=3)).finish()) != uninterrupted("tpe", "median")


def test_a_stored_trial_is_complete_before_it_ends(home: Home) -> None:
    search = open_search(home, configuration(), UID, FACTS)
    opened = search.ask()
    [stored] = search.trials()
    assert stored.state == TrialState.RUNNING
    assert stored.params
    [record] = search.records()
    assert record.values == opened.values
    assert isinstance(record, RunningTrial)


def test_a_summary_counts_only_once_its_trial_has_ended(home: Home) -> None:
    """It is written just before the state, so a kill in between leaves a trial whose result is not recorded."""
    search = open_search(home, configuration(), UID, FACTS)
    opened = search.ask()
    optuna.trial.Trial(search.study, search.trials()[0]._trial_id).set_user_attr("summary", Summary("run-0").__dict__)
    assert isinstance(search.records()[0], RunningTrial)
    told = search.tell(search.reopen(opened.number), "FAIL", None, Summary("run-0", reason="because"))
    assert search.records() == [told]
    assert told.summary == Summary("run-0", reason="because")
    assert told.started < told.ended <= datetime.now()


# --- the database is the record, but whoever holds the lock remembers it ----------------------------------------------


def test_a_holder_of_the_lock_remembers_what_the_database_has(home: Home) -> None:
    config = configuration("tpe", "successive_halving")
    held = SimulatedDriver(home, config)
    held.search.hold(lambda: False)
    assert repr(held.finish()) == uninterrupted("tpe", "successive_halving")
    held.search.baselines = {"linear": {"psnr": 1.5}}
    held.search.adopt(1, "other")
    read = load_search(home, config.name)
    assert held.search.records() == read.records()
    assert held.search.told() == read.told() == TRIALS
    assert held.search.attributes() == read.attributes()
    assert read.ended(1).summary.run_id == "other"


def test_steps_that_look_at_the_trials_one_after_the_other_read_ended_ones_once(home: Home) -> None:
    config = configuration()
    SimulatedDriver(home, config).finish()
    reads: list[str] = []
    with reading_once():
        first, second = load_search(home, config.name), load_search(home, config.name)
        storage = first.study._storage
        records = first.records()
        engine = storage._backend.engine  # type: ignore[attr-defined]
        sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *given: reads.append(given[2]))
        assert second.records() == records
    assert not [statement for statement in reads if "trial_params" in statement]
    assert load_search(home, config.name).study._storage is not storage


def test_a_holder_reads_the_trials_once(home: Home) -> None:
    driver = SimulatedDriver(home, configuration())
    driver.search.hold(lambda: False)
    driver.fill()
    reads: list[str] = []

    def note(statement: str) -> None:
        if "FROM trials" in statement and "trials.study_id = " in statement and "count(" not in statement:
            reads.append(statement)  # `add_trial` counts them

    engine = driver.search.study._storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *given: note(given[2]))
    assert [record.state for record in driver.search.records()] == ["RUNNING"] * WINDOW
    driver.finish()
    assert driver.search.told() == TRIALS
    assert reads == []
    assert len(driver.search.study.trials) == TRIALS
    assert reads, "the database's own reading is noted"


def test_a_lock_taken_again_is_enough_only_if_nobody_else_held_it(home: Home) -> None:
    taken_again = [False, True, False]
    search = open_search(home, configuration(), UID, FACTS)
    search.hold(lambda: bool(taken_again) and taken_again.pop())
    search.ask()
    search.ask()  # the lock is taken again, and the study is as it was left
    other = load_search(home, "made-up")
    other.hold(lambda: False)
    taken_again.append(True)
    search.judge = "1"  # the other has not written yet
    other.judge = "2"
    taken_again.append(True)
    for _ in range(2):
        with pytest.raises(StudyError, match="another process changed study 'made-up' meanwhile"):
            search.judge = "3"
    assert load_search(home, "made-up").judge == "2"


# --- a trial's values -------------------------------------------------------------------------------------------------


def test_conditional_keys_are_present_only_where_they_apply(home: Home) -> None:
    driver = SimulatedDriver(home, configuration("random"))
    driver.finish()
    seen = set()
    for record in driver.search.records():
        values, params = record.values, record.params
        assert ("negative_slope" in params) == (values["activation"] == "leaky_relu")
        assert ("momentum" in params) == (values["optimizer"] == "sgd")
        assert ("dropout" in params) == (values["depth"] in (3, 4))
        low, high = (0.01, 10) if values["optimizer"] == "sgd" else (1e-4, 1e-2)
        assert low <= values["lr"] <= high
        assert params["lr"] == values["lr"]
        assert not [key for key in params if "@" in key]
        seen |= {
            ("slope", "negative_slope" in params),
            ("momentum", "momentum" in params),
            ("drop", "dropout" in params),
        }
    assert len(seen) == 6, "each key is present in some trials and absent from others"


def test_enqueued_configurations_come_first_with_all_their_values(home: Home) -> None:
    first = {"optimizer": "sgd", "lr": 10.0, "momentum": 0.8, "bottleneck": 32, "depth": 1, "activation": "relu"}
    second = {"activation": "leaky_relu", "negative_slope": 0.01}
    search = open_search(home, configuration(enqueue=[first, second]), UID, FACTS)
    opened = [search.ask(), search.ask(), search.ask()]
    assert first.items() <= opened[0].values.items()
    assert opened[0].values["momentum"] == pytest.approx(0.8)
    assert second.items() <= opened[1].values.items()
    assert "optimizer" in opened[1].values, "the other values are sampled"
    stored = search.trials()
    assert [t.state for t in stored] == [TrialState.RUNNING] * 3
    assert stored[0].params["lr@sgd"] == 10.0
    assert not [key for trial in stored for key in trial.system_attrs if "fixed" in key], "no enqueued trial is stored"


def test_enqueued_configurations_survive_a_kill(home: Home) -> None:
    config = configuration(enqueue=[{"bottleneck": 32}, {"bottleneck": 64}])
    driver = SimulatedDriver(home, config)
    driver.fill()
    killed = driver.restarted(0).finish()
    with new_home() as other:
        assert repr(killed) == repr(SimulatedDriver(other, config).finish())
    assert [trial[3]["bottleneck"] for trial in killed[:2]] == [32, 64]


def test_importances_are_optuna_s_own_with_conditional_and_split_keys(home: Home) -> None:
    config = configuration("tpe", "none", budget={"trials": IMPORTANCES_FROM + 5})
    driver = SimulatedDriver(home, config)
    driver.finish()
    importances = driver.search.importances()
    assert importances.keys() == {
        *("bottleneck", "depth", "activation", "negative_slope", "dropout"),
        *("optimizer", "lr@sgd", "lr@default", "momentum"),
    }
    assert list(importances.values()) == sorted(importances.values(), reverse=True)
    assert list(load_search(home, config.name).importances().items()) == list(importances.items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert importances == pytest.approx(optuna.importance.get_param_importances(driver.search.study))


@pytest.mark.parametrize(
    ("sampler", "trials", "values"),
    [
        ("random", IMPORTANCES_FROM, lambda number: float(number)),  # `study effects` says more
        ("tpe", IMPORTANCES_FROM - 1, lambda number: float(number)),  # too few
        ("tpe", IMPORTANCES_FROM, lambda _: 20.0),  # all equal
        ("tpe", IMPORTANCES_FROM, lambda _: None),  # none complete
    ],
)
def test_importances_that_say_nothing_are_left_out(
    sampler: str, trials: int, values: Callable[[int], float | None], home: Home
) -> None:
    search = open_search(home, configuration(sampler, "none", budget={"trials": trials}), UID, FACTS)
    for number in range(trials):
        value = values(number)
        search.tell(search.ask(), "PRUNED" if value is None else "COMPLETE", value, Summary(f"run-{number}"))
    assert search.importances() == {}


@given(
    values=st.lists(st.none() | st.sampled_from([1.0, 2.0, 3.0]) | st.floats(-1e6, 1e6), max_size=12),
    direction=st.sampled_from(["maximize", "minimize"]),
)
def test_ranking_is_by_value_then_by_number(values: list[float | None], direction: str) -> None:
    records = [record(number, value) for number, value in enumerate(values)]
    order = ranked(records, direction)
    assert sorted(r.number for r in order) == [n for n, value in enumerate(values) if value is not None]
    for better, worse in pairwise(order):
        assert better.value is not None
        assert worse.value is not None
        assert better.value >= worse.value if direction == "maximize" else better.value <= worse.value
        assert better.value != worse.value or better.number < worse.number


def record(number: int, value: float | None) -> EndedTrial:
    state: Any = "COMPLETE" if value is not None else "PRUNED"
    now = datetime(2026, 1, 2, 3, 4, 5)
    return EndedTrial(number, {}, {}, now, now, state, value, Summary("run"), {})


# --- opening a study -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder_home(tmp_path: Path) -> Home:
    home = open_home(tmp_path / "home")
    home.prepare()
    return home


def test_unknown_studies_are_refused(folder_home: Home, tmp_path: Path) -> None:
    open_search(folder_home, configuration(), UID, FACTS)
    assert study_names(folder_home) == ["made-up"]
    assert load_search(folder_home, "made-up").config.canonical() == configuration().canonical()
    with pytest.raises(NotFoundError, match=r"'other'.*studies: made-up"):
        load_search(folder_home, "other")
    nowhere = open_home(tmp_path / "nowhere")
    assert study_names(nowhere) == []
    with pytest.raises(NotFoundError, match="studies: none"):
        load_search(nowhere, "made-up")
    assert not (tmp_path / "nowhere").exists()


def test_a_database_outside_the_home(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home", storage=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert study_names(home) == []
    assert not (tmp_path / "elsewhere.db").exists()
    open_search(home, configuration(), UID, FACTS)
    assert study_names(home) == ["made-up"]


@pytest.mark.parametrize("storage", ["nonsense", "nonsense://somewhere", "sqlite:////no/such/folder/optuna.db"])
def test_databases_that_cannot_be_used_are_refused(storage: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"--storage {storage}") as caught:
        open_search(open_home(tmp_path, storage=storage), configuration(), UID, FACTS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_study_that_differs_is_refused_with_the_differences(home: Home) -> None:
    open_search(home, configuration(), UID, FACTS)
    other = configuration(seed=5, degrade={"kind": "gaussian", "sigma": 0.25}, budget={"epochs": 6})
    with pytest.raises(ConfigError) as caught:
        open_search(home, other, UID, FACTS)
    message = str(caught.value)
    assert "seed: 2 is stored, 5 is asked" in message
    assert "degrade.sigma: 0.5 is stored, 0.25 is asked" in message
    assert f"budget.epochs: {EPOCHS} is stored, 6 is asked" in message
    assert "--name" in message
    assert len(message.splitlines()) <= 2
    with pytest.raises(ConfigError, match=r"data\.sha256: 0+ is stored, 1 is asked"):
        open_search(home, configuration(), UID, FACTS | {"data.sha256": "1"})


def test_a_long_list_of_differences_is_shortened(home: Home) -> None:
    open_search(home, configuration(), UID, FACTS)
    other = configuration(seed=5, model={"depth": 2, "bottleneck": 3, "dropout": 0.1, "skip": True}, train={"lr": 0.1})
    with pytest.raises(ConfigError, match=r"; and \d+ more") as caught:
        open_search(home, other, UID, FACTS)
    assert str(caught.value).count("is stored") == 6


def test_the_total_and_the_model_name_may_change(home: Home) -> None:
    first = open_search(home, configuration(), UID, FACTS)
    second = open_search(home, configuration(registered_model="other", budget={"trials": 99}), UID, FACTS)
    assert second.uid == first.uid
    assert second.study.user_attrs["config"]["budget"]["trials"] == 99


def test_values_stored_with_a_study_are_read_by_the_next_process(home: Home) -> None:
    search = open_search(home, configuration(), UID, FACTS)
    assert search.baselines == {}
    search.baselines = {"linear": {"psnr": 1.5}}
    again = open_search(home, configuration(), UID, FACTS)
    assert again.baselines == {"linear": {"psnr": 1.5}}
    assert again.facts == FACTS


def test_a_study_keeps_its_precision_and_refuses_a_machine_that_is_slow_at_it(home: Home) -> None:
    quick, slow = (FACTS | {"precision": precision} for precision in ("bfloat16", "float32"))
    open_search(home, configuration(), UID, slow)
    assert open_search(home, configuration(), UID, quick).facts == slow, "a machine that can do more does the same"
    open_search(home, configuration(name="quick"), UID, quick)
    assert open_search(home, configuration(name="quick"), UID, quick).facts == quick
    with pytest.raises(ConfigError, match=r"trains in bfloat16.*\nRun it on a machine whose .*--name OTHER"):
        open_search(home, configuration(name="quick"), UID, slow)


def test_a_study_whose_creation_was_interrupted_is_created_again(folder_home: Home) -> None:
    search = open_search(folder_home, configuration(), UID, FACTS)
    storage = search.study._storage
    other = optuna.create_study(storage=storage, study_name="interrupted", direction="minimize")
    other.set_user_attr("uid", "unfinished")
    assert study_names(folder_home) == ["made-up"]
    with pytest.raises(NotFoundError, match="interrupted"):
        load_search(folder_home, "interrupted")
    created = open_search(folder_home, configuration(name="interrupted"), UID, FACTS)
    assert created.uid != "unfinished"
    assert created.study.direction.name == "MAXIMIZE"
    assert study_names(folder_home) == ["interrupted", "made-up"]


def test_a_study_of_another_version_is_one_clear_error(folder_home: Home) -> None:
    search = open_search(folder_home, configuration(), UID, FACTS)
    config = search.study.user_attrs["config"]
    search.study.set_user_attr("config", config | {"budget": config["budget"] | {"patience": 3}})
    with pytest.raises(InputError, match=r"study made-up in .* another version of this program \(budget\.patience: "):
        load_search(folder_home, "made-up")


@pytest.mark.parametrize(("metric", "direction"), [("psnr", "MAXIMIZE"), ("bce", "MINIMIZE")])
def test_direction_and_name_are_the_metric_s(metric: str, direction: str, home: Home) -> None:
    search = open_search(home, configuration(objective={"metric": metric}), UID, FACTS)
    assert isinstance(search, Search)
    assert search.study.direction.name == direction
    assert load_search(home, search.config.name).study.metric_names == [metric]
    assert search.ask().number == 0


# --- both kinds of layers ------------------------------------------------------------------------------------------

BOTH = {
    "layer_type": ["linear", "conv"],
    "depth": {"by": "layer_type", "linear": [2, 3], "conv": [1, 2]},
    "bottleneck": {
        "by": "layer_type",
        "linear": {"low": 8, "high": 64, "log": True},
        "conv": {"low": 4, "high": 16, "log": True},
    },
    "channels": [4, 8],
    "kernel": [3, 5],
    "width": ["auto", 64],
    "dropout": {"low": 0.0, "high": 0.2, "when": {"layer_type": ["linear"]}},
}
OWN = {"linear": {"width", "dropout"}, "conv": {"channels", "kernel"}}


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_of_both_layer_types_samples_only_the_keys_of_each_and_trains(
    sampler: str, home: Home, tiny_data: Path, tmp_path: Path
) -> None:
    config = configuration(sampler, model=BOTH, dataset=tiny.NAME, enqueue=[{"layer_type": "conv", "channels": 8}])
    driver = SimulatedDriver(home, config)
    driver.finish()
    stored = driver.search.trials()
    kinds = [trial.params["layer_type"] for trial in stored]
    assert kinds[0] == "conv"
    assert set(kinds) == {"linear", "conv"}
    for kind, trial in zip(kinds, stored, strict=True):
        asked = trial.params.keys() - {"optimizer", "lr@sgd", "lr@default", "momentum"}
        assert asked == {"layer_type", f"depth@{kind}", f"bottleneck@{kind}"} | OWN[kind]
    for kind in ("linear", "conv"):
        trial = stored[kinds.index(kind)]
        values = config.space.resolve(lambda name, _, params=trial.params: params[name])
        tiny.train(config.trial(values, trial.number, "cpu", "float32"), None, tiny_data, tmp_path / kind)
