"""A browser, and a dashboard on a copy of the finished smoke experiment with what a stranger may have written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipeline.dashboard.server import Shown, serve_dashboard
from pipeline.store import Store
from tests.browser.runs import Planted, add_runs
from tests.e2e.conftest import Finished, finished, unchanged  # noqa: F401  fixtures
from tests.ports import free_port

NEEDED = "CORGI_NEEDS_BROWSER"
"""Set where there has to be a browser, as in CI: the tests fail without it instead of being skipped."""
WIDTHS = {"desktop": 1280, "phone": 390}


def check(page: Any) -> None:
    """No serious finding of axe-core, nothing wider than the window, and no script of the data's ran."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in {"serious", "critical"}]
    assert serious == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "owned" not in page.title()


@dataclass
class Watched:
    """A page, and what its browser complained of or asked of other hosts."""

    page: Any
    url: str
    faults: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None and os.environ.get(NEEDED):
        pytest.fail(f"no Chromium on this machine, and {NEEDED} is set: install the package chromium")
    if program is None:
        pytest.skip("no Chromium on this machine: install the package chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def made(unchanged: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Planted]:  # noqa: F811
    """A copy of the smoke experiment's store with further runs (tests/browser/runs.py)."""
    store = Store(str(shutil.copytree(unchanged[0], tmp_path_factory.mktemp("dashboard") / "store")))
    return store, add_runs(store)


@pytest.fixture(scope="module")
def store(made: tuple[Store, Planted]) -> Store:
    return made[0]


@pytest.fixture(scope="module")
def planted(made: tuple[Store, Planted]) -> Planted:
    return made[1]


@pytest.fixture(scope="module")
def dashboard(store: Store) -> Iterator[str]:
    port = free_port()
    record = store.find_run("smoke")
    assert record.mlflow is not None
    shown = Shown(store.uri, record.mlflow.tracking_uri, record.mlflow.experiment_id)
    with serve_dashboard(shown, "127.0.0.1", port) as (url, _):
        yield url


@pytest.fixture(params=list(WIDTHS))
def watched(request: pytest.FixtureRequest, browser: Any, dashboard: str) -> Iterator[Watched]:
    """A page of the dashboard, as wide as a desktop and as a phone; whatever goes wrong on it fails the test."""
    with watching(browser, dashboard, request.param) as found:
        yield found


@contextmanager
def watching(browser: Any, url: str, width: str) -> Iterator[Watched]:
    """Open a page in a window of this width; whatever its browser complains of in the meantime is an error."""
    is_phone = width == "phone"
    context = browser.new_context(
        viewport={"width": WIDTHS[width], "height": 844}, color_scheme="dark" if is_phone else "light"
    )
    found = Watched(context.new_page(), url)
    base = url.rpartition("/")[0]
    found.page.set_default_timeout(90_000)

    def complain(line: Any) -> None:
        if line.type in {"error", "warning"}:
            found.faults.append(line.text)

    def leave(asked: Any) -> None:
        if not asked.url.startswith((base, "data:", "blob:")):
            found.faults.append(f"asked {asked.url}")

    found.page.on("console", complain)
    found.page.on("pageerror", lambda error: found.faults.append(str(error)))
    found.page.on("request", leave)
    yield found
    context.close()
    assert found.faults == []


def open_part(watched: Watched, part: str, heading: str) -> Any:
    """Open a part of the dashboard, and return the page once nothing more is asked for."""
    watched.page.goto(f"{watched.url}/#/{part}")
    watched.page.get_by_role("heading", level=1, name=heading).wait_for()
    watched.page.wait_for_load_state("networkidle")
    return watched.page
