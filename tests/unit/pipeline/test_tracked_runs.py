"""Long curves are thinned so that their ends and extremes stay."""

import numpy as np

from pipeline.tracked_runs import Point, thinned


def test_a_long_curve_keeps_its_ends_and_extremes() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[[12_345, 67_890]] = 50.0, -50.0
    points = [Point(step, float(value), 0) for step, value in enumerate(values)]
    found = thinned(points, 2000)
    assert len(found) <= 2002
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert {50.0, -50.0} <= {point.value for point in found}
    assert [point.step for point in found] == sorted({point.step for point in found})


def test_a_short_curve_is_whole() -> None:
    points = [Point(step, 1.0, 0) for step in range(2000)]
    assert thinned(points, 2000) == points
