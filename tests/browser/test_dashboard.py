"""The dashboard in a browser: every part of it, on a desktop and on a phone, with text that would like to be markup."""

import re
from typing import Any

import pytest

from pipeline.store import Store
from tests.browser.conftest import Watched, check, open_part
from tests.browser.runs import HOSTILE, OTHER_FEATURES, STARTED, Planted


def names_of(page: Any) -> list[str]:
    """Return the runs of the table, by the names that they have in the store's description."""
    rows = page.locator(".runs tbody th").all_inner_texts()
    return [name if name in STARTED else name.rpartition("-")[0] for name in rows]


def sort_by(page: Any, heading: str) -> None:
    page.locator("th[aria-sort] button", has_text=re.compile(heading)).first.click()


def test_runs_are_sorted(watched: Watched) -> None:
    page = open_part(watched, "runs", "Runs")
    assert names_of(page) == list(STARTED)  # the latest first
    sort_by(page, "^started$")
    assert names_of(page) == list(STARTED)[::-1]
    sort_by(page, "frechet_distance$")
    assert names_of(page) == ["hostile-1", "smoke", "hostile-2", "broken"]  # less is better: the least first
    sort_by(page, "frechet_distance$")
    assert names_of(page) == ["hostile-2", "smoke", "hostile-1", "broken"]  # what has none last
    sort_by(page, "^run$")
    sort_by(page, "^run$")
    assert names_of(page) == ["broken", "hostile-1", "hostile-2", "smoke"]
    page.reload()
    page.locator(".runs tbody tr").first.wait_for()
    assert names_of(page) == ["broken", "hostile-1", "hostile-2", "smoke"]  # the address remembers it
    check(page)


def test_runs_are_filtered_and_chosen(watched: Watched) -> None:
    page = open_part(watched, "runs", "Runs")
    page.get_by_label("Captions").select_option(label="semi-supervised 20 %")
    assert names_of(page) == ["hostile-1"]
    page.get_by_label("Captions").select_option("semi-supervised")
    assert names_of(page) == list(STARTED)
    page.get_by_label("Status").select_option("failed")
    assert names_of(page) == ["broken"]
    page.get_by_label("Status").select_option("")
    page.get_by_label("Find", exact=True).fill("hostile")
    assert names_of(page) == ["hostile-1", "hostile-2"]
    check(page)
    page.get_by_label("Choose hostile-1").check()
    page.get_by_label("Choose hostile-2").press("Space")  # by the keyboard
    page.get_by_role("link", name="Side by side: 2").click()
    page.get_by_role("heading", level=1, name="Side by side").wait_for()
    assert page.get_by_role("list", name="Runs").get_by_role("listitem").count() == 2


def test_the_best_is_marked_of_figures_that_were_measured_alike(watched: Watched) -> None:
    page = open_part(watched, "runs", "Runs")
    best = page.locator(".runs td.best")
    row = page.locator(".runs tbody tr", has=page.get_by_role("rowheader", name="hostile-1"))
    assert row.locator("td.best", has_text="3.5 – 4.5, n 240").count() == 1
    assert page.locator(".runs td", has_text="11.5 – 12.5, n 240").count() == 1
    plots = {part: page.locator(".cards.small .card", has_text=part) for part in ("frechet", "kernel", "held_out")}
    assert "4 best, hostile-1" in " ".join(plots["frechet"].inner_text().split())
    assert "2 protocols, which cannot be compared" in plots["kernel"].inner_text()
    assert "best" not in plots["held_out"].inner_text()  # nobody recorded how that was measured
    assert [plots[part].locator("circle").count() for part in plots] == [3, 3, 3]
    links = plots["frechet"].locator("a").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert any(label.startswith("hostile-2: 12 (11.5 – 12.5, n 240)") for label in links)
    headings = page.locator(".runs thead th").all_inner_texts()
    columns = [headings[index] for index in best.evaluate_all("all => all.map((one) => one.cellIndex - 1)")]
    assert not any("held_out_loss" in one or "kernel" in one for one in columns)


