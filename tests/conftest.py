"""What holds for all tests."""

import operator
import random
import sys
from pathlib import Path

import pytest

SLOW = {"integration", "e2e"}  # Ray is started, and each of its processes imports torch
SLOW_TIMEOUT = 300  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start Ray more time than the default, unless they say themselves how much they need."""
    for item in items:
        if SLOW & set(Path(item.path).parts) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def pytest_runtest_setup() -> None:
    """Seed the global generators before each test, so that it fails or passes alike in every run and order."""
    random.seed(0)
    for module, seed in {"numpy": "random.seed", "torch": "manual_seed"}.items():
        if module in sys.modules:  # tests that need no torch do not load it
            operator.attrgetter(seed)(sys.modules[module])(0)
