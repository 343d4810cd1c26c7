"""The search by itself, with made-up objectives in place of training.

The heart of it: a study's trials must not depend on the order in which epochs arrive, on when it was killed and taken
up again, or on whether its total was raised later.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from pipeline.config import StudyConfig
from pipeline.config.study_config import PRUNERS, SAMPLERS
from pipeline.errors import ConfigError, NotFoundError, StudyError
from pipeline.home import Home, open_home
from pipeline.search.ask_tell import OpenTrial, Search
from pipeline.search.records import EndedTrial, RunningTrial, Summary, ranked
from pipeline.search.studies import load_search, open_search, study_names

FACTS = {"data.sha256": "0" * 64, "device": "cpu"}
TRIALS, EPOCHS, WINDOW = 8, 4, 3
# Settings under which a sampler or pruner does its work within so few trials; a new one is tested as it comes.
BUSY: dict[str, dict[str, Any]] = {
    "tpe": {"n_startup_trials": 3},
    "median": {"n_startup_trials": 2},
    "successive_halving": {"min_resource": 1, "reduction_factor": 2},
    "hyperband": {"min_resource": 1, "reduction_factor": 2},
}
COMBINATIONS = [(sampler, pruner) for sampler in SAMPLERS for pruner in PRUNERS]
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
        "seed": 2,  # under which every pruner prunes, and what is seen of other trials makes a difference
        "degrade": {"kind": "gaussian", "sigma": 0.5},
        "budget": {"trials": TRIALS, "epochs": EPOCHS, "concurrency": WINDOW},
        "sampler": {"name": sampler, **BUSY.get(sampler, {})},
        "pruner": {"name": pruner, **BUSY.get(pruner, {})},
        **SPACE,
    }
    for key, value in changes.items():
        raw[key] = {**raw[key], **value} if key in ("budget", "sampler", "pruner") else value
    return StudyConfig.model_validate_json(json.dumps(raw))


def objective(number: int, values: Mapping[str, Any], epoch: int, lifted: int | None) -> float:
    """Made up, but as a real one is: some settings are better, all improve with time, and there is noise."""
    best_lr = 1e-3 if values["optimizer"] == "adam" else 1.0
    noise = random.Random(1000 * number + epoch).gauss(0, 0.2)
    fit = -((math.log10(values["lr"] / best_lr)) ** 2) - abs(math.log2(values["bottleneck"]) - 6) * 0.3
    fit += values["negative_slope"] - values["dropout"] + (values["optimizer"] == "adam") * 0.5
    return 20 + fit + 2 * (1 - math.exp(-epoch / 3)) + noise + 50 * (number == lifted)


def fails(number: int, epoch: int) -> bool:
    """Some trials diverge."""
    return number == 4 and epoch == 1


class Player:
    """A driver without training: the rules of `study`, and nothing of its machinery.

    Args:
        home: where the database is.
        config: of the study.
        eager: ask a trial as soon as the window allows; otherwise only once no trial is open.
        lifted: a trial whose objective is far above the others'.
    """

    def __init__(self, home: Home, config: StudyConfig, eager: bool = True, lifted: int | None = None) -> None:
        self.home, self.config, self.eager, self.lifted = home, config, eager, lifted
        self.search = open_search(home, config, FACTS)
        self.running: dict[int, OpenTrial] = {}
        self.ended: dict[int, tuple[str, float | None]] = {}

    def fill(self) -> None:
        """Ask what the window allows."""
        if self.running and not self.eager:
            return
        asked, told = len(self.search.trials()), self.search.told()
        for number in range(asked, min(self.config.budget.trials, told + WINDOW)):
            self.running[number] = self.search.ask()
            assert self.running[number].number == number

    def unended(self) -> list[int]:
        return [number for number in self.running if number not in self.ended]

    def epoch(self, number: int) -> None:
        """The next epoch of an open trial arrives."""
        trial, epoch = self.running[number], len(self.running[number].reported) + 1
        if fails(number, epoch):
            self.ended[number] = ("FAIL", None)
            return
        prune = trial.report(epoch, objective(number, trial.values, epoch, self.lifted))
        if epoch == EPOCHS:
            self.ended[number] = ("COMPLETE", max(trial.reported.values()))
        elif prune:
            self.ended[number] = ("PRUNED", None)

    def tell(self) -> None:
        """Tell what has ended, in number order."""
        for number in range(self.search.told(), self.config.budget.trials):
            if number not in self.ended:
                return
            state, value = self.ended.pop(number)
            trial = self.running.pop(number)
            self.search.tell(trial, state, value, Summary(f"run-{number}", epochs=len(trial.reported)))  # type: ignore[arg-type]

    def killed(self, kept: int = EPOCHS) -> Player:
        """Another process takes the study up; of each open trial this many epochs had been saved."""
        heir = Player(self.home, self.config, self.eager, self.lifted)
        for record in heir.search.records():
            if isinstance(record, RunningTrial):
                heir.running[record.number] = heir.search.reopen(record.number)
                for _ in range(min(kept, len(self.running[record.number].reported))):
                    heir.epoch(record.number)
        return heir

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
        """All of the trials but their times."""
        return [
            (t.number, t.state.name, t.value, t.params, t.distributions, t.intermediate_values, rungs(t), t.user_attrs)
            for t in self.search.trials()
        ]


def rungs(trial: Any) -> dict[str, Any]:
    """What a pruner noted on the trial."""
    return {key: value for key, value in trial.system_attrs.items() if "rung" in key}


QUICK = Path("/dev/shm")  # a disk that is memory, where there is one: databases wait for the disk at every commit


@contextmanager
def new_home() -> Iterator[Home]:
    """A home with a fresh database; many are needed, and quickly."""
    with TemporaryDirectory(dir=QUICK if QUICK.is_dir() else None) as folder:
        (Path(folder) / "optuna.db").write_bytes(empty_database())
        yield open_home(Path(folder))


@cache
def empty_database() -> bytes:
    """Optuna's tables with nothing in them."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "optuna.db"
        optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
        return file.read_bytes()


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