def test_one_run_shows_its_graph_images_losses_and_config(watched: Watched) -> None:
    page = open_part(watched, "run/hostile-1", "hostile-1")
    assert page.locator(".node").count() == 7
    slider = page.get_by_label("Step", exact=True)
    slider.focus()
    last, image = slider.get_attribute("aria-valuetext"), page.locator("img.grid-image")
    source = image.get_attribute("src")
    slider.press("ArrowLeft")
    assert slider.get_attribute("aria-valuetext") != last
    assert image.get_attribute("src") != source
    assert page.get_by_role("region", name="Lost data by cause").get_by_role("row").count() >= 4
    page.get_by_text("Examples").click()
    page.get_by_role("region", name="Lost by download_shards").get_by_role("region", name="lost entries").wait_for()
    by_embedding = page.get_by_role("region", name="Lost by embed_clip").get_by_role(
        "region", name="lost samples by unit"
    )
    assert by_embedding.get_by_role("row").all_inner_texts()[1].split() == ["00000", "corrupt_image", "2"]
    marked = page.locator(".node", has_text="embed_clip").locator(".units .lost")
    assert marked.get_attribute("title") == "shard 0: done, 2 samples lost"
    page.get_by_text("metrics", exact=False).last.click()
    page.get_by_label("Find", exact=True).fill("evaluate/frechet_distance")
    row = page.get_by_role("region", name="Metrics").get_by_role("row").nth(1)
    assert row.get_by_role("cell").all_inner_texts()[:4] == ["evaluate/frechet_distance", "4", "3.5 – 4.5", "240"]
    page.get_by_label("What differs from").select_option("hostile-2")
    differing = page.get_by_role("region", name="Differences of the configurations").get_by_role("row")
    differing.nth(1).wait_for()
    assert differing.nth(1).inner_text().split() == ["generate.prior.num_steps", "3", "4"]
    check(page)


def range_of(chart: Any) -> tuple[float, float]:
    """Return the steps, or the seconds, from which to which a chart shows its curve."""
    found = re.search(r"(?:step|seconds) ([\d.,e-]+) to ([\d.,e-]+)", chart.locator(".row .dim").inner_text())
    assert found is not None
    return float(found[1].replace(",", "")), float(found[2].replace(",", ""))


def pixels_of(chart: Any) -> str:
    return str(chart.locator("canvas").evaluate("one => one.toDataURL()"))


def until_changed(page: Any, chart: Any, before: str) -> None:
    page.wait_for_function(
        "([chart, before]) => chart.querySelector('canvas').toDataURL() !== before",
        arg=[chart.element_handle(), before],
    )


def test_curves_are_zoomed_smoothed_and_laid_over_one_another(watched: Watched, store: Store) -> None:
    run = store.find_run("smoke").run
    page = open_part(watched, f"run/{run}", run)
    charts = page.locator(".chart")
    charts.nth(2).wait_for()
    chart = page.locator(".chart", has=page.get_by_role("heading", name="train_decoder: loss", exact=True))
    chart.locator("canvas").wait_for()
    first, last = range_of(chart)
    assert last > first
    button = chart.get_by_role("button", name="Zoom into")
    button.click()
    page.wait_for_function("(one) => one.textContent", arg=chart.locator(".row .dim").element_handle())
    near = range_of(chart)
    assert near == pytest.approx((first + (last - first) / 4, last - (last - first) / 4))
    chart.get_by_role("button", name="Zoom out of").click()
    assert range_of(chart) == pytest.approx((first, last))
    button.click()
    chart.get_by_role("button", name="Show the whole of").click()
    assert range_of(chart) == (first, last)

    plot = chart.get_by_role("img")
    words, before = plot.get_attribute("aria-label"), pixels_of(chart)
    page.get_by_label("logarithmic").check()
    chart.locator("canvas").wait_for()
    until_changed(page, chart, before)
    assert plot.get_attribute("aria-label") == words  # the same numbers on another scale
    page.get_by_label("logarithmic").uncheck()
    slider = page.get_by_label("Smoothing")
    slider.focus()
    slider.press("End")
    page.wait_for_function("([one, words]) => one.ariaLabel !== words", arg=[plot.element_handle(), words])
    smoothed = [float(value) for value in re.findall(r"(?:least|most) ([\d.]+)", plot.get_attribute("aria-label"))]
    raw = [float(value) for value in re.findall(r"(?:least|most) ([\d.]+)", words)]
    assert raw[0] < smoothed[0] < smoothed[1] <= raw[1]
    slider.press("Home")
    page.get_by_label("by time").check()
    page.locator(".chart .row .dim", has_text="seconds 0 to").first.wait_for()
    page.get_by_label("Lay a run over it").select_option("hostile-1")
    page.get_by_role("list", name="Runs laid over one another").wait_for()
    page.wait_for_function(
        "(runs) => [...document.querySelectorAll('.chart [role=img]')].every((one) =>"
        " runs.every((run) => one.ariaLabel.includes(`${run}: from`)))",
        arg=[run, "hostile-1"],
    )
    series = chart.locator(".u-series")  # which come after the words
    series.nth(2).wait_for()
    assert series.all_inner_texts()[1].strip().startswith(run)
    assert series.count() == 3  # of them the first is time
    check(page)


