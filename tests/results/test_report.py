"""The page of a study: complete, self-contained, escaped, the same bytes twice; and of every study there can be."""

from __future__ import annotations

import html
import math
import re
import shutil
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from studies_for_tests import TRIALS, Launcher, Place
from summaries import BASELINES, SPACE, drawn_at_random, record, running, summary_of, trained

from pipeline.results.material import Material, gather
from pipeline.results.report import LINK_BASE, SECTIONS, TOP, report
from pipeline.results.summary import StudySummary, summarise
from pipeline.tracking.runs import read_tracking
from pipeline.tracking.views import run_page

pytest_plugins = ["study_fixtures"]

VOID = {"meta", "img", "br", "path", "use", "rect"}


@dataclass
class Page(HTMLParser):
    """A parsed page: its tags, its text, and the tags that were not closed in order."""

    source: str
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (not self._open or self._open.pop() != tag):
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def sections(self) -> list[str]:
        return re.findall(r"<h2>(.*?)</h2>", self.source)

    def links(self) -> set[str]:
        return {link["href"] for link in self.all("a") if not link["href"].startswith("#")}

    def check(self, base: str = LINK_BASE) -> None:
        """Well formed, without network and script, with a text for every picture."""
        assert self.wrong == []
        assert not self.all("script")
        assert not self.all("link")
        for _, attributes in self.tags:
            for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
                target = attributes.get(key, "#")
                assert target.startswith(("#", "data:image/png;base64,", f"{base}/#/")), target
            assert not [key for key in attributes if key.startswith("on")]
        assert "url(http" not in self.source
        assert "@import" not in self.source
        for picture in self.all("img"):
            assert picture["alt"]
        for figure in self.all("svg"):
            assert figure["role"] == "img"
            assert figure["aria-label"]


def study_page(place: Place, base: str = LINK_BASE) -> tuple[StudySummary, Material, str]:
    search = place.search()
    summary = summarise(search)
    material = gather(place.home, search, summary, read_tracking(place.home, "small", search.uid))
    return summary, material, report(summary, material, base)


@pytest.fixture(scope="module")
def made(finished: Place) -> tuple[StudySummary, Material, str]:
    """The page of the finished study, read only."""
    return study_page(finished)


def test_a_finished_search_has_every_section_but_those_of_a_design_and_every_trial_is_linked(
    made: tuple[StudySummary, Material, str],
) -> None:
    summary, material, text = made
    page = Page(text)
    page.check()
    assert page.sections() == [title for title in SECTIONS if title not in ("Replicates", "Effects")]
    runs = {f"{LINK_BASE}/{run_page(str(material.experiment), t.summary.run_id)}" for t in summary.ended}
    assert len(runs) == len(summary.records)
    assert page.links() == runs


def test_its_numbers_are_those_of_the_summary(made: tuple[StudySummary, Material, str]) -> None:
    summary, material, text = made
    page, best = Page(text), summary.best
    assert best is not None
    for sentence in summary.answer():
        assert sentence in page.text
    for name, metrics in summary.baselines.items():
        assert f"{name} {summary.form.shown(metrics[summary.objective])}" in page.text
    for trial in summary.ranked:
        assert f"trial {trial.number} {summary.form.shown(summary.value(trial))}" in page.text
    for digest in (summary.facts["data.sha256"], best.summary.weights_sha256):
        assert digest in page.text
    assert material.environment["torch"] in page.text
    saved = sum(3 - trial.summary.epochs for trial in summary.ended if trial.state == "PRUNED")
    assert f"{saved} epochs, in {summary.counts['pruned']} pruned trial" in page.text
    assert "# A study for tests." in page.text


def test_restorations_are_scored_image_by_image(made: tuple[StudySummary, Material, str]) -> None:
    _, material, _ = made
    values = [image.value for kind in ("best", "median", "worst") for image in material.restored[kind]]
    assert values == sorted(values, reverse=True)
    assert [len(images) for images in material.restored.values()] == [5, 5, 5]
    for images in material.restored.values():
        for image in images:
            assert image.clean.shape == image.restored.shape == (28, 28)
            assert image.degraded.shape == (4, 4)
            error = ((image.clean / 255.0 - image.restored / 255.0) ** 2).mean()
            psnr = -10 * math.log10(error)
            assert psnr == pytest.approx(image.value, abs=0.1)  # of pixels that were rounded to 8 bits


def test_the_command_writes_the_same_page_twice(
    finished: Place, made: tuple[StudySummary, Material, str], launcher: Launcher, tmp_path: Path
) -> None:
    command = launcher.run("report", "small", *finished.options, cwd=tmp_path)
    assert command.code() == 0, command.stderr
    assert command.stdout.split() == ["the", "page", "of", "small:", "small-report.html"]
    assert (tmp_path / "small-report.html").read_text() == made[2]