@cache
def undisturbed(sampler: str, pruner: str) -> str:
    with new_home() as home:
        return repr(Player(home, configuration(sampler, pruner)).finish())


combined = pytest.mark.parametrize(("sampler", "pruner"), COMBINATIONS)


@combined
def test_the_pruner_prunes_and_the_sampler_learns(sampler: str, pruner: str) -> None:
    digest = undisturbed(sampler, pruner)
    assert digest.count("'COMPLETE'") >= 2
    assert digest.count("'FAIL'") == 1
    assert ("'PRUNED'" in digest) == (pruner != "none")
    assert (digest != undisturbed("random", pruner)) == (sampler != "random")


def test_epochs_in_another_order_give_the_same_trials(home: Home) -> None:
    player = Player(home, configuration())
    player.fill()
    while player.unended():
        player.epoch(max(player.unended()))  # the window waits for its lowest trial, which comes last here
        player.tell()
        player.fill()
    assert repr(player.finish()) == undisturbed("tpe", "median")


def test_asked_later_than_allowed_a_trial_is_the_same(home: Home) -> None:
    """Trials that have ended by now, but were under way when the window first allowed this one, count as under way."""
    assert repr(Player(home, configuration(), eager=False).finish()) == undisturbed("tpe", "median")


def test_a_total_raised_later_gives_the_same_trials(home: Home) -> None:
    for total in (1, WINDOW, WINDOW + 1):
        Player(home, configuration(budget={"trials": total})).finish()
    assert repr(Player(home, configuration()).finish()) == undisturbed("tpe", "median")


@combined
def test_all_at_once_and_killed_time_and_again(sampler: str, pruner: str, home: Home) -> None:
    Player(home, configuration(sampler, pruner, budget={"trials": 2})).finish()
    player, step = Player(home, configuration(sampler, pruner), eager=False), 0
    player.fill()
    while player.unended():
        player.epoch(max(player.unended()))
        if (step := step + 1) % 3 == 0:
            player = player.killed()
        player.tell()
        player.fill()
    assert repr(player.finish()) == undisturbed(sampler, pruner)