def test_a_curve_without_points_cannot_be_zoomed(watched: Watched, store: Store) -> None:
    run = store.find_run("smoke").run
    watched.page.route("**/curves/train_decoder?*", lambda route: route.fulfill(json=[]))
    page = open_part(watched, f"run/{run}", run)
    chart = page.locator(".chart", has=page.get_by_role("heading", name="train_decoder: loss", exact=True))
    chart.get_by_text("nothing was recorded").wait_for()
    for label in ("Zoom into", "Zoom out of", "Show the whole of"):
        assert chart.get_by_role("button", name=label).is_disabled()


def test_runs_side_by_side(watched: Watched) -> None:
    page = open_part(watched, "compare?run=hostile-1&run=hostile-2", "Side by side")
    page.get_by_text(f"{HOSTILE} 1").wait_for()
    assert page.locator("figure img").count() >= 6
    assert page.evaluate("document.querySelectorAll('main script').length") == 0
    settings = page.get_by_role("region", name="Settings that differ").get_by_role("row").all_inner_texts()
    assert [row.split() for row in settings[1:]] == [["generate.prior.num_steps", "3", "4"]]
    metrics = page.get_by_role("region", name="Metrics")
    alike = metrics.get_by_role("row").filter(has_text="frechet_distance")
    assert alike.count() == 1
    assert "3.5 – 4.5, n 240" in alike.inner_text()
    assert "11.5 – 12.5, n 240" in alike.inner_text()
    apart = metrics.get_by_role("row").filter(has_text="kernel_distance")
    assert ["protocol 1 of 2" in apart.nth(0).inner_text(), "protocol 2 of 2" in apart.nth(1).inner_text()] == [
        True
    ] * 2
    filled = [[bool(text.strip()) for text in row.get_by_role("cell").all_inner_texts()] for row in apart.all()]
    assert filled == [[True, False], [False, True]]
    page.get_by_text(f"hostile-2 cannot be compared with hostile-1: features {OTHER_FEATURES}, not").wait_for()
    page.get_by_label("Find a prompt").fill(f"{HOSTILE} 2")
    page.get_by_text("1 prompts in common").wait_for()
    assert page.get_by_role("heading", level=3, name="seed 2").count() == 1
    check(page)


