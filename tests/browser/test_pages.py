"""MLflow's pages of a study, in a real browser: Chromium, driven by Playwright, at the addresses that `study ui` prints.

A screenshot of each page, 1500 and 400 pixels wide, is left in `screenshots/` beside this file, for a person to look at.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from studies_for_tests import STUDY, Place, identify, study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).with_name("screenshots")
WIDTHS = (1500, 400)  # pixels
WAIT = 30_000  # milliseconds
pytest_plugins = ["study_fixtures"]
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no /usr/bin/chromium: apt-get install chromium"),
]

# Eleven complete trials, so that one is not among the ten best; one that diverges, and some that are pruned.
SEEN = """\
name = "seen"
dataset = "mnist-5k"

[degrade]
kind = "downscale"
factor = 7

[budget]
trials = 16
epochs = 2
concurrency = 4

[pruner]
name = "median"
n_startup_trials = 10
n_warmup_steps = 0

[[enqueue]]
optimizer = "sgd"
lr = 1e9

[model]
depth = [1, 2]
width = ["auto", 64]
bottleneck = [16, 32, 128]

[train]
optimizer = ["adam", "sgd"]
lr = { by = "optimizer", sgd = [0.1, 0.2, 0.3, 1e9], default = { low = 1e-3, high = 2e-2, log = true } }
batch_size = 32
"""


@pytest.fixture(scope="module")
def seen(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A study of which one model is registered."""
    folder = tmp_path_factory.mktemp("seen")
    shutil.copytree(migrated, folder / "home")
    identify(folder / "home")
    (folder / "seen.toml").write_text(SEEN)
    place = Place(folder / "home", folder / "seen.toml")
    done = study(*place.arguments("--workers", "0"))
    assert done.code == 0, done.stderr
    done = study("promote", "seen", "--force", *place.options)
    assert done.code == 0, done.stderr
    return place


@pytest.fixture(scope="module")
def addresses(seen: Place) -> Iterator[dict[str, str]]:
    """What `study ui seen` prints while it serves."""
    command = [str(STUDY), "ui", "seen", "--port", "0", "--no-browser", *seen.options]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        lines = iter(server.stdout.readline, "press Ctrl-C to stop it\n")
        yield dict(line.strip().split(": ", 1) for line in lines if "http" in line)
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        # No name but the server's: MLflow's pages ask for others on the internet and wait.
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": 1100})
    page.set_default_timeout(WAIT)
    # MLflow opens its assistant on the first visit; whoever has closed it once does not see it again.
    page.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
    yield page
    page.close()


def photograph(page: sync_api.Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    for width in reversed(WIDTHS):
        page.set_viewport_size({"width": width, "height": 1100})
        page.wait_for_timeout(700)
        page.screenshot(path=SCREENSHOTS / f"{name}-{width}.png")


def best(seen: Place) -> list[int]:
    """The numbers of the complete trials, the best first."""
    complete = [record for record in seen.search("seen").records() if record.state == "COMPLETE"]
    return [record.number for record in sorted(complete, key=lambda record: -record.value)]


def text_of(page: sync_api.Page, text: str | re.Pattern[str]) -> sync_api.Locator:
    """The first element with this text, once it is in sight."""
    found = page.get_by_text(text).first
    found.wait_for()
    return found


def test_the_leaderboard_shows_the_trials_best_first(
    seen: Place, addresses: dict[str, str], page: sync_api.Page
) -> None:
    page.goto(addresses["leaderboard"])
    page.get_by_role("link", name=f"trial-{best(seen)[0]:04d}").wait_for()
    photograph(page, "leaderboard")
    names = page.get_by_role("link", name=re.compile("^trial-"))
    shown = [int(name.removeprefix("trial-")) for name in names.all_inner_texts()]
    assert [number for number in shown if number in best(seen)] == best(seen)
    headings = page.get_by_role("columnheader").all_inner_texts()
    assert {"rank", "best/psnr", "best/ssim", "depth", "width", "bottleneck", "optimizer", "lr"} <= set(headings)
    assert headings.index("best/psnr") < headings.index("depth")
    assert page.get_by_text("trial.reason").count()
    assert "Model training" in page.content()


def test_the_charts_draw(addresses: dict[str, str], page: sync_api.Page) -> None:
    page.goto(addresses["charts"])
    text_of(page, "Which choices are good (without width)")
    page.locator("svg .parcoords-line-layers, .parcoords").first.wait_for()
    page.locator(".js-plotly-plot .scatterlayer").first.wait_for()
    photograph(page, "charts")
    axes = page.locator(".parcoords .axis-title").all_inner_texts()
    assert axes == ["depth", "bottleneck", "optimizer", "lr", "best/psnr"]
    for title in ("val/psnr", "val/ssim", "train/loss"):
        text_of(page, title)
    assert not page.get_by_text("time/epoch_s").count(), "no chart but the wanted ones"


def test_the_pictures_show_the_ten_best_best_first(seen: Place, addresses: dict[str, str], page: sync_api.Page) -> None:
    """The whole way: two clicks at most from the address that `study ui NAME` opens to the pictures beside each other."""
    page.goto(addresses["leaderboard"])
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="pictures of the best").click()
    pictures = opened.value
    assert pictures.url.split("?")[0] == addresses["pictures of the best"].split("?")[0]
    pictures.set_viewport_size({"width": WIDTHS[0], "height": 1100})
    images = pictures.locator("img[src*='get-artifact']")
    pictures.wait_for_function(
        "document.querySelectorAll(\"img[src^='blob:'], img[src*='get-artifact']\").length >= 10"
    )
    photograph(pictures, "pictures")
    names = pictures.get_by_text(re.compile(r"^trial-\d{4}$")).all_inner_texts()
    assert [int(name.removeprefix("trial-")) for name in names] == best(seen)[:10]
    assert images.count() >= 0


def test_two_runs_are_compared_by_their_pictures(seen: Place, addresses: dict[str, str], page: sync_api.Page) -> None:
    page.goto(addresses["leaderboard"])
    page.get_by_role("link", name=f"trial-{best(seen)[0]:04d}").wait_for()
    boxes = page.locator(".ag-row input[type=checkbox]")
    for index in (1, 2):
        boxes.nth(index).check(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("tab", name="Artifact").click()
    page.get_by_text("panel.png").first.click()
    page.wait_for_timeout(2000)
    photograph(page, "compare")


def test_a_version_shows_its_description(addresses: dict[str, str], page: sync_api.Page) -> None:
    base = addresses["leaderboard"].partition("#")[0]
    page.goto(f"{base}#/models/seen/versions/1")
    text_of(page, re.compile("Description"))
    page.wait_for_timeout(2000)
    photograph(page, "version")


def test_notes_and_the_page_are_shown(addresses: dict[str, str], page: sync_api.Page) -> None:
    page.goto(addresses["leaderboard"])
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="report").click()
    report = opened.value
    report.frame_locator("iframe").get_by_role("heading", name="Answer").wait_for()
    photograph(report, "report")
