"""The page of `corgi serve` in a browser: prompts of every kind become images, at each size of the decoder."""

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from models.decoders.buckets import DecoderBuckets
from models.decoders.sampling import DecoderSampling
from models.priors.spec import PriorSampling
from stages.inference.sampling import SamplingSettings
from tests.browser.conftest import WIDTHS, Watched, check, watching
from tests.browser.runs import HOSTILE
from tests.factories import save_tiny_bundle
from tests.integration.test_serve import Server

SIZES = ["48x80", "64x64", "80x48"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of an untrained model whose images have three sizes."""
    folder = tmp_path_factory.mktemp("served")
    settings = SamplingSettings(PriorSampling(num_steps=1), DecoderSampling(num_steps=1))
    sizes = {"resolution": 64, "buckets": DecoderBuckets(step=16)}
    options = ("--batch-size", "1", "--most-images", "4", "--longest-prompt", "200")
    started = Server(save_tiny_bundle(folder, settings, of_decoder=sizes), folder / "serve.log", *options)
    try:
        yield started.wait()
    finally:
        if started.process.poll() is None:
            started.end(signal.SIGTERM)


@pytest.fixture(params=list(WIDTHS))
def served(request: pytest.FixtureRequest, browser: Any, server: Server) -> Iterator[Watched]:
    with watching(browser, f"{server.url}/", request.param) as found:
        found.page.goto(found.url)
        found.page.get_by_text("The model of run tiny-1").wait_for()
        yield found


def generate(page: Any, prompt: str, **fields: str) -> Any:
    """Fill the form in, send it, and return the figures of the new images, the first of them first."""
    before = page.locator("figure").count()
    page.get_by_label("Prompt").fill(prompt)
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Generate").click()
    page.locator("figure").nth(before).wait_for()
    page.get_by_text(re.compile(r"^\d+ images? generated\.$")).wait_for()
    return page.locator("figure")


def test_prompts_become_images_of_the_size_that_is_chosen(served: Watched) -> None:
    page = served.page
    sizes = page.get_by_label("Width x height")
    assert sizes.locator("option").all_inner_texts() == ["default", *SIZES]
    for size, shape in {"80x48": [80, 48], "48x80": [48, 80], "": [64, 64]}.items():
        sizes.select_option(size)
        figures = generate(page, "a large red star", Images="2", Seed="7")
        shown = "img => img.decode().then(() => [img.naturalWidth, img.naturalHeight])"
        assert [figures.nth(row).locator("img").evaluate(shown) for row in range(2)] == [shape, shape]
        assert figures.nth(1).inner_text().split("\n")[-1] == (f"seed 8, {size}" if size else "seed 8")
    assert page.get_by_role("status").inner_text() == "2 images generated."
    check(page)
    first = page.locator("figure img").nth(0).get_attribute("src")
    assert generate(page, "a large red star", Images="1").nth(0).locator("img").get_attribute("src") == first


@pytest.mark.parametrize("prompt", [HOSTILE, "\N{DOG FACE}\N{ZERO WIDTH JOINER}\N{FIRE} \u202eright to left\n\nlines"])
def test_any_prompt_is_text(served: Watched, prompt: str) -> None:
    page = served.page
    figure = generate(page, prompt).first
    assert figure.locator("figcaption").evaluate("one => one.firstChild.data") == prompt
    assert figure.locator("img").get_attribute("alt") == prompt
    assert page.evaluate("document.querySelectorAll('main script, figcaption img').length") == 0
    check(page)


def test_what_is_refused_is_said(served: Watched) -> None:
    reply = served.page.request.post(f"{served.url}generate", data={"prompt": "a star", "size": "80x80"})
    assert reply.status == 422
    assert all(size in reply.json()["detail"] for size in SIZES)
    page = served.page
    page.get_by_label("Prompt").fill("a star")
    page.get_by_label("Images", exact=True).evaluate("one => { one.max = 100; one.value = 90; }")
    page.get_by_role("button", name="Generate").click()
    page.get_by_text("Not generated: body.num_images").wait_for()
    served.faults[:] = [fault for fault in served.faults if "status of 422" not in fault]  # the browser's own words
    check(page)
