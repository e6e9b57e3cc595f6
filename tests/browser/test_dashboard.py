"""The dashboard in a browser: every part of it, on a desktop and on a phone, with text that would like to be markup."""

import re
from typing import Any

import pytest

from cluster.workers import AtWork, by_machine
from pipeline.heartbeat import beating
from pipeline.store import Store
from stages.contract.events import Progress
from tests.browser.conftest import HOSTILE, Watched, check
from tests.factories import make_entry, make_record


def open_part(watched: Watched, part: str, heading: str) -> Any:
    watched.page.goto(f"{watched.url}/#/{part}")
    watched.page.get_by_role("heading", level=1, name=heading).wait_for()
    watched.page.wait_for_load_state("networkidle")
    return watched.page


def test_runs_are_sorted_filtered_and_chosen(watched: Watched) -> None:
    page = open_part(watched, "runs", "Runs")
    rows = page.locator(".runs tbody tr")
    assert rows.count() == 3
    for _ in range(2):
        page.locator("th[aria-sort] button").first.click()
    names = page.locator(".runs tbody th").all_inner_texts()
    assert names == sorted(names) or names == sorted(names, reverse=True)
    page.get_by_label("Find").fill("hostile")
    assert rows.count() == 2
    page.get_by_label("Captions").select_option("semi-supervised")
    assert rows.count() == 2
    check(page)
    page.get_by_label("Choose hostile-1").check()
    page.get_by_label("Choose hostile-2").press("Space")  # by the keyboard
    page.get_by_role("link", name="Side by side: 2").click()
    page.get_by_role("heading", level=1, name="Side by side").wait_for()


def test_one_run_shows_its_graph_curves_images_losses_and_config(watched: Watched) -> None:
    page = open_part(watched, "run/smoke-" + run_id(watched), "smoke-")
    assert page.locator(".node").count() == 7
    page.locator(".chart canvas").first.wait_for()
    assert page.locator(".chart").count() >= 3
    page.get_by_role("button", name="Zoom into").first.click()
    page.get_by_label("logarithmic").check()
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    last = slider.get_attribute("aria-valuetext")
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") != last
    page.locator("img.grid-image").wait_for()
    assert page.get_by_role("region", name="Lost data by cause").get_by_role("row").count() >= 3
    page.get_by_text("Examples").click()
    page.get_by_role("region", name="lost entries").wait_for()
    page.get_by_label("What differs from").select_option("hostile-1")
    page.get_by_text("The configurations are equal.").wait_for()
    check(page)


def run_id(watched: Watched) -> str:
    found = watched.page.request.get(f"{watched.url}/api/runs").json()["runs"]
    return next(run["run"] for run in found if run["run"].startswith("smoke-")).partition("-")[2]


def test_a_run_is_seen_running(watched: Watched, store: Store) -> None:
    plan: dict[str, Any] = {name: {"fingerprint": name, "identity": {}} for name in ("download_shards", "embed_clip")}
    run = f"live-{watched.page.viewport_size['width']}"
    stages = [make_entry("download_shards", "running")]
    store.write_run(make_record(run, status="running", plan=plan, stages=stages, started="2025-01-01"))
    with beating(store, run) as running:
        running.note("download_shards", Progress(0, 40, "shards"))
        running.note("download_shards", Progress(7, 40, "shards"))
        running.locate(
            "download_shards", by_machine(AtWork(f"node{one % 15} {HOSTILE}", f"{one:05d}") for one in range(30))
        )
        page = open_part(watched, f"run/{run}", run)
        page.get_by_text("7 of 40 shards").wait_for()
        assert page.get_by_text("s left").count() + page.get_by_text("min left").count() >= 1
        running.note("download_shards", Progress(21, 40, "shards"))
        page.get_by_text("21 of 40 shards").wait_for(timeout=60_000)  # a heartbeat is written each 10 s
        assert page.get_by_text(f"2 workers on node3 {HOSTILE}: 00003, 00018").count() == 1
        page.get_by_text("and on 3 further machines").wait_for()
        check(page)
    store.write_run(make_record(run, plan=plan, stages=[make_entry("download_shards")], started="2025-01-01"))
    page.get_by_role("heading", level=1, name=run).wait_for()