STEPS = st.tuples(st.sampled_from(["epoch", "epoch", "epoch", "tell", "ask"]), st.integers(0, WINDOW - 1))
KILLS = st.tuples(st.just("kill"), st.integers(0, EPOCHS))


@given(
    combination=st.sampled_from(COMBINATIONS),
    steps=st.lists(STEPS | KILLS, max_size=40),
    first_total=st.integers(1, TRIALS),
)
@settings(max_examples=15, deadline=None)
def test_any_interleaving_gives_the_same_trials(
    combination: tuple[str, str], steps: list[tuple[str, int]], first_total: int
) -> None:
    with new_home() as home:
        player = Player(home, configuration(*combination, budget={"trials": first_total}))
        for step, choice in steps:
            match step:
                case "epoch" if player.unended():
                    player.epoch(player.unended()[choice % len(player.unended())])
                case "tell":
                    player.tell()
                case "ask":
                    player.fill()
                case "kill":
                    player = player.killed(choice)
        player.finish()
        assert repr(Player(home, configuration(*combination)).finish()) == undisturbed(*combination)


@pytest.mark.parametrize("lifted", [0, 2])
def test_a_trial_is_seen_once_it_left_the_window_and_no_sooner(lifted: int, home: Home) -> None:
    plain = Player(home, configuration("tpe", "none")).finish()
    with new_home() as other:
        changed = Player(other, configuration("tpe", "none"), lifted=lifted).finish()
    params = [[trial[3] for trial in digest] for digest in (plain, changed)]
    assert params[0][: lifted + WINDOW] == params[1][: lifted + WINDOW]
    assert params[0][lifted + WINDOW :] != params[1][lifted + WINDOW :]


@pytest.mark.parametrize("pruner", ["successive_halving", "hyperband"])
def test_rung_values_are_kept_with_the_trials(pruner: str, home: Home) -> None:
    player = Player(home, configuration("tpe", pruner))
    player.finish()
    noted = [rungs(trial) for trial in player.search.trials()]
    assert sum(map(bool, noted)) > TRIALS // 2
    for trial, notes in zip(player.search.trials(), noted, strict=True):
        for key, value in notes.items():
            rung = int(key.rpartition("_")[2])
            assert value in trial.intermediate_values.values()
            assert trial.last_step is not None
            assert trial.last_step >= 2**rung


def test_another_seed_gives_other_trials(home: Home) -> None:
    assert repr(Player(home, configuration(seed=3)).finish()) != undisturbed("tpe", "median")


def test_a_stored_trial_is_whole_before_it_ends(home: Home) -> None:
    search = open_search(home, configuration(), FACTS)
    opened = search.ask()
    [stored] = search.trials()
    assert stored.state == TrialState.RUNNING
    assert stored.params
    [record] = search.records()
    assert record.values == opened.values
    assert isinstance(record, RunningTrial)


def test_a_summary_counts_only_once_its_trial_has_ended(home: Home) -> None:
    """It is written just before the state; a kill in between leaves a trial that is still to be told."""
    search = open_search(home, configuration(), FACTS)
    opened = search.ask()
    optuna.trial.Trial(search.study, search.trials()[0]._trial_id).set_user_attr("summary", Summary("run-0").__dict__)
    assert isinstance(search.records()[0], RunningTrial)
    search.tell(search.reopen(opened.number), "FAIL", None, Summary("run-0", reason="because"))
    assert search.records()[0].summary == Summary("run-0", reason="because")


# --- what a trial has -------------------------------------------------------------------------------------------------


def test_conditional_keys_are_there_only_where_they_apply(home: Home) -> None:
    player = Player(home, configuration("random"))
    player.finish()
    seen = set()
    for record in player.search.records():
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
    assert len(seen) == 6, "each key was there and was not"


