"""The figures of a study: which there are, what they say in words, that they are SVG and PNG without a date."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from summaries import BASELINES, SPACE, drawn_at_random, running, summary_of, trained

from pipeline.results.drawing import COLOURS, svg
from pipeline.results.figures import best_so_far, curves, figures, front, key_panel, plots
from pipeline.results.material import Material, Restored
from pipeline.results.summary import StudySummary

IMAGE = np.arange(120, dtype=np.uint8).reshape(10, 12)
MATERIAL = Material(
    importances={"lr": 0.6, "width": 0.4},
    restored={kind: [Restored(17.25, IMAGE, IMAGE[:5, :6], IMAGE)] * 2 for kind in ("best", "median", "worst")},
)
MIXED = summary_of([*drawn_at_random(12), trained(12, None, "FAIL", "diverged"), running(13, lr=0.1)], BASELINES)


def must(figure: Figure | None) -> Figure:
    assert figure is not None
    return figure


def text_of(element: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in element.iter() if node.tag == "text"]


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn.replace("xlink:href", "href"))


def test_every_searched_key_has_a_panel_and_the_rest_follows() -> None:
    names = ["best-so-far", "best-over-time", "curves", "front", "importances", "restorations"]
    keys = ["width", "batch_norm", "loss", "lr", "batch_size"]
    found = figures(MIXED, MATERIAL)
    assert set(found) == {*names, *(f"key-{key}" for key in keys)}
    assert list(found)[:6] == names


def test_figures_are_svg_that_follows_the_page() -> None:
    for drawn in map(svg, figures(MIXED, MATERIAL).values()):
        root = parsed(drawn)
        assert root.get("role") == "img"
        assert len(root.get("aria-label") or "") > 20
        assert text_of(root)
        assert "currentColor" in drawn
        assert not re.search(r"#24292f|#000000|DejaVu|<metadata|<style", drawn)
        assert not re.findall(r'(?:href|src)="(?!#|data:image/png)', drawn)
        assert len(re.findall(r' id="', drawn)) == len(set(re.findall(r' id="([^"]*)"', drawn)))


def test_equal_studies_give_equal_bytes_and_png_files() -> None:
    small = summary_of(
        [trained(0, 15.0), trained(1, 9.0, "PRUNED", "median")], BASELINES, train={"loss": ["bce", "l1"]}
    )
    first = plots(small, MATERIAL)
    assert first == plots(small, MATERIAL)
    assert all(name.endswith(".png") and data.startswith(b"\x89PNG") for name, data in first.items())


def test_figures_are_the_same_whatever_style_the_process_uses() -> None:
    """Optuna's own plots, for one, switch matplotlib to another style for good."""
    before = svg(must(curves(MIXED)))
    with mpl.style.context("ggplot"):
        assert svg(must(curves(MIXED))) == before


def test_the_ten_colours_differ_and_colour_the_best_ten() -> None:
    assert len(set(COLOURS)) == 10
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in COLOURS)
    figure = curves(summary_of(drawn_at_random(40)))
    assert figure is not None
    drawn = svg(figure)
    assert all(colour in drawn for colour in COLOURS)


def test_the_front_has_the_trials_that_no_other_one_beats_in_both() -> None:
    cheap_and_bad, dear_and_good, dominated = trained(0, 12.0), trained(5, 18.0), trained(7, 17.0)
    figure = front(summary_of([cheap_and_bad, dear_and_good, dominated]), None, ["parameters"])
    assert figure is not None
    assert figure.get_label() == "psnr against parameters. Not beaten in both, by parameters: trials 0, 5."


def test_words_say_what_a_figure_shows() -> None:
    panel = key_panel(MIXED, "loss")
    best = best_so_far(MIXED)
    assert panel is not None
    assert best is not None
    medians = ", ".join(f"{c.value} {c.median:.2f} dB (n = {c.trials})" for c in MIXED.choices("loss"))
    assert panel.get_label() == f"psnr against loss: medians {medians}."
    assert panel.axes[0].get_title("left") == "loss (exploratory)"
    assert MIXED.answer()[0] in best.get_label()


def test_a_range_has_room_for_pruned_trials() -> None:
    panel = key_panel(summary_of([trained(0, 15.0, lr=0.01), trained(1, 9.0, "PRUNED", lr=1e-5)]), "lr")
    assert panel is not None
    low, high = panel.axes[0].get_xlim()
    assert low < 1e-5 < 0.01 < high


def test_a_split_range_may_have_a_zero_beside_a_logarithmic_part() -> None:
    """Then the axis is linear below the least positive value."""
    decay = {"by": "optimizer", "adamw": {"low": 1e-5, "high": 0.1, "log": True}, "default": [0.0, 1e-4]}
    trials = [
        trained(0, 15.0, optimizer="adamw", weight_decay=1e-3),
        trained(1, 16.0, optimizer="sgd", weight_decay=0.0),
        trained(2, 14.0, optimizer="adamw", weight_decay=2e-5),
    ]
    study = summary_of(trials, model={}, train={"optimizer": ["adamw", "sgd"], "weight_decay": decay})
    panel = key_panel(study, "weight_decay")
    assert panel is not None
    low, high = panel.axes[0].get_xlim()
    assert low <= 0 < 1e-3 < high
    assert parsed(svg(panel)).get("role") == "img"


def test_a_design_without_guidance_and_pruning_is_not_called_exploratory() -> None:
    random_search = summary_of(drawn_at_random(4), sampler={"name": "random"}, pruner={"name": "none"}, **SPACE)
    panel = key_panel(random_search, "loss")
    assert panel is not None
    assert panel.axes[0].get_title("left") == "loss"


def test_a_dollar_and_a_tag_in_a_value_are_text() -> None:
    odd: StudySummary = summary_of([trained(0, 15.0, loss="$x$ <b>"), trained(1, 16.0)])
    panel = key_panel(odd, "loss")
    assert panel is not None
    assert any("$x$ <b>" in text for text in text_of(parsed(svg(panel))))