def test_prompts_side_by_side_are_text(watched: Watched) -> None:
    page = open_part(watched, "compare?run=hostile-1&run=hostile-2", "Side by side")
    page.get_by_text(f"{HOSTILE} 1").wait_for()
    assert page.locator("figure img").count() >= 6
    assert page.evaluate("document.querySelectorAll('main script').length") == 0
    check(page)


def test_a_metric_against_captions(watched: Watched) -> None:
    page = open_part(watched, "fraction?metric=evaluate/frechet_distance", "What captions are worth")
    assert page.locator(".plot circle").count() == 3
    check(page)


def test_data_is_browsed_and_searched(watched: Watched) -> None:
    page = open_part(watched, "data/hostile-1", "Data")
    page.locator(".tiles img").first.wait_for()
    page.get_by_label("Search by text").fill("a red star <script>")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("heading", name="Nearest to").wait_for()
    assert page.locator(".tiles img").count() == 24
    buttons = {
        "Near-duplicates": "Near-duplicates",
        "Largest loss": "train_decoder: held-out images of the largest loss",
        "Captions that fit least": "Images whose captions",
        "Held-out images in training": "Held-out images that are nearly",
    }
    for button, heading in buttons.items():
        page.get_by_role("button", name=button).click()
        page.get_by_role("heading", name=heading).wait_for()
    page.get_by_role("button", name="Largest loss").click()
    for stage, figure in {"train_prior": "1 - cosine", "train_decoder": "the mean of 4"}.items():
        page.get_by_role("heading", name=f"{stage}: held-out images of the largest loss").wait_for()
        page.get_by_text(re.compile(f"after step 12: .*each loss {figure}")).wait_for()
    for tiles in page.locator(".tiles").all():
        texts = tiles.get_by_text(re.compile(r"^loss [0-9.]+$")).all_inner_texts()
        losses = [float(found.split()[1]) for found in texts]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == tiles.locator("img").count() >= 2
    page.get_by_role("button", name="All samples by shard").click()
    page.locator(".tiles button.image").first.click()
    page.get_by_role("heading", name="Like this one").wait_for()
    check(page)


def test_gaussians_are_shown(watched: Watched) -> None:
    page = open_part(watched, "gaussians/hostile-1", "Gaussians")
    assert page.locator(".bar").count() == 3
    page.locator(".bar").nth(1).click()
    page.locator(".tiles img").first.wait_for()
    check(page)


def test_blind_pairs_are_rated_and_never_lost(watched: Watched) -> None:
    page = open_part(watched, "studies", "Human evaluation")
    title = f"{HOSTILE} {page.viewport_size['width']}"
    page.get_by_text("A new study").click()
    page.get_by_label("Title").fill(title)
    for run in ("hostile-1", "hostile-2"):
        page.get_by_label("Add a run").select_option(run)
    page.get_by_role("button", name="Make the study").click()
    page.get_by_text(f"{title} (3 pairs)").wait_for()
    page.get_by_label("Invite a rater by name").first.fill("Ada")
    page.get_by_role("button", name="Make a link").first.click()
    link = page.get_by_label(re.compile("^Link for Ada")).input_value()
    check(page)

    page.goto(link)
    page.get_by_text("pair 1 of 3").wait_for()
    assert "hostile-" not in page.locator("main").inner_html()
    check(page)
    for key in ("1", "5", "Enter"):
        page.keyboard.press(key)
    page.get_by_text("pair 2 of 3").wait_for()
    page.reload()
    page.get_by_text("pair 2 of 3").wait_for()
    for shown in ("pair 3 of 3", "Thank you"):
        page.get_by_role("button", name="Left").first.click()
        page.get_by_role("button", name="Both alike").last.click()
        page.get_by_role("button", name="Next").click()
        page.get_by_text(shown).wait_for()
        page.get_by_text("Stored.", exact=True).wait_for()

    page = open_part(watched, "studies", "Human evaluation")
    page.get_by_text("Ada: 3 of 3").wait_for()
    assert page.get_by_text("in 3 votes on 3 pairs").count() == 2
    assert page.get_by_text("tied 3, lost 0").count() == 1


@pytest.mark.parametrize("path", ["#/run/nothing", "#/data/nothing", "#/gaussians/nothing"])
def test_what_is_not_there_is_said(browser: Any, dashboard: str, path: str) -> None:
    page = browser.new_page()
    page.goto(f"{dashboard}/{path}")
    page.get_by_text("is not in this store").wait_for()
    page.close()
