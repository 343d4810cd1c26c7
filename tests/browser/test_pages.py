"""MLflow's pages of a study, in Chromium, driven by Playwright, at the addresses that `study ui` prints.

A screenshot of each, 1500 and 400 pixels wide, is left in `screenshots/` beside this file, for a person to look at.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from studies_for_tests import STUDY, Place, identify, study

from pipeline.search.records import EndedTrial, ranked

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[browser]'")

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
SCREENSHOTS = Path(__file__).with_name("screenshots")
WIDTHS = (1500, 400)  # pixels
WAIT = 60_000  # milliseconds
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
trials = 14
epochs = 2
concurrency = 4

[pruner]
name = "median"
n_startup_trials = 9
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
    done = study(*place.arguments("--workers", "0", "--report"))
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
        page.wait_for_timeout(500)
        page.screenshot(path=SCREENSHOTS / f"{name}-{width}.png")


def numbers(names: Iterable[str]) -> list[int]:
    """The numbers of the trials among names of runs."""
    return [int(name.removeprefix("trial-")) for name in names if name.startswith("trial-")]


def best(seen: Place) -> list[EndedTrial]:
    """The complete trials, the best first."""
    return ranked(seen.search("seen").records(), "maximize")


def in_sight(found: sync_api.Locator) -> list[str]:
    """The texts of elements that have a place on the page, from top to bottom and from left to right."""
    places = (
        "all => all.map(e => [e.innerText.trim(), e.getBoundingClientRect()]).map(([t, r]) => [r.y, r.x, r.width, t])"
    )
    return [text for _, _, width, text in sorted(found.evaluate_all(places)) if width and text]


def open_leaderboard(page: sync_api.Page, addresses: dict[str, str], seen: Place) -> None:
    page.goto(addresses["leaderboard"])
    page.get_by_role("link", name=f"trial-{best(seen)[-1].number:04d}").wait_for()


def test_the_leaderboard_shows_the_trials_best_first(
    seen: Place, addresses: dict[str, str], page: sync_api.Page
) -> None:
    open_leaderboard(page, addresses, seen)
    photograph(page, "leaderboard")
    shown = numbers(in_sight(page.locator(".ag-cell a")))
    expected = [trial.number for trial in best(seen)]
    assert shown[: len(expected)] == expected
    assert len(shown) == 14, "those that failed come last"
    columns = dict.fromkeys(in_sight(page.locator(".ag-header-cell")))
    wanted = ["rank", "best/psnr", "best/ssim", "best/class_kept", "depth", "bottleneck", "width", "optimizer", "lr"]
    assert [name for name in columns if name in wanted] == wanted
    assert page.get_by_text("non-finite loss").count(), "why a trial failed"


def test_the_charts_draw(addresses: dict[str, str], page: sync_api.Page) -> None:
    page.goto(addresses["charts"])
    page.get_by_text("Which choices are good (without width: words among numbers, or not in every trial)").wait_for()
    page.locator(".parcoords svg text").first.wait_for()
    page.locator(".scatterlayer .trace").first.wait_for()
    photograph(page, "charts")
    drawn = page.locator(".parcoords text").all_text_contents()
    assert {"depth", "bottleneck", "optimizer", "lr", "best/psnr", "adam", "sgd"} <= {*drawn}
    titles = [title for title in page.locator("h4").all_inner_texts() if "/" in title]
    assert titles[:2] == ["val/psnr", "val/ssim"]  # the others are drawn when they come into sight
    assert not [title for title in titles if title.startswith(("time/", "best/"))], "no chart but the wanted ones"


def test_the_pictures_of_the_ten_best_are_one_click_from_the_leaderboard(
    seen: Place, addresses: dict[str, str], page: sync_api.Page
) -> None:
    open_leaderboard(page, addresses, seen)
    with page.context.expect_page() as opened:  # a link of the experiment's note
        page.get_by_role("link", name="pictures of the best").click()
    with opened.value as pictures:
        grid = pictures.locator("img[src*='restored']")
        grid.nth(9).wait_for()
        pictures.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth)")
        photograph(pictures, "pictures")
        places = "all => all.map(e => [e.getBoundingClientRect(), e.src]).map(([r, src]) => [r.y, r.x, src])"
        runs = [source.partition("run_uuid=")[2][:32] for _, _, source in sorted(grid.evaluate_all(places))]
        assert runs == [record.summary.run_id for record in best(seen)[:10]]


def test_runs_are_compared_by_their_pictures(seen: Place, addresses: dict[str, str], page: sync_api.Page) -> None:
    open_leaderboard(page, addresses, seen)
    ticks = page.locator(".ag-row input[type=checkbox]:visible")
    for index in range(2):
        ticks.nth(index).click(force=True)
    page.get_by_role("button", name="Compare").click()
    page.get_by_text("panel.png").first.click()
    pictures = page.locator("img[alt='panel.png']")
    pictures.nth(1).wait_for()
    pictures.first.scroll_into_view_if_needed()
    photograph(page, "compare")
    left, right = (pictures.nth(index).bounding_box() for index in range(2))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"], "beside each other"


def test_a_version_shows_its_description(seen: Place, addresses: dict[str, str], page: sync_api.Page) -> None:
    page.goto(addresses["leaderboard"].partition("#")[0] + "#/models/seen/versions/1")
    page.get_by_text(f"Trial {best(seen)[0].number} of study seen").wait_for()
    photograph(page, "version")


def test_the_report_is_one_click_from_the_leaderboard(
    seen: Place, addresses: dict[str, str], page: sync_api.Page
) -> None:
    open_leaderboard(page, addresses, seen)
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="report", exact=True).click()
    with opened.value as report:
        report.frame_locator("iframe").get_by_role("heading", name="Answer").wait_for()
        photograph(report, "report")


def test_notes_hold_the_answer_the_contact_sheet_and_the_best_trials(
    seen: Place, addresses: dict[str, str], page: sync_api.Page
) -> None:
    open_leaderboard(page, addresses, seen)
    page.locator("[data-component-id='mlflow.experiment.metadata_editor.expand_button']").click()
    page.get_by_text(f"Trial {best(seen)[0].number} is best").first.wait_for()
    photograph(page, "note")
    page.get_by_role("link", name=f"trial-{best(seen)[0].number:04d}").click()
    page.get_by_text(f"Trial {best(seen)[0].number} of seen").wait_for()
    photograph(page, "trial")
