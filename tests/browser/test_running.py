"""A run that is really running, watched: progress moves, workers have a machine, the stage ends, without reloading."""

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import Store
from tests.browser.conftest import check, watching
from tests.e2e.conftest import CORGI, ROOT, SMOKE, clean_environment

STEPS = 400  # some 20 s on a fast machine: the run gives a sign of life each 10 s
CHANGES = (
    f"train_decoder.training.num_steps={STEPS}", f"train_decoder.training.validation_interval={STEPS}",
    f"train_decoder.training.checkpoint_interval={STEPS}", "train_decoder.training.log_interval=5",
    "generate.prompts.num=4", "evaluate=null",
)  # fmt: skip
PATIENCE = 400.0  # seconds, on a machine that is slow and busy


@pytest.fixture
def running(store: Store) -> Iterator[str]:
    """The smoke experiment with a decoder of more steps, in a process of its own; the id of its run."""
    known = {record.run for record in store.runs()}
    command = [*CORGI, "run", str(SMOKE), f"store={store.uri}", *CHANGES]
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield until(lambda: next((one.run for one in store.runs() if one.run not in known), None))
            assert process.wait(PATIENCE) == 0
        finally:
            process.terminate()


def until(ask: Callable[[], Any]) -> Any:
    """Return what is asked for as soon as it is there."""
    deadline = time.monotonic() + PATIENCE
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return found


def done_of(node: Any) -> int:
    """Return the number of steps that a stage's card shows as done; 0: none yet."""
    found = re.search(rf"([0-9,]+) of {STEPS} steps", node.inner_text())
    return int(found[1].replace(",", "")) if found else 0


def is_done(node: Any) -> bool:
    return "done" in str(node.get_attribute("class")).split()


@pytest.mark.timeout(900)
def test_a_real_run_is_watched_to_its_end(browser: Any, dashboard: str, running: str, tmp_path: Path) -> None:
    with watching(browser, dashboard, "desktop") as desktop, watching(browser, dashboard, "phone") as phone:
        for one in (desktop, phone):
            one.page.goto(f"{dashboard}/#/run/{running}")
            one.page.get_by_role("heading", level=1, name=running).wait_for()
            one.page.evaluate("window.wasNotReloaded = true")
        node = desktop.page.locator(".node", has_text="train_decoder")
        desktop.page.locator(".node.reused").nth(3).wait_for()
        first = until(lambda: done_of(node))
        assert 0 < first < STEPS
        until(lambda: f"1 worker on {socket.gethostname()}" in node.inner_text())
        check(desktop.page)
        check(phone.page)
        until(lambda: done_of(node) > first or is_done(node))  # at the next sign of life
        for one in (desktop, phone):
            one.page.locator(".node.done", has_text="train_decoder").wait_for(timeout=1000 * PATIENCE)
            one.page.locator("main p .state, main p .badge", has_text="done").wait_for(timeout=1000 * PATIENCE)
            assert one.page.evaluate("window.wasNotReloaded")
            assert one.page.locator(".node.running").count() == 0