def test_enqueued_configurations_come_first_and_whole(home: Home) -> None:
    first = {"optimizer": "sgd", "lr": 10.0, "momentum": 0.8, "bottleneck": 32, "depth": 1, "activation": "relu"}
    second = {"activation": "leaky_relu", "negative_slope": 0.01}
    search = open_search(home, configuration(enqueue=[first, second]), FACTS)
    opened = [search.ask(), search.ask(), search.ask()]
    assert first.items() <= opened[0].values.items()
    assert opened[0].values["momentum"] == pytest.approx(0.8)
    assert second.items() <= opened[1].values.items()
    assert "optimizer" in opened[1].values, "what an enqueued configuration leaves open is sampled"
    stored = search.trials()
    assert [t.state for t in stored] == [TrialState.RUNNING] * 3
    assert stored[0].params["lr@sgd"] == 10.0
    assert not [key for trial in stored for key in trial.system_attrs if "fixed" in key], (
        "nothing waits in the database"
    )


def test_enqueued_configurations_survive_a_kill(home: Home) -> None:
    config = configuration(enqueue=[{"bottleneck": 32}, {"bottleneck": 64}])
    player = Player(home, config)
    player.fill()
    killed = player.killed(0).finish()
    with new_home() as other:
        assert repr(killed) == repr(Player(other, config).finish())
    assert [trial[3]["bottleneck"] for trial in killed[:2]] == [32, 64]


def test_importances_need_ten_complete_trials(home: Home) -> None:
    config = configuration("random", "none", budget={"trials": 15})
    player = Player(home, config)
    player.fill()
    assert player.search.importances() == {}
    player.finish()
    assert len(ranked(player.search.records(), "maximize")) >= 10
    importances = player.search.importances()
    assert list(importances.values()) == sorted(importances.values(), reverse=True)
    assert sum(importances.values()) == pytest.approx(1)
    assert {key.partition("@")[0] for key in importances} <= set(config.space.searched())
    assert "optimizer" in importances


@given(
    values=st.lists(st.none() | st.sampled_from([1.0, 2.0, 3.0]) | st.floats(-1e6, 1e6), max_size=12),
    direction=st.sampled_from(["maximize", "minimize"]),
)
def test_ranking(values: list[float | None], direction: str) -> None:
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
    started = optuna.trial.create_trial(value=0).datetime_start
    assert started is not None
    return EndedTrial(number, {}, {}, started, state, value, Summary("run"), {})


# --- opening and refusing ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder_home(tmp_path: Path) -> Home:
    home = open_home(tmp_path / "home")
    home.prepare()
    return home


def test_unknown_studies(folder_home: Home, tmp_path: Path) -> None:
    open_search(folder_home, configuration(), FACTS)
    assert study_names(folder_home) == ["made-up"]
    assert load_search(folder_home, "made-up").config.canonical() == configuration().canonical()
    with pytest.raises(NotFoundError, match=r"'other'.*studies: made-up"):
        load_search(folder_home, "other")
    nowhere = open_home(tmp_path / "nowhere")
    assert study_names(nowhere) == []
    with pytest.raises(NotFoundError, match="studies: none"):
        load_search(nowhere, "made-up")
    assert not (tmp_path / "nowhere").exists()