def test_a_metric_against_captions(watched: Watched, store: Store) -> None:
    smoke = store.find_run("smoke").run
    page = open_part(watched, "fraction?metric=evaluate/frechet_distance", "What captions are worth")
    plot = page.locator(".plots")
    assert plot.count() == 1
    labels = plot.locator("circle title").evaluate_all("all => all.map((one) => one.textContent)")
    assert sum(label.startswith("hostile-1: 4 (3.5 – 4.5, n 240) at 20 %") for label in labels) == 1
    assert sum(label.startswith("mean of 2 runs 10 ± 2.828 at 50 %") for label in labels) == 1
    assert {label for label in labels if label.endswith((": 8", ": 12"))} == {f"{smoke}: 8", "hostile-2: 12"}
    assert len(labels) == 4
    (line,) = plot.locator("polyline").evaluate_all("all => all.map((one) => one.getAttribute('points'))")
    assert len(line.split()) == 2  # two fractions: seeds are no corners of a line
    page.get_by_label("join the points of a line").uncheck()
    assert plot.locator("polyline").count() == 0
    rows = page.get_by_role("region", name="The metric by captioned fraction").get_by_role("row").all_inner_texts()
    assert len(rows) == 1 + 1 + 3
    assert page.locator("td td").count() == 0
    check(page)
    page.get_by_label("Metric", exact=True).fill("evaluate/kernel_distance")
    page.get_by_label("Metric", exact=True).press("Enter")
    page.get_by_role("heading", name="Protocol 2 of 2").wait_for()
    assert [one.locator("circle").count() for one in plot.all()] == [2, 1]
    page.get_by_text(f"features {OTHER_FEATURES}, not").wait_for()


def test_data_is_browsed_and_searched(watched: Watched) -> None:
    page = open_part(watched, "data/hostile-2", "Data")
    page.locator(".tiles img").first.wait_for()
    page.get_by_label("Search by text").fill("a red star <script>")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("heading", name="Nearest to").wait_for()
    assert page.locator(".tiles img").count() == 24
    page.get_by_role("button", name="Captions that fit least").click()
    page.get_by_role("heading", name="Images whose captions").wait_for()
    page.get_by_role("button", name="Largest loss").click()
    for stage, figure in {"train_prior": "1 - cosine", "train_decoder": "the mean of 4"}.items():
        page.get_by_role("heading", name=f"{stage}: held-out images of the largest loss").wait_for()
        page.get_by_text(re.compile(f"after step 12: .*each loss {figure}")).wait_for()
    for tiles in page.locator(".tiles").all():
        texts = tiles.get_by_text(re.compile(r"^loss [0-9.]+$")).all_inner_texts()
        losses = [float(found.split()[1]) for found in texts]
        assert losses == sorted(losses, reverse=True)
        assert len(losses) == tiles.locator("img").count() >= 2
    check(page)


def sources(tiles: Any) -> list[str]:
    """Return shard and key of the images that are shown, as their addresses have them."""
    found = tiles.locator("img").evaluate_all("all => all.map((one) => one.getAttribute('src'))")
    return ["/".join(one.split("/")[-2:]) for one in found]


