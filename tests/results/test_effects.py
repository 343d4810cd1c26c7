"""Effects: known answers, simulated studies with a known truth, and what is said, refused and drawn."""

from __future__ import annotations

import json
from dataclasses import astuple
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.weightstats import ttost_paired
from summaries import BASELINES, SPACE, drawn_at_random, record, running, summary_of

from pipeline.errors import InputError, StudyError
from pipeline.results import effects_statistics as statistics
from pipeline.results.drawing import svg
from pipeline.results.effects import Effects, Exploratory, Paired, Unguided, effects
from pipeline.results.effects_shown import document, tables_of, texts_of
from pipeline.results.figures import effect_figures
from pipeline.results.material import Material
from pipeline.results.report import LINK_BASE, report
from pipeline.results.summary import StudySummary
from pipeline.search.records import StoredTrial

SLEEP = np.array([1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4])  # Student 1908
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48])  # Darwin 1876, in Fisher 1935
SIMULATIONS = 1_000


# --- known answers ----------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_sleep_data() -> None:
    """R's `t.test(extra ~ group, data = sleep, paired = TRUE)` prints 0.7001142 to 2.4598858."""
    assert [float(end) for end in statistics.paired_interval(SLEEP)] == pytest.approx([0.7001142, 2.4598858], abs=1e-6)


def test_sign_flips_give_fisher_s_p_of_darwin_s_maize() -> None:
    """Fisher, "The Design of Experiments", section 21: 1,726 of the 32,768 arrangements."""
    assert statistics.sign_flip_p(MAIZE, flips=2**15) == pytest.approx(1726 / 32768)
    assert statistics.sign_flip_p(MAIZE) == pytest.approx(1726 / 32768, abs=0.01)


@pytest.mark.parametrize(("levels", "blocks"), [(2, 6), (3, 7), (6, 10)])
def test_fewer_blocks_cannot_show_anything(levels: int, blocks: int) -> None:
    pairs = levels * (levels - 1) // 2
    assert statistics.blocks_needed(pairs) == blocks
    for count, significant in ((blocks, True), (blocks - 1, False)):
        p = statistics.sign_flip_p(np.arange(1.0, count + 1))
        assert p == 2 / 2**count
        assert (p * pairs <= 0.05) == significant


def test_holm_by_hand() -> None:
    assert statistics.holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_equivalence_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    pairs = rng.normal(0.05, 0.3, (20, 2, 16))
    expected = [ttost_paired(first, second, -0.1, 0.1)[0] for first, second in pairs]
    assert statistics.equivalence_p(pairs[:, 0] - pairs[:, 1], 0.1) == pytest.approx(expected)


def test_the_expected_best_is_the_mean_over_all_subsets() -> None:
    values = np.sort(np.random.default_rng(0).normal(size=9))
    for draws in (1, 2, 4, 9):
        best = np.mean([max(some) for some in combinations(values, draws)])
        assert statistics.expected_best(values, draws) == pytest.approx(best)


def test_a_share_and_its_interval() -> None:
    """F = 8 with 2 and 27 degrees of freedom: 2 x 7 / (2 x 7 + 30); the ends make F a quantile of noncentral F."""
    share = statistics.omega_squared(8.0, 2, 27, 30)
    assert share.estimate == pytest.approx(14 / 44)
    for end, tail in ((share.low, 0.975), (share.high, 0.025)):
        assert stats.ncf.cdf(8.0, 2, 27, 30 * end / (1 - end)) == pytest.approx(tail)
    none = statistics.omega_squared(0.5, 2, 27, 30)
    assert (none.estimate, none.low) == (0, 0)
    assert none.high > 0


def test_shares_are_those_of_a_type_ii_analysis_of_variance() -> None:
    rng = np.random.default_rng(0)
    a, b, x = rng.choice(list("pqr"), 60), rng.choice(list("uv"), 60), rng.uniform(0, 1, 60)
    y = (a == "p") + 0.5 * (b == "u") + x**2 + rng.normal(0, 0.5, 60)
    everywhere = np.ones(60, bool)
    columns = {name: statistics.within(list(v), everywhere) for name, v in (("a", a), ("b", b), ("x", x))}
    shares = statistics.explained(y, columns)
    data = pd.DataFrame({"y": y, "a": a, "b": b, "x": x})
    table = anova_lm(ols("y ~ C(a) + C(b) + x + I(x**2)", data).fit(), typ=2)
    for key, between in (("a", 2), ("b", 1)):
        f = float(table.loc[f"C({key})", "F"])
        assert astuple(shares[key]) == pytest.approx(astuple(statistics.omega_squared(f, between, 60 - 6, 60)))
    one = statistics.explained(y, {"a": columns["a"]})["a"]
    f = stats.f_oneway(*(y[a == level] for level in "pqr")).statistic
    assert astuple(one) == pytest.approx(astuple(statistics.omega_squared(f, 2, 57, 60)))