def test_a_database_elsewhere(tmp_path: Path) -> None:
    home = open_home(tmp_path / "home", storage=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert study_names(home) == []
    assert not (tmp_path / "elsewhere.db").exists()
    open_search(home, configuration(), FACTS)
    assert study_names(home) == ["made-up"]


@pytest.mark.parametrize("storage", ["nonsense", "nonsense://somewhere", "sqlite:////no/such/folder/optuna.db"])
def test_databases_that_cannot_be_used(storage: str, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=f"--storage {storage}") as refusal:
        open_search(open_home(tmp_path, storage=storage), configuration(), FACTS)
    assert len(str(refusal.value).splitlines()) == 1


def test_a_study_that_differs_is_refused_with_the_differences(home: Home) -> None:
    open_search(home, configuration(), FACTS)
    other = configuration(seed=5, degrade={"kind": "gaussian", "sigma": 0.25}, budget={"epochs": 6})
    with pytest.raises(ConfigError) as refusal:
        open_search(home, other, FACTS)
    message = str(refusal.value)
    assert "seed: 2 is stored, 5 is asked" in message
    assert "degrade.sigma: 0.5 is stored, 0.25 is asked" in message
    assert f"budget.epochs: {EPOCHS} is stored, 6 is asked" in message
    assert "--name" in message
    assert len(message.splitlines()) <= 2
    with pytest.raises(ConfigError, match=r"data\.sha256: 0+ is stored, 1 is asked"):
        open_search(home, configuration(), FACTS | {"data.sha256": "1"})


def test_many_differences_are_cut_short(home: Home) -> None:
    open_search(home, configuration(), FACTS)
    other = configuration(seed=5, model={"depth": 2, "bottleneck": 3, "dropout": 0.1, "skip": True}, train={"lr": 0.1})
    with pytest.raises(ConfigError, match=r"; and \d+ more") as refusal:
        open_search(home, other, FACTS)
    assert str(refusal.value).count("is stored") == 6


def test_the_total_and_the_model_name_may_change(home: Home) -> None:
    first = open_search(home, configuration(), FACTS)
    second = open_search(home, configuration(registered_model="other", budget={"trials": 99}), FACTS)
    assert second.uid == first.uid
    assert second.study.user_attrs["config"]["budget"]["trials"] == 99


def test_what_is_kept_with_a_study_is_read_by_the_next_process(home: Home) -> None:
    search = open_search(home, configuration(), FACTS)
    assert search.baselines == {}
    search.baselines = {"linear": {"psnr": 1.5}}
    again = open_search(home, configuration(), FACTS)
    assert again.baselines == {"linear": {"psnr": 1.5}}
    assert again.facts == FACTS


def test_a_study_whose_making_was_cut_short_is_made_again(folder_home: Home) -> None:
    search = open_search(folder_home, configuration(), FACTS)
    storage = search.study._storage
    other = optuna.create_study(storage=storage, study_name="cut-short", direction="minimize")
    other.set_user_attr("uid", "left over")
    assert study_names(folder_home) == ["made-up"]
    with pytest.raises(NotFoundError, match="cut-short"):
        load_search(folder_home, "cut-short")
    made = open_search(folder_home, configuration(name="cut-short"), FACTS)
    assert made.uid != "left over"
    assert made.study.direction.name == "MAXIMIZE"
    assert study_names(folder_home) == ["cut-short", "made-up"]


@pytest.mark.parametrize(("metric", "direction"), [("psnr", "MAXIMIZE"), ("bce", "MINIMIZE")])
def test_the_direction_is_the_metric_s(metric: str, direction: str, home: Home) -> None:
    search = open_search(home, configuration(objective={"metric": metric}), FACTS)
    assert isinstance(search, Search)
    assert search.study.direction.name == direction
    assert search.ask().number == 0


# --- Both kinds of layers ------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_of_both_layer_types_asks_each_its_own_and_trains(
    sampler: str, home: Home, tiny_data: Path, tmp_path: Path
) -> None:
    config = configuration(sampler, model=BOTH, dataset=tiny.NAME, enqueue=[{"layer_type": "conv", "channels": 8}])
    player = Player(home, config)
    player.finish()
    stored = player.search.trials()
    kinds = [trial.params["layer_type"] for trial in stored]
    assert kinds[0] == "conv"
    assert set(kinds) == {"linear", "conv"}
    for kind, trial in zip(kinds, stored, strict=True):
        asked = trial.params.keys() - {"optimizer", "lr@sgd", "lr@default", "momentum"}
        assert asked == {"layer_type", f"depth@{kind}", f"bottleneck@{kind}"} | OWN[kind]
    for kind in ("linear", "conv"):
        trial = stored[kinds.index(kind)]
        values = config.space.resolve(lambda name, _, params=trial.params: params[name])
        tiny.train(config.trial(values, trial.number, "cpu"), None, tiny_data, tmp_path / kind)
