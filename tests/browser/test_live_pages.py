"""Pages of runs that go on, and pages that are left before they are read: what is shown stays where it is."""

import io
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from cluster.workers import AtWork, by_machine
from pipeline.heartbeat import beating
from pipeline.store import Store
from stages.contract.events import Metrics, Progress
from stages.formats.shards import ShardEntry, write_shard
from tests.browser.conftest import Watched, check, open_part
from tests.browser.runs import HOSTILE
from tests.factories import make_entry, make_record

PLAN: dict[str, Any] = {name: {"fingerprint": name, "identity": {}} for name in ("download_shards", "embed_clip")}


def test_a_run_is_seen_running(watched: Watched, store: Store) -> None:
    run = f"live-{watched.page.viewport_size['width']}"
    stages = [make_entry("download_shards", "running")]
    store.write_run(make_record(run, status="running", plan=PLAN, stages=stages, started="2025-01-01"))
    output = store.output("download_shards", "download_shards")
    output.write_plan(40)
    output.finish_unit("00003", {"failures": {}})
    output.finish_unit("00005", {"failures": {"timeout": 4}})
    with beating(store, run) as running:
        running.note("download_shards", Progress(0, 40, "shards"))
        running.note("download_shards", Progress(7, 40, "shards"))
        running.measure("download_shards", Metrics({"data_wait_fraction": 0.125, "gpu_memory_gigabytes": 11.5}))
        workers = (AtWork(f"node{one % 15} {HOSTILE}", f"{one:05d}") for one in range(30))
        running.locate("download_shards", by_machine(workers))
        page = open_part(watched, f"run/{run}", run)
        page.get_by_text("7 of 40 shards").wait_for()
        assert page.get_by_text("s left").count() + page.get_by_text("min left").count() >= 1
        page.get_by_text("data wait 12.5 %, GPU memory 11.5 GB").wait_for()
        squares = page.locator(".units span").evaluate_all("all => all.map((one) => one.className)")
        assert (squares[3], squares[5], squares[0], squares[39]) == ("done", "done lost", "running", "waiting")
        assert page.locator(".units .lost").get_attribute("title") == "shard 5: done, 4 samples lost"
        running.note("download_shards", Progress(21, 40, "shards"))
        page.get_by_text("21 of 40 shards").wait_for(timeout=60_000)  # a heartbeat is written each 10 s
        assert page.get_by_text(f"2 workers on node3 {HOSTILE}: 00003, 00018").count() == 1
        page.get_by_text("and on 3 further machines").wait_for()
        check(page)
    store.write_run(make_record(run, plan=PLAN, stages=[make_entry("download_shards")], started="2025-01-01"))
    page.locator(".node.done").wait_for()


def test_a_lost_run_is_seen_when_it_is_started_again(watched: Watched, store: Store) -> None:
    run = f"lost-{watched.page.viewport_size['width']}"
    stages = [make_entry("download_shards", "running")]
    store.write_run(make_record(run, status="running", plan=PLAN, stages=stages, started="2025-01-01"))
    page = open_part(watched, f"run/{run}", run)
    page.get_by_text("the run gave no sign of life").wait_for()
    with beating(store, run) as running:
        running.note("download_shards", Progress(7, 40, "shards"))
        page.get_by_text("7 of 40 shards").wait_for()
        assert page.get_by_text("the run gave no sign of life").count() == 0
    store.write_run(make_record(run, plan=PLAN, stages=[make_entry("download_shards")], started="2025-01-01"))


def test_a_page_that_is_opened_early_shows_what_is_recorded_later(watched: Watched, store: Store) -> None:
    smoke, run = store.find_run("smoke"), f"early-{watched.page.viewport_size['width']}"
    early = smoke.model_copy(update={"run": run, "status": "running", "started": "2025-01-02", "finished": None})
    nothing: dict[str, Any] = {"mlflow": None, "stages": [], "metrics": {}, "measures": {}}
    with beating(store, run):
        store.write_run(early.model_copy(update=nothing))
        page = open_part(watched, f"run/{run}", run)
        for words in (
            "Nothing of this run is recorded",
            "No stage logged images",
            "Nothing was lost",
            "Nothing was measured",
        ):
            page.get_by_text(words).wait_for()
        page.get_by_text("train_decoder: waiting").wait_for()
        store.write_run(early)
        page.locator(".chart canvas").first.wait_for()
        page.locator("img.grid-image").wait_for()
        page.get_by_role("region", name="Lost data by cause").wait_for()
        page.get_by_text(f"{len(smoke.metrics)} metrics").wait_for()
        page.get_by_text("train_decoder: done").wait_for()
        assert page.get_by_text("Nothing of this run is recorded").is_hidden()
        check(page)
    store.write_run(smoke.model_copy(update={"run": run, "started": "2025-01-02"}))