# --- simulated studies ------------------------------------------------------------------------------------------------


def simulated(levels: list[float], blocks: int, collapsing: float = 0.0, spread: float = 0.3) -> np.ndarray:
    """Values ``[studies, levels, blocks]``: blocks differ, trials of a block by the effect and their own noise."""
    rng = np.random.default_rng([blocks, round(100 * sum(levels)), round(100 * collapsing)])
    shape = (SIMULATIONS, len(levels), blocks)
    values = 18 + rng.normal(0, 1, (SIMULATIONS, 1, blocks)) + np.array(levels)[:, None]
    values = values + rng.normal(0, spread / np.sqrt(2), shape)
    return np.where(rng.random(shape) < collapsing / 2, 9.4, values)  # either of a pair


@pytest.mark.parametrize("blocks", [16, 32])
@pytest.mark.parametrize("effect", [0.0, 0.1, 1.0])
def test_the_paired_interval_covers_the_truth(effect: float, blocks: int) -> None:
    values = simulated([effect, 0.0], blocks)
    low, high = statistics.paired_interval(values[:, 0] - values[:, 1])
    assert 0.93 <= np.mean((low <= effect) & (effect <= high)) <= 0.97


@pytest.mark.parametrize(("blocks", "least", "most"), [(16, 0.75, 0.85), (32, 0.84, 0.91)])
@pytest.mark.parametrize("effect", [0.0, 0.1, 1.0])
def test_what_the_interval_covers_where_one_level_collapses_in_one_block_of_ten(
    effect: float, blocks: int, least: float, most: float
) -> None:
    """Too little, where a few extreme values decide: a study may have none of them. Sign flips stay right."""
    values = simulated([effect, 0.0], blocks)
    collapsed = np.random.default_rng(blocks).random((SIMULATIONS, blocks)) < 0.1
    low, high = statistics.paired_interval(values[:, 0] - values[:, 1] - 8.6 * collapsed)
    covered = np.mean((low <= effect - 0.86) & (effect - 0.86 <= high))
    assert least <= covered <= most


@pytest.mark.parametrize("collapsing", [0.0, 0.1])
def test_where_nothing_differs_an_alarm_is_as_rare_as_promised(collapsing: float) -> None:
    values = simulated([0.0] * 3, 16, collapsing)
    pairs = list(combinations(range(3), 2))
    differences = np.stack([values[:, a] - values[:, b] for a, b in pairs], axis=1)
    p = np.concatenate([statistics.sign_flip_p(some, flips=299) for some in np.split(differences, 10)])
    alarms = np.mean([(statistics.holm(each) <= 0.05).any() for each in p])
    assert alarms <= 0.066
    assert np.mean(p[:, 0] <= 0.05) == pytest.approx(0.05, abs=0.02), "not merely silent"


def test_a_difference_as_large_as_the_margin_is_rarely_called_equivalent() -> None:
    values = simulated([0.1, 0.0], 16, spread=0.1)
    assert np.mean(statistics.equivalence_p(values[:, 0] - values[:, 1], 0.1) <= 0.05) <= 0.066
    values = simulated([0.0, 0.0], 16, spread=0.1)
    assert np.mean(statistics.equivalence_p(values[:, 0] - values[:, 1], 0.1) <= 0.05) > 0.9


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_the_interval_of_a_share_covers_the_truth(share: float) -> None:
    rng = np.random.default_rng(0)
    levels = np.array([-1, 0, 0, 0, 0, 1.0])
    levels *= np.sqrt(share / (1 - share) / levels.var())
    values = levels[:, None] + rng.normal(0, 1, (400, 6, 16))
    f = stats.f_oneway(*np.moveaxis(values, 1, 0), axis=-1).statistic
    found = [statistics.omega_squared(float(each), 5, 90, 96) for each in f]
    assert 0.925 <= np.mean([one.low <= share <= one.high for one in found]) <= 0.98
    assert np.mean([one.estimate for one in found]) == pytest.approx(share, abs=0.02), "not biased upwards"


# --- a study's effects ------------------------------------------------------------------------------------------------

PAIRED: dict[str, Any] = {"sampler": {"name": "paired", "over": ["loss"], "blocks": 20}, **SPACE}


