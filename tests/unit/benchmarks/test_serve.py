"""When the measurement of serving fails."""

import pytest

from benchmarks.serve import verdict


@pytest.mark.parametrize(
    ("lost", "fractions", "why"),
    [
        (0, [0.95, 0.7, 1.02], None),
        (0, [0.95, 0.7, 0.85], "served 0.85 of what the bare loop generates: expected 0.9 or more"),
        (2, [1.0], "2 requests were lost: expected none"),
    ],
)
def test_it_fails_where_serving_is_slow_or_loses_requests(lost: int, fractions: list[float], why: str | None) -> None:
    assert verdict(lost, fractions) == why
