"""What holds for all tests."""

from pathlib import Path

import pytest

SLOW = {"integration", "e2e"}  # Ray is started, and each of its processes imports torch
SLOW_TIMEOUT = 300  # seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that start Ray more time than the default, unless they say themselves how much they need."""
    for item in items:
        if SLOW & set(Path(item.path).parts) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