def paired_study(values: np.ndarray, failed: tuple[int, ...] = (), enqueue: int = 0, **changes: Any) -> StudySummary:
    """A study whose values are ``[blocks, levels]``; trials of these numbers failed."""
    sections = PAIRED | {"enqueue": ({"batch_size": 32},) * enqueue} | changes
    blank = summary_of([], BASELINES, **sections)
    assert blank.config.design is not None
    extra = [1.0] * enqueue * len(blank.config.design.levels)
    records: list[StoredTrial] = []
    for number, value in enumerate([*extra, *values.ravel()]):
        params = {k.partition("@")[0]: v for k, v in blank.config.design.parameters(number).items()}
        state = ("FAIL", "loss is NaN") if number in failed else ()
        records.append(record(number, None if state else float(value), *state, **params))
    return summary_of(records, BASELINES, **sections)


def values_of(bce: float, mse: float, l1: float, blocks: int = 20, spread: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(blocks)
    draws = rng.normal(18, 1, (blocks, 1))
    return draws + np.array([bce, mse, l1]) + rng.normal(0, spread, (blocks, 3))


def only(found: Effects) -> Paired:
    assert isinstance(found, Paired)
    return found


def test_numbers_that_differ_in_later_digits_only_are_levels_of_their_own() -> None:
    space = {"model": {}, "train": {"lr": [0.001, 0.0010002, 0.01]}}
    sampler = {"name": "paired", "over": ["lr"], "blocks": 20}
    found = only(effects(paired_study(values_of(0.5, 0.0, -0.8), sampler=sampler, **space), {}))
    assert [level.name for level in found.effects[0].levels] == ["0.001", "0.0010002", "0.01"]


def test_levels_and_pairs_have_the_figures_of_the_statistics() -> None:
    values = values_of(0.02, 0.0, -0.8)
    found = only(effects(paired_study(values), {}))
    [effect] = found.effects
    assert (found.metric, found.blocks, found.margin, effect.key) == ("psnr", 20, 0.1, "loss")
    assert [level.name for level in effect.levels] == ["bce", "mse", "l1"]
    for level, column in zip(effect.levels, values.T, strict=True):
        assert level.mean == level.mean_without == pytest.approx(column.mean())
        assert level.sd == pytest.approx(column.std(ddof=1))
        assert level.best_of[1] == pytest.approx(level.mean)
        assert level.best_of[8] == pytest.approx(statistics.expected_best(np.sort(column), 8))
    assert [(pair.first, pair.second) for pair in effect.pairs] == [("bce", "mse"), ("bce", "l1"), ("mse", "l1")]
    differences = np.array([values[:, 0] - values[:, 1], values[:, 0] - values[:, 2], values[:, 1] - values[:, 2]])
    low, high = statistics.paired_interval(differences)
    for i, pair in enumerate(effect.pairs):
        assert (pair.mean, pair.low, pair.high) == pytest.approx((differences[i].mean(), low[i], high[i]))
        assert pair.better == np.mean(differences[i] > 0)
    assert [pair.differs for pair in effect.pairs] == [False, True, True]
    assert [pair.equivalent for pair in effect.pairs] == [True, False, False]
    assert texts_of(found)[-1] == (
        f"loss: bce has the best mean, {values[:, 0].mean():.2f} dB: within 0.10 dB of mse; better than l1."
    )


def test_a_failed_trial_counts_as_its_untreated_input() -> None:
    values = values_of(0.02, 0.0, -0.8)
    found = only(effects(paired_study(values, failed=(0, 9)), {}))
    [bce] = [level for level in found.effects[0].levels if level.name == "bce"]
    valued = values[:, 0].copy()
    valued[[0, 3]] = BASELINES["degraded"]["val/psnr"]
    assert bce.failed == 2
    assert bce.mean == pytest.approx(valued.mean())
    assert bce.mean_without == pytest.approx(np.delete(values[:, 0], [0, 3]).mean())
    assert found.effects[0].levels[0].name == "mse", "the level that diverges is not favoured"
    assert any("failed trial" in text for text in texts_of(found))
    assert any(column.heading == "without failed" for column in tables_of(found)[0].brief)
    untreated = paired_study(values, failed=(0,))
    with pytest.raises(StudyError, match="untreated"):
        effects(StudySummary(untreated.config, untreated.records, {}, {}), {})


def test_enqueued_and_incomplete_blocks_are_left_out() -> None:
    values = values_of(0.02, 0.0, -0.8)
    study = paired_study(values, enqueue=2)
    assert only(effects(study, {})).blocks == 20
    assert only(effects(study, {})).effects[0].levels[0].mean == pytest.approx(values[:, 0].mean())
    unfinished = StudySummary(study.config, [*study.records[:-1], running(len(study.records) - 1)], BASELINES, {})
    assert only(effects(unfinished, {})).blocks == 19


def test_too_few_blocks_are_refused_and_few_are_named() -> None:
    with pytest.raises(StudyError, match=r"6 complete blocks of 3 trials.* 7 are needed.*--trials 48"):
        effects(paired_study(values_of(0.0, 0.0, 0.0, 6)), {})
    few, enough = (only(effects(paired_study(values_of(0.0, 0.0, 0.0, blocks)), {})) for blocks in (7, 16))
    assert "This rests on few blocks; 16 are better." in texts_of(few)
    assert "This rests on few blocks; 16 are better." not in texts_of(enough)


def test_two_keys_are_compared_alone_and_together() -> None:
    values = np.concatenate([values_of(0.0, 0.0, -0.8), values_of(0.5, 0.5, -0.3)], axis=1)[:, [0, 3, 1, 4, 2, 5]]
    study = paired_study(values, sampler={"name": "paired", "over": ["loss", "batch_size"], "blocks": 20})
    found = only(effects(study, {}))
    assert [(effect.key, len(effect.levels)) for effect in found.effects] == [
        ("loss", 3),
        ("batch_size", 2),
        ("loss and batch_size", 6),
    ]
    assert found.effects[1].pairs[0].mean == pytest.approx(values[:, 1::2].mean() - values[:, ::2].mean())
    assert [effect.key for effect in only(effects(study, {}, by=["batch_size"])).effects] == ["batch_size"]
    assert [e.key for e in only(effects(study, {}, by=["batch_size", "loss"])).effects] == [
        *("loss", "batch_size", "loss and batch_size")
    ]


def test_other_metrics_are_compared_in_their_own_direction() -> None:
    values = values_of(0.0, 0.3, -0.8)
    study = paired_study(values)
    ssim = only(effects(study, {}, metric="ssim"))
    assert ssim.margin is None
    assert ssim.effects[0].pairs[0].p_equivalent is None
    assert ssim.effects[0].levels[0].name == "mse"
    sharpness = only(effects(study, {}, metric="sharpness", margin=0.05))  # psnr / 20, best at 1
    assert sharpness.margin == 0.05
    means = (values / 20).mean(axis=0)
    assert [level.mean for level in sharpness.effects[0].levels] == pytest.approx(
        sorted(means, key=lambda mean: abs(mean - 1))
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": ["batch_size"]}, ["--by 'batch_size'", "compared", "loss"]),
        ({"by": ["nonsense"]}, ["--by 'nonsense'", "loss"]),
        ({"metric": "pnsr"}, ["--metric 'pnsr'", "did you mean 'psnr'"]),
        ({"metric": "class_kept"}, ["have no class_kept"]),
        ({"margin": 0.0}, ["--margin 0.0", "above 0"]),
        ({"margin": float("nan")}, ["--margin nan", "above 0"]),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as refusal:
        effects(paired_study(values_of(0.0, 0.0, 0.0)), {}, **options)
    assert all(word in str(refusal.value) for word in words), refusal.value


# --- other designs ----------------------------------------------------------------------------------------------------

RANDOM: dict[str, Any] = {"sampler": {"name": "random"}, "pruner": {"name": "none"}}
NESTED = {
    "model": {"activation": ["relu", "elu"], "alpha": [0.5, 1.0, 2.0]},
    "train": {
        "optimizer": ["adam", "sgd"],
        "lr": {
            "by": "optimizer",
            "sgd": {"low": 0.1, "high": 10.0, "log": True},
            "default": {"low": 1e-4, "high": 1e-2, "log": True},
        },
    },
}


def random_study(count: int, **sections: Any) -> StudySummary:
    """Trials whose value depends on the optimizer, its rate and, where there is one, alpha."""
    rng = np.random.default_rng(0)
    blank = summary_of([], **RANDOM, **(sections or NESTED))
    records: list[StoredTrial] = []
    for number in range(count):
        asked: dict[str, Any] = {}

        def suggest(name: str, form: Any, asked: dict[str, Any] = asked) -> Any:
            asked[name.partition("@")[0]] = form.at(rng.random())
            return asked[name.partition("@")[0]]

        values = blank.config.space.resolve(suggest)
        centre = 1.0 if values["optimizer"] == "sgd" else 1e-3
        value = 18 - (values["optimizer"] == "sgd") - np.log10(values["lr"] / centre) ** 2
        value += 0.4 * ((asked.get("alpha") == 2.0) - ("alpha" in asked) / 3) + rng.normal(0, 0.2)
        made = record(number, float(value), **asked)
        records.append(type(made)(**{**made.__dict__, "values": values}))
    return summary_of(records, BASELINES, **RANDOM, **(sections or NESTED))


def test_a_random_search_gives_the_share_of_each_key() -> None:
    found = effects(random_study(300), {})
    assert isinstance(found, Unguided)
    shares = {key.key: key.share for key in found.keys}
    assert shares.keys() == {"activation", "alpha", "optimizer", "lr"}
    assert shares["optimizer"].low > 0.7
    assert shares["lr"].low > 0.3, "best in the middle of its range, which a line would not see"
    assert shares["alpha"].low > 0.05
    assert shares["activation"].low < 0.02
    [optimizer] = [key for key in found.keys if key.key == "optimizer"]
    assert [choice[0] for choice in optimizer.choices] == ["adam", "sgd"]
    assert sum(choice[1] for choice in optimizer.choices) == 300
    [lr] = [key for key in found.keys if key.key == "lr"]
    assert lr.choices == []
    assert [key.key for key in effects(random_study(300), {}, by=["lr"]).keys] == ["lr"]  # type: ignore[union-attr]


def test_where_nothing_matters_the_share_is_near_zero() -> None:
    rng = np.random.default_rng(1)
    study = random_study(200)
    records: list[StoredTrial] = [record(r.number, float(rng.normal(18, 1)), **r.params) for r in study.records]
    records = [type(r)(**{**r.__dict__, "values": s.values}) for r, s in zip(records, study.records, strict=True)]
    found = effects(StudySummary(study.config, records, BASELINES, {}), {})
    assert isinstance(found, Unguided)
    assert all(key.share.low == 0 and key.share.estimate < 0.05 for key in found.keys)


def test_too_few_random_trials_are_refused() -> None:
    with pytest.raises(StudyError, match="10 complete trials drawn at random, too few"):
        effects(random_study(10), {})


@pytest.mark.parametrize("sections", [{}, {"sampler": {"name": "random"}}, {"pruner": {"name": "none"}}])
def test_a_guided_or_pruned_search_makes_no_claim(sections: dict[str, Any]) -> None:
    study = summary_of(drawn_at_random(60), BASELINES, **SPACE, **sections)
    found = effects(study, {"lr": 0.7, "loss": 0.3})
    assert isinstance(found, Exploratory)
    assert found.trials == study.counts["complete"]
    assert "no claim" in texts_of(found)[0]
    assert document("small", found)["importances"] == {"lr": 0.7, "loss": 0.3}
    assert effects(study, {"lr": 0.7, "loss": 0.3}, by=["loss"]).importances == {"loss": 0.3}  # type: ignore[union-attr]


# --- tables, JSON, figures and the page -------------------------------------------------------------------------------

STUDIES = {
    "paired": paired_study(values_of(0.02, 0.0, -0.8), failed=(4,)),
    "random": random_study(100),
    "guided": summary_of(drawn_at_random(60), BASELINES),
    "few": paired_study(values_of(0.0, 0.0, 0.0, 5)),
}


@pytest.mark.parametrize("name", ["paired", "random", "guided"])
def test_what_was_found_is_plain_json(name: str) -> None:
    found = effects(STUDIES[name], {"lr": 1.0})
    written = json.loads(json.dumps(document("small", found), allow_nan=False))
    assert written["name"] == "small"
    if isinstance(found, Paired):
        [effect] = written["effects"]
        assert effect["pairs"][0]["low"] == pytest.approx(found.effects[0].pairs[0].low)
        assert effect["levels"][0]["values"] == pytest.approx(found.effects[0].levels[0].values.tolist())


def test_each_effect_has_a_figure_with_its_figures_as_text() -> None:
    found = effects(STUDIES["paired"], {})
    [(name, figure)] = effect_figures(found).items()
    pair = only(found).effects[0].pairs[0]
    assert name == "effect-loss"
    assert f"{pair.first} - {pair.second} {pair.mean:.3f} [{pair.low:.3f}, {pair.high:.3f}]" in figure.get_label()
    assert svg(figure) == svg(effect_figures(found)[name])
    assert list(effect_figures(effects(STUDIES["random"], {}))) == ["effects"]
    assert effect_figures(effects(STUDIES["guided"], {})) == {}


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_has_the_effects_where_the_design_allows_a_claim(name: str) -> None:
    page = report(STUDIES[name], Material(), LINK_BASE)
    assert ('id="effects"' in page) == (name != "guided")
    if name == "paired":
        assert texts_of(effects(STUDIES[name], {}))[-1] in page
    if name == "few":
        assert "5 complete blocks of 3 trials" in page
