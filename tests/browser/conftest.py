"""A browser, and a dashboard on a copy of the finished smoke experiment with what a stranger may have written."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dashboard.server import Shown, serve_dashboard
from pipeline.store import Store
from stages.formats.generated_images import GeneratedRow, gather_rows, image_file, writing_images
from tests.e2e.conftest import Finished, finished, unchanged  # noqa: F401  fixtures
from tests.ports import free_port

HOSTILE = "<script>document.title='owned'</script> 🐕 <img src=x onerror=alert(1)>"
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
def store(unchanged: tuple[Path, Finished], tmp_path_factory: pytest.TempPathFactory) -> Store:  # noqa: F811
    """A copy of the smoke experiment's store, with two runs whose prompts and notes would like to be markup."""
    made = Store(str(shutil.copytree(unchanged[0], tmp_path_factory.mktemp("dashboard") / "store")))
    (smoke,) = made.runs()
    for number in (1, 2):
        fingerprint, rng = f"hostile{number}", np.random.default_rng(number)
        output = made.output("generate", fingerprint)
        rows = [
            GeneratedRow("prior", index, image_file("prior", index), f"{HOSTILE} {index}", index, {}, None)
            for index in range(3)
        ]
        with writing_images(output, "prior", 0, in_shards=False) as add:
            for row in rows:
                add(row, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), None)
        gather_rows(output, ["prior-000000"])
        planned = smoke.plan["generate"].model_copy(update={"fingerprint": fingerprint})
        entries = [entry.model_copy(update={"notes": {"frechet_distance": HOSTILE}}) for entry in smoke.stages]
        changes = {"run": f"hostile-{number}", "plan": smoke.plan | {"generate": planned}, "stages": entries}
        made.write_run(smoke.model_copy(update=changes))
    return made


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