@pytest.mark.slow
def test_a_run_publishes_the_page_of_the_command(finished_copy: Place) -> None:
    finished_copy.run(trials=TRIALS + 1, report=True)
    (published,) = finished_copy.study_artifacts.rglob("report.html")
    summary, material, text = study_page(finished_copy)
    assert len(summary.records) == TRIALS + 1
    assert material.restored
    assert published.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nosuch",), "there is no study 'nosuch'"),
        (("small", "-o", "page.pdf"), "unknown format '.pdf'; allowed: .html, .htm"),
        (("small", "-o", "nosuch/page.html"), "cannot be written there"),
        (("small", "--links", "javascript:alert(1)"), "--links javascript:alert(1): must be the address"),
    ],
)
def test_what_cannot_be_written_is_refused(
    finished: Place, launcher: Launcher, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    command = launcher.run("report", *arguments, *finished.options, cwd=tmp_path)
    assert command.code() == 2
    assert words in command.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_without_models_and_pictures_says_what_is_missing(finished_copy: Place) -> None:
    for folder in [*finished_copy.artifacts.rglob("models"), *finished_copy.artifacts.rglob("images")]:
        shutil.rmtree(folder)
    for weights in finished_copy.artifacts.rglob("weights.safetensors"):
        weights.unlink()
    summary, material, text = study_page(finished_copy, "https://mlflow.example/base/")
    page = Page(text)
    page.check("https://mlflow.example/base")
    assert not material.restored
    assert not material.strips
    assert "Not shown: run trial-" in page.text
    assert "Pictures" not in page.sections()
    assert len(page.links()) == len(summary.records)


def test_whatever_a_study_is_called_is_text(made: tuple[StudySummary, Material, str]) -> None:
    odd = "<script>alert('1')</script>&\"$x_1$"
    summary = summary_of(
        [
            trained(0, 15.0, loss=odd),
            trained(1, 12.0, "PRUNED", odd),
            trained(2, None, "FAIL", odd),
            replace(running(3), params={"loss": odd}),
        ],
        {odd: BASELINES["linear"]},
        dataset=f"folder:/pictures/{odd}",
    )
    material = replace(
        made[1],
        file=f"# Question: is {odd} text?\n# and so on\n# Result: {odd}\nname = 1",
        overrides=[f"train.loss={odd}"],
        environment={odd: odd},
        importances={odd: 1.0},
        strips={},
        missing=odd,
    )
    text = report(summary, material, f"{LINK_BASE}/{odd}")
    page = Page(text)
    page.check(f"{LINK_BASE}/{odd}")
    assert f"is {odd} text? and so on" in page.text
    assert page.text.count(odd) > 10
    assert html.escape(odd) in text


def test_its_first_command_has_what_was_set(made: tuple[StudySummary, Material, str]) -> None:
    summary, material, _ = made
    page = Page(report(summary, replace(material, overrides=["train.loss=bce + 0.2 ssim", "enqueue=[]"]), LINK_BASE))
    command = "study run study.toml --name small --trials 6 --set 'train.loss=bce + 0.2 ssim' --set 'enqueue=[]'"
    assert command in page.text


LOWER = [
    replace(record(n, 1.0), value=n + 0.5, summary=replace(record(n, 1.0).summary, metrics={"val/mse": n + 0.5}))
    for n in range(3)
]
NAN = replace(record(0, 15.0).summary, metrics={"val/psnr": 15.0, "val/sharpness": float("nan")})
SPLIT = {
    "model": {"batch_norm": [True, False], "width": {"choices": [64, 512], "when": {"batch_norm": [True]}}},
    "train": {
        "optimizer": ["adam", "sgd"],
        "lr": {"by": "optimizer", "sgd": [0.3, 1e9], "default": {"low": 1e-3, "high": 1e-2}},
    },
}
STUDIES = {
    "no trial": summary_of([]),
    "one trial": summary_of([trained(0, 15.0)]),
    "one unfinished trial": summary_of([running(0)]),
    "none complete": summary_of(
        [trained(0, None, "FAIL", "loss is NaN"), trained(1, 9.0, "PRUNED", "median pruner")], BASELINES
    ),
    "without the linear baseline": summary_of([trained(0, 15.0), trained(1, 15.0)], {"bicubic": BASELINES["linear"]}),
    "2,000 trials": summary_of(drawn_at_random(2_000), BASELINES),
    "nothing searched": summary_of([replace(trained(0, 15.0), params={})], model={"width": 64}),
    "lower is better": summary_of(LOWER, {"linear": {"val/mse": 0.05}}, metric="mse"),
    "sharpness is not a number": summary_of([replace(trained(0, 15.0), summary=NAN)]),
    "split and conditional keys": summary_of(
        [
            replace(record(0, 15.0, batch_norm=True, width=64, optimizer="sgd", lr=1e9), values={"optimizer": "sgd"}),
            replace(record(1, 16.0, batch_norm=False, optimizer="adam", lr=0.003), values={"optimizer": "adam"}),
        ],
        **SPLIT,
    ),
    "random and unpruned": summary_of(
        drawn_at_random(8), BASELINES, sampler={"name": "random"}, pruner={"name": "none"}, **SPACE
    ),
    "one epoch": summary_of([replace(trained(n, 12.0 + n), reported={1: 12.0 + n}) for n in range(3)]),
}


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_page(study: str) -> None:
    summary = STUDIES[study]
    text = report(summary, Material(experiment="7"), LINK_BASE)
    page = Page(text)
    page.check()
    assert page.links() == {f"{LINK_BASE}/{run_page('7', trial.summary.run_id)}" for trial in summary.ended}
    assert summary.answer()[0] in page.text
    assert len(text) < 3_000_000
    exploratory = summary.config.sampler.name != "random"
    assert ("Exploratory: the search" in page.text) == (exploratory and "Searched keys" in page.sections())
    rows = text.count("<tr>") + text.count('<tr class="baseline">') - 1
    assert rows == min(len(summary.records), TOP if study == "2,000 trials" else 100) + len(summary.baselines)