def test_an_uploaded_image_finds_itself_among_the_run_s_own(watched: Watched) -> None:
    page = open_part(watched, "data/hostile-2", "Data")
    page.locator(".tiles img").nth(3).wait_for()
    own = sources(page.locator(".tiles"))[3]
    reply = page.request.get(f"{watched.url}/api/runs/hostile-2/samples/{own}")
    page.get_by_label("Search by an image of yours").set_input_files(
        [{"name": "mine.png", "mimeType": "image/png", "buffer": reply.body()}]
    )
    page.get_by_role("heading", name="Nearest to mine.png").wait_for()
    tiles = page.locator(".tiles")
    assert sources(tiles)[0] == own
    scores = [float(text.split()[1]) for text in tiles.get_by_text(re.compile("^cosine ")).all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == pytest.approx(1.0, abs=0.01)


def test_a_duplicate_and_a_leak_are_found(watched: Watched, planted: Planted) -> None:
    page = open_part(watched, "data/hostile-1", "Data")
    same = [f"{shard}/{key}" for shard, key in planted.duplicate]
    leak = [f"{shard}/{key}" for shard, key in (planted.held_out, planted.trained)]
    page.get_by_label("Least cosine of pairs").fill("0.99")
    page.get_by_role("button", name="Near-duplicates").click()
    page.get_by_role("heading", name="Near-duplicates").wait_for()
    pairs = page.locator(".pair")
    assert sorted(sorted(sources(one)) for one in pairs.all()) == sorted([sorted(same), sorted(leak)])
    page.get_by_text(re.compile(r"^All \d+ embeddings were compared with one another\.$")).wait_for()
    page.get_by_role("button", name="Held-out images in training").click()
    page.get_by_role("heading", name="Held-out images that are nearly").wait_for()
    assert [sources(one) for one in pairs.all()] == [leak]  # the left one is held out
    words = r"^All \d+ held-out images were compared with all \d+ images that are trained on\.$"
    page.get_by_text(re.compile(words)).wait_for()
    page.get_by_label("Least cosine of pairs").fill("1")
    check(page)
    page.get_by_role("button", name="Near-duplicates").click()
    page.get_by_role("heading", name="Near-duplicates").wait_for()
    pairs.first.locator("button.image").nth(1).click()
    page.get_by_role("heading", name="Like this one").wait_for()
    (asked,), nearest = (sources(one) for one in page.locator(".tiles").all())
    assert {asked, nearest[0]} in (set(same), set(leak))
    assert asked not in nearest
    check(page)


def test_gaussians_are_shown(watched: Watched) -> None:
    page = open_part(watched, "gaussians/hostile-2", "Gaussians")
    assert page.locator(".bar").count() == 3
    first = page.get_by_role("heading", name="Nearest to the mean of Gaussian").inner_text()
    page.locator(".bar").nth(1).click()
    page.get_by_role("heading", name=first, exact=True).wait_for(state="detached")
    page.locator(".tiles img").first.wait_for()
    check(page)


def invite(page: Any, name: str) -> str:
    """Invite a rater to the study that stands first, and return the link."""
    page.get_by_label("Invite a rater by name").first.fill(name)
    page.get_by_role("button", name="Make a link").first.click()
    return str(page.get_by_label(re.compile(f"^Link for {name}")).input_value())


def rate(page: Any, alignment: str, number: int) -> None:
    """Say of a pair which image follows the prompt better, and that both look alike."""
    page.get_by_text(f"pair {number} of 3").wait_for()
    page.get_by_role("button", name=alignment).first.click()
    page.get_by_role("button", name="Both alike").last.click()
    page.get_by_role("button", name="Next").click()


def test_blind_pairs_are_rated_by_two_and_never_lost(watched: Watched) -> None:
    page = open_part(watched, "studies", "Human evaluation")
    title = f"{HOSTILE} {page.viewport_size['width']}"
    page.get_by_text("A new study").click()
    page.get_by_label("Title").fill(title)
    for run in ("hostile-1", "hostile-2"):
        page.get_by_label("Add a run").select_option(run)
    page.get_by_role("button", name="Make the study").click()
    page.get_by_text(f"{title} (3 pairs)").wait_for()
    ada, ben = invite(page, "Ada"), invite(page, "Ben")
    assert ada != ben
    check(page)

    page.goto(ada)
    page.get_by_text("pair 1 of 3").wait_for()
    assert "hostile-" not in page.locator("main").inner_html()
    check(page)
    for key in ("1", "5", "Enter"):
        page.keyboard.press(key)
    page.get_by_text("pair 2 of 3").wait_for()
    page.reload()
    for number in (2, 3):
        rate(page, "Left", number)
    page.get_by_text("Thank you").wait_for()
    page.goto(ben)
    for number in (1, 2, 3):
        rate(page, "Both alike", number)
    page.get_by_text("Thank you").wait_for()

    page = open_part(watched, "studies", "Human evaluation")
    for name in ("Ada", "Ben"):
        page.get_by_text(f"{name}: 3 of 3").first.wait_for()
    words = page.locator("p", has_text="in 6 votes on 3 pairs").all_inner_texts()[:2]
    counts = [[int(count) for count in re.findall(r"\d+", text)] for text in words]
    assert [count[0] + count[2] for count in counts] == [3, 0]  # Ada saw one better each time; Ben did not
    assert [count[1] for count in counts] == [3, 6]


@pytest.mark.parametrize("path", ["#/run/nothing", "#/data/nothing", "#/gaussians/nothing"])
def test_what_is_not_there_is_said(browser: Any, dashboard: str, path: str) -> None:
    page = browser.new_page()
    page.set_default_timeout(90_000)
    page.goto(f"{dashboard}/{path}")
    page.get_by_text("is not in this store").wait_for()
    page.close()
