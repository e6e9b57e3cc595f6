"""What holds for all tests."""

import operator
import random
import signal
import sys
import threading
from pathlib import Path

import pytest

SLOW = {"integration", "e2e", "browser"}  # Ray is started, and each of its processes imports torch
SLOW_TIMEOUT = 900  # seconds; a bound for what hangs, on a machine that is slow and busy
LONGEST_FILES = (
    "e2e/test_recovery",
    "integration/test_two_drivers",
    "e2e/test_own_images",
    "integration/test_training",
    "integration/test_jobs",
    "integration/test_ends",
    "e2e/test_whole_graph",
    "integration/test_lost_nodes",
    "integration/test_cluster_commands",
    "hostile/test_secrets",
    "e2e/test_recipes",
    "integration/test_tracking_away",
    "e2e/test_sweep",
    "integration/test_streaming",
    "integration/test_pool",
    "e2e/test_object_store",
    "browser/test_running",
    "integration/test_compile",
    "integration/test_serve",
    "hostile/test_environment",
    "browser/test_dashboard",
    "browser/test_serve",
    "integration/test_bucket_workers",
)
"""Begun first, so that no process is left alone with one of them at the end; each second one waits more than it
computes, so that another may compute beside it.
"""


_FILES: set[Path] = set()
"""The file whose tests run now."""


def pytest_configure() -> None:
    """Heed the signals that tests send to what they start, where this process was started to ignore them (nohup, &)."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
            signal.signal(number, usual)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start Ray more time, unless they say themselves; begin with the longest files."""
    order = {name: number for number, name in enumerate(LONGEST_FILES)}
    items.sort(key=lambda item: order.get("/".join(Path(item.path).with_suffix("").parts[-2:]), len(order)))
    for item in items:
        if SLOW & set(Path(item.path).parts) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


@pytest.hookimpl(tryfirst=True)  # before the fixtures of a file are made
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seed the global generators before each test, so that it fails or passes alike in every run and order.

    For this, a file's tests also begin without the secrets of other files, which would be masked in all that is said.
    """
    if (secrets := sys.modules.get("stages.contract.secrets")) is not None and item.path not in _FILES:
        _FILES.clear()
        secrets._known.values.clear()
        secrets._known.pattern = None
    _FILES.add(item.path)
    random.seed(0)
    for module, seed in {"numpy": "random.seed", "torch": "manual_seed"}.items():
        if module in sys.modules:  # tests that need no torch do not load it
            operator.attrgetter(seed)(sys.modules[module])(0)