def test_of_a_run_that_goes_on_focus_scroll_and_zoom_stay(watched: Watched, store: Store) -> None:
    smoke, run = store.find_run("smoke"), f"going-{watched.page.viewport_size['width']}"
    going = smoke.model_copy(update={"run": run, "status": "running", "started": "2025-01-03", "finished": None})
    stages = [one.model_copy(update={"state": "running"}) if one.name == "evaluate" else one for one in smoke.stages]
    with beating(store, run) as running:
        running.note("evaluate", Progress(1, 40, "images"))
        store.write_run(going.model_copy(update={"stages": stages}))
        page = open_part(watched, f"run/{run}", run)
        chart = page.locator(".chart", has=page.get_by_role("heading", name="train_decoder: loss", exact=True))
        chart.locator("canvas").wait_for()
        chart.get_by_role("button", name="Zoom into").click()
        range_words = chart.locator(".row .dim")
        zoomed = range_words.inner_text()
        link, graph = page.get_by_role("link", name="Its data"), page.get_by_role("region", name="Graph of the stages")
        graph.evaluate("one => { one.scrollLeft = 60; }")
        scrolled = graph.evaluate("one => one.scrollLeft")
        link.focus()
        page.evaluate("scrollTo(0, 200)")
        page.evaluate("document.querySelector('.chart').isTheSame = document.querySelector('.graph').isTheSame = true")
        with page.expect_response(lambda reply: "/curves/train_decoder" in reply.url):  # after three polls
            pass
        running.note("evaluate", Progress(9, 40, "images"))
        page.get_by_text("9 of 40 images").wait_for(timeout=60_000)
        with page.expect_response(lambda reply: "/curves/train_decoder" in reply.url):
            pass
        page.wait_for_load_state("networkidle")
        assert link.evaluate("one => document.activeElement === one")
        assert (range_words.inner_text(), graph.evaluate("one => one.scrollLeft")) == (zoomed, scrolled)
        assert page.evaluate("document.querySelector('.chart').isTheSame && document.querySelector('.graph').isTheSame")
        assert page.evaluate("scrollY") == pytest.approx(200, abs=1)
    store.write_run(smoke.model_copy(update={"run": run, "started": "2025-01-03"}))


class Held:
    """The first request that matches, kept from its reply until it is let go."""

    def __init__(self, page: Any, pattern: str) -> None:
        self._routes: list[Any] = []
        page.route(pattern, self._hold)

    def _hold(self, route: Any) -> None:
        if self._routes:
            route.continue_()
        else:
            self._routes.append(route)

    def wait(self, page: Any) -> None:
        while not self._routes:
            page.wait_for_timeout(20)

    def let_go(self, page: Any) -> None:
        with page.expect_response(lambda reply: reply.url == self._routes[0].request.url):
            self._routes[0].continue_()
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(200)  # what comes of it


@pytest.mark.parametrize(
    ("part", "pattern"),
    [("run/hostile-1", "**/api/runs/hostile-1"), ("runs", "**/api/runs"), ("fraction", "**/api/runs"),
     ("compare?run=hostile-1&run=hostile-2", "**/api/differences?*"), ("data/hostile-1", "**/shards"),
     ("gaussians/hostile-1", "**/gaussians")],
)  # fmt: skip
def test_a_page_that_was_left_writes_nothing_any_more(watched: Watched, part: str, pattern: str) -> None:
    page = open_part(watched, "studies", "Human evaluation")
    held = Held(page, pattern)
    page.evaluate("(part) => { location.hash = `#/${part}`; }", part)
    held.wait(page)
    page.evaluate("location.hash = '#/studies'")
    page.get_by_role("heading", level=1, name="Human evaluation").wait_for()
    held.let_go(page)
    assert page.get_by_role("heading", level=1).all_inner_texts() == ["Human evaluation"]
    assert page.evaluate("location.hash") == "#/studies"


def test_a_page_that_is_reloaded_while_it_is_left_does_not_take_the_address(watched: Watched) -> None:
    page = open_part(watched, "runs", "Runs")
    held = Held(page, "**/api/runs?*metric=generate*")
    page.get_by_label("Add a metric").fill("generate/decoder/images_per_second")
    page.get_by_label("Add a metric").press("Tab")
    held.wait(page)
    page.evaluate("location.hash = '#/studies'")
    page.get_by_role("heading", level=1, name="Human evaluation").wait_for()
    held.let_go(page)
    assert page.evaluate("location.hash") == "#/studies"


def test_of_two_searches_the_last_one_counts(watched: Watched) -> None:
    page = open_part(watched, "data/hostile-1", "Data")
    held = Held(page, "**/duplicates?*")
    page.get_by_role("button", name="Near-duplicates").click()
    held.wait(page)
    page.get_by_role("button", name="Largest loss").click()
    page.get_by_role("heading", name="train_prior: held-out images of the largest loss").wait_for()
    held.let_go(page)
    assert page.get_by_role("heading", name="train_prior: held-out images of the largest loss").is_visible()


def test_of_many_shards_some_are_listed_and_any_is_found(watched: Watched, store: Store) -> None:
    run = f"many-{watched.page.viewport_size['width']}"
    output = store.output("download_shards", "many")
    schema = pa.schema([(name, pa.string()) for name in ("key", "status", "error_message", "caption")])
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG")
    for number in range(250):
        key = f"{number:09d}"
        row = {"key": key, "status": "success", "error_message": None, "caption": f"star {number}"}
        entry = ShardEntry(key, content.getvalue(), row)
        write_shard(output, f"{number:05d}", [entry], schema=schema, image_suffix="png")
        output.finish_unit(f"{number:05d}", {"rows": 1, "images": 1, "captioned": 1, "failures": {}})
    plan = {"download_shards": {"fingerprint": "many", "identity": {}}}
    store.write_run(make_record(run, plan=plan, started="2025-01-01"))
    page = open_part(watched, f"data/{run}", "Data")
    page.get_by_text("star 0", exact=True).wait_for()
    assert page.get_by_label("Shard", exact=True).locator("option").count() == 100
    page.get_by_label("From shard, of 250").fill("240")
    page.get_by_label("From shard, of 250").press("Enter")
    page.get_by_text("star 239", exact=True).wait_for()
    assert page.get_by_label("Shard", exact=True).locator("option").count() == 11
    page.get_by_label("Shard", exact=True).select_option("00249")
    page.get_by_text("star 249", exact=True).wait_for()
    check(page)
