"""The paired sampler: blocks and levels, what may be compared, how many trials there are, what is enqueued."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_for_tests import Load, assert_refused, stored

from pipeline.config import StudyConfig
from pipeline.config.design import Design

PAIRED = '[sampler]\nname = "paired"\nover = ["optimizer"]\n'
SPACE = """
[model]
bottleneck = { low = 16, high = 256, log = true }
activation = ["relu", "elu"]
[train]
optimizer = ["adam", "sgd", "rmsprop"]
lr.by = "optimizer"
lr.sgd = { low = 0.1, high = 10.0, log = true }
lr.default = { low = 1e-4, high = 1e-2, log = true }
momentum = { low = 0.5, high = 0.9, step = 0.1 }
"""


def design_of(config: StudyConfig) -> Design:
    assert config.design is not None
    return config.design


def test_the_trials_of_a_block_differ_in_the_compared_key_and_what_depends_on_it(load: Load) -> None:
    config = load(f"{PAIRED}blocks = 40\n{SPACE}").config
    assert (config.budget.trials, config.pruner.name) == (120, "none")
    design, shares = design_of(config), []
    for block in range(40):
        adam, sgd, rmsprop = (design.parameters(3 * block + level) for level in range(3))
        assert [trial["optimizer"] for trial in (adam, sgd, rmsprop)] == ["adam", "sgd", "rmsprop"]
        assert len({(trial["bottleneck"], trial["activation"]) for trial in (adam, sgd, rmsprop)}) == 1
        assert adam["lr@default"] == rmsprop["lr@default"]
        assert sgd["lr@sgd"] == pytest.approx(float(adam["lr@default"]) * 1000), "the same quantile of its own range"
        assert sgd["momentum"] == rmsprop["momentum"]
        assert "momentum" not in adam
        assert design.place(3 * block + 1) == (block, 1)
        shares.append((adam["bottleneck"], adam["activation"], adam["lr@default"]))
    assert len(set(shares)) == 40
    assert {activation for _, activation, _ in shares} == {"relu", "elu"}
    assert len({sgd for sgd, *_ in shares}) > 20


def test_a_block_depends_on_seed_and_number_alone(load: Load) -> None:
    few, many = (design_of(load(f"{PAIRED}blocks = {blocks}\n{SPACE}").config) for blocks in (2, 9))
    assert [few.parameters(n) for n in range(6)] == [many.parameters(n) for n in range(6)]
    fewer_keys = design_of(load(f"{PAIRED}blocks = 2\n{SPACE}", "model.activation=elu").config)
    assert [fewer_keys.parameters(n)["bottleneck"] for n in range(6)] == [
        few.parameters(n)["bottleneck"] for n in range(6)
    ], "a key's draw does not depend on which others are searched"
    other = design_of(load(f"{PAIRED}blocks = 2\n{SPACE}", "seed=1").config)
    assert other.parameters(0) != few.parameters(0)


def test_two_keys_are_compared_in_all_their_combinations(load: Load) -> None:
    config = load('[sampler]\nname = "paired"\nover = ["optimizer", "activation"]\nblocks = 2\n' + SPACE).config
    design = design_of(config)
    assert config.budget.trials == 12
    pairs = [(level["optimizer"], level["activation"]) for level in design.levels]
    assert pairs == [(o, a) for o in ("adam", "sgd", "rmsprop") for a in ("relu", "elu")]
    assert [(t["optimizer"], t["activation"]) for t in map(design.parameters, range(6))] == pairs


def test_enqueued_configurations_are_blocks_of_their_own_that_come_first(load: Load) -> None:
    config = load(f"{PAIRED}blocks = 2\n{SPACE}[[enqueue]]\nbottleneck = 32\n")
    assert config.config.budget.trials == 9
    design = design_of(config.config)
    assert [design.place(number)[0] for number in range(9)] == [-1] * 3 + [0] * 3 + [1] * 3
    assert [design.parameters(number)["bottleneck"] for number in range(3)] == [32] * 3
    assert len({design.parameters(number)["activation"] for number in range(3)}) == 1


def test_the_total_and_the_blocks_follow_from_each_other(load: Load) -> None:
    by_blocks, by_trials = load(f"{PAIRED}blocks = 4\n{SPACE}"), load(f"{PAIRED}{SPACE}[budget]\ntrials = 12\n")
    assert by_blocks.config.budget == by_trials.config.budget
    assert by_blocks.config.sampling == by_trials.config.sampling == "paired over optimizer in 4 blocks of 3"
    again = StudyConfig.model_validate_json(json.dumps(stored(by_blocks)))
    assert again.canonical() == by_blocks.config.canonical()
    raised = load(f"{PAIRED}blocks = 4\n{SPACE}", trials=15).config
    assert (raised.budget.trials, raised.sampling) == (15, "paired over optimizer in 5 blocks of 3")
    assert raised.differences(by_blocks.config.canonical()) == []
    assert load(f"{PAIRED}blocks = 9\n{SPACE}").config.differences(by_blocks.config.canonical()) == []


def test_one_training_of_a_paired_study_takes_no_design(load: Load) -> None:
    config = load(
        f"{PAIRED}blocks = 4\n{SPACE}[[enqueue]]\nbottleneck = 32\nactivation = 'elu'\n", "train.lr=0.5"
    ).config
    with pytest.raises(Exception, match=r"train\.optimizer"):
        config.single()
    fixed = load(
        f"{PAIRED}blocks = 4\n{SPACE}", "train.optimizer=sgd", "sampler={}", "train.lr=0.5", "train.momentum=0.5"
    )
    assert fixed.config.design is None


MORE = f"blocks = 4\n{SPACE}"
REFUSED = {
    "a range": (PAIRED.replace("optimizer", "lr") + MORE, ["over = 'lr'", "[train] lr = […]"]),
    "a range of whole numbers": (PAIRED.replace("optimizer", "bottleneck") + MORE, ["over = 'bottleneck'"]),
    "a list of one value": (
        PAIRED.replace("optimizer", "activation") + MORE.replace('["relu", "elu"]', '["relu"]'),
        ["over = 'activation'", "has one value only"],
    ),
    "a fixed key": (PAIRED.replace("optimizer", "loss") + MORE, ["over = 'loss'", "[train] loss = […]"]),
    "a list that some trials do not use": (
        PAIRED.replace("optimizer", "alpha") + MORE.replace("[train]", "alpha = [0.5, 1.0]\n[train]"),
        ["over = 'alpha'", "every trial"],
    ),
    "a list with a condition": (
        PAIRED.replace("optimizer", "dropout")
        + MORE.replace("[train]", "dropout = { choices = [0.0, 0.1], when = { activation = ['elu'] } }\n[train]"),
        ["over = 'dropout'", "every trial"],
    ),
    "an unknown key": (PAIRED.replace("optimizer", "optimiser") + MORE, ["over", "did you mean 'optimizer'"]),
    "no key": (PAIRED.replace('"optimizer"', "") + MORE, ["over = []", "one or two"]),
    "a key twice": (PAIRED.replace('"]', '", "optimizer"]') + MORE, ["one or two"]),
    "three keys": (PAIRED.replace('"]', '", "activation", "loss"]') + MORE, ["one or two"]),
    "text": (PAIRED.replace('["optimizer"]', '"optimizer"') + MORE, ["[sampler] over = 'optimizer'", "list"]),
    "no over": (PAIRED.replace("over", "# over") + MORE, ["[sampler] over is missing"]),
    "no blocks": (PAIRED + SPACE, ["[sampler] blocks is missing", "3 trials"]),
    "blocks of text": (PAIRED + "blocks = 'many'\n" + SPACE, ["[sampler] blocks = 'many'"]),
    "a pruner": (PAIRED + MORE + "[pruner]\nname = 'median'\n", ["[pruner]", "omit"]),
    "a pruner without a name": (PAIRED + MORE + "[pruner]\nreduction_factor = 3\n", ["[pruner]", "omit"]),
    "another total": (PAIRED + MORE + "[budget]\ntrials = 30\n", ["trials = 30", "4 blocks are 12 trials", "omit"]),
    "a total that is no number": (PAIRED + MORE + "[budget]\ntrials = true\n", ["[budget] trials = True", "integer"]),
    "half a block": (PAIRED + SPACE + "[budget]\ntrials = 8\n", ["trials = 8", "allowed: 6 or 9"]),
    "no whole block": (PAIRED + SPACE + "[budget]\ntrials = 2\n", ["trials = 2", "at least 3"]),
    "an enqueued level": (PAIRED + MORE + "[[enqueue]]\noptimizer = 'sgd'\n", ["optimizer is compared", "omit it"]),
    "an enqueued value that one level cannot have": (
        PAIRED + MORE + "[[enqueue]]\nlr = 0.05\n",
        ["lr = 0.05", "number 1"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_design_that_cannot_be_is_refused(load: Load, case: str, tmp_path: Path) -> None:
    assert_refused(load, tmp_path, *REFUSED[case])


def test_a_total_from_the_command_line_makes_whole_blocks(load: Load) -> None:
    with pytest.raises(Exception, match="allowed: 12 or 15"):
        load(PAIRED + MORE, trials=13)
