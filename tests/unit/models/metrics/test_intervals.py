import numpy as np
import pytest
import torch

from models.metrics.intervals import (
    jackknife_interval,
    mean_interval,
    percentile_interval,
    resampled_means,
    wilson_interval,
)
from models.metrics.kernels import kid_estimate


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    rows = np.random.default_rng(0).normal(3, 2, (400, 2))
    resampled = resampled_means(rows, seed=1)
    assert resampled.mean(0) == pytest.approx(rows.mean(0), abs=0.02)
    assert resampled.std(0) == pytest.approx(rows.std(0) / 20, rel=0.1)
    low, high = percentile_interval(resampled[:, 0])
    assert (high - low) / 2 == pytest.approx(1.96 * rows[:, 0].std() / 20, rel=0.1)
    assert np.array_equal(resampled, resampled_means(rows, seed=1))
    assert not np.array_equal(resampled, resampled_means(rows, seed=2))
    with pytest.raises(ValueError, match="found no rows"):
        resampled_means(rows[:0], seed=1)


def test_columns_are_sampled_together() -> None:
    rows = np.arange(6.0)
    both = resampled_means(np.stack([rows, 2 * rows], 1), seed=0, resamples=50)
    assert both[:, 1] == pytest.approx(2 * both[:, 0])


def test_intervals_of_means_have_their_coverage() -> None:
    """Of 200 intervals of 95 %, 190 are expected to, within four standard deviations (12)."""
    rng = np.random.default_rng(0)
    intervals = [percentile_interval(resampled_means(rng.normal(0, 1, (100, 1)), 0, 400)[:, 0]) for _ in range(200)]
    assert sum(low <= 0 <= high for low, high in intervals) >= 178


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 20), (20, 20), (1, 20), (7, 11), (400, 4096)])
def test_the_interval_of_a_fraction_is_wilsons(hits: int, count: int) -> None:
    """Its ends are the fractions of which the measured one is 1.96 standard errors away: the score test's own."""
    for end in wilson_interval(hits, count):
        assert (hits / count - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / count, rel=1e-3, abs=1e-12)
    rows = np.repeat([0.0, 1.0], [count - hits, hits])
    found = mean_interval(rows, resampled_means(rows[:, None], seed=0)[:, 0], is_fraction=True)
    assert found == wilson_interval(hits, count)
    assert 0 <= found.low <= hits / count <= found.high <= 1
    assert found.high - found.low > 0


def test_rows_that_are_all_alike_are_no_certainty() -> None:
    def interval(rows: np.ndarray, **options: bool) -> tuple[float, float]:
        return mean_interval(rows, resampled_means(rows[:, None], seed=0)[:, 0], **options)

    assert interval(np.zeros(20), is_fraction=True) == pytest.approx((0.0, 0.161), abs=1e-3)
    assert np.isnan(interval(np.full(20, 0.3))).all()
    assert np.isnan(interval(np.zeros(20))).all()  # a mean of numbers that may go beyond 1 is no fraction
    rows = np.arange(20.0)
    assert interval(rows) == percentile_interval(resampled_means(rows[:, None], seed=0)[:, 0])


def test_the_jackknife_of_a_mean_has_its_standard_error() -> None:
    groups = np.random.default_rng(0).normal(0, 1, (10, 50))
    left_out = [float(np.delete(groups, index, axis=0).mean()) for index in range(10)]
    low, high = jackknife_interval(float(groups.mean()), left_out)
    assert (high - low) / 2 == pytest.approx(2.262 * groups.mean(1).std(ddof=1) / 10**0.5)
    assert (high + low) / 2 == pytest.approx(groups.mean())
    with pytest.raises(ValueError, match="found 3 values: expected 10"):
        jackknife_interval(0.0, [1.0, 2.0, 3.0])


def test_intervals_of_a_kernel_distance_are_as_wide_as_it_varies() -> None:
    def normal(seed: int) -> torch.Tensor:
        return torch.randn(100, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    found = [kid_estimate(normal(s) + 0.5, normal(s + 1000)) for s in range(60)]
    widths = [high - low for low, high in (jackknife_interval(*one) for one in found)]
    assert np.mean(widths) / 2 == pytest.approx(2.262 * np.std([one.value for one in found]), rel=0.35)
