import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from models.metrics.kernels import cmmd_estimate, kid_estimate
from models.metrics.moments import Moments, frechet_of_moments
from models.similarity import kid


def normal(rows: int, embed: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, embed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    return frechet_of_moments(Moments.of(a), Moments.of(b))


class Given(torch.nn.Module):
    num_features = 6

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def test_frechet_distance_of_known_gaussians_is_its_closed_form() -> None:
    """Commuting covariances: |m_a - m_b|^2 + sum (s_a - s_b)^2, of moments that no sample disturbs."""
    s_a, s_b = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([2.0, 2.0, 0.5]).double()
    a, b = (
        Moments(101, torch.full((3,), m).double(), torch.diag(100 * s.square())) for m, s in ((0.0, s_a), (2.0, s_b))
    )
    assert frechet_of_moments(a, b) == pytest.approx(3 * 4 + float((s_a - s_b).square().sum()), rel=1e-12)


@pytest.mark.parametrize("rows", [200, 5])  # more rows than dimensions, and fewer
def test_frechet_distance_is_that_of_torch_fidelity_and_torchmetrics(rows: int) -> None:
    a, b = normal(rows, 6, 0) * torch.arange(1, 7), normal(rows + 3, 6, 1) @ normal(6, 6, 2) + 1
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
    assert frechet(a, b) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    metric = FrechetInceptionDistance(feature=Given())
    metric.update(a, real=False)
    metric.update(b, real=True)
    assert frechet(a, b) == pytest.approx(float(metric.compute()), rel=1e-3)


@pytest.mark.parametrize(("rows", "embed"), [(300, 16), (40, 64)])
def test_merged_parts_equal_the_whole_in_any_order(rows: int, embed: int) -> None:
    a, b = normal(rows, embed, 0) * 3 + 100, normal(rows, embed, 1) + 99
    parts = [Moments.of(part) for part in a.split(7)]
    for order in (parts, parts[::-1], [Moments.of(a[:0]), *parts]):
        merged = Moments.merged(order)
        assert merged.count == rows
        assert frechet_of_moments(merged, Moments.of(b)) == pytest.approx(frechet(a, b), rel=1e-9)
    assert frechet(a[torch.randperm(rows, generator=torch.Generator().manual_seed(3))], b) == pytest.approx(
        frechet(a, b), rel=1e-9
    )


def test_a_part_is_taken_out_again() -> None:
    a, b = normal(100, 8, 0) + 5, Moments.of(normal(90, 8, 1))
    rest = Moments.of(a) - Moments.of(a[::10])
    kept = a[torch.arange(100) % 10 != 0]
    assert rest.count == 90
    assert frechet_of_moments(rest, b) == pytest.approx(frechet_of_moments(Moments.of(kept), b), rel=1e-9)
    with pytest.raises(ValueError, match="100 rows to take out of 100"):
        Moments.of(a) - Moments.of(a)


def test_wider_and_further_sets_are_more_distant() -> None:
    b = normal(400, 8, 0)
    for distance in (frechet, lambda x, y: kid_estimate(x, y).value):
        values = [distance(change, b) for change in (b, normal(400, 8, 1) * 1.5, normal(400, 8, 1) * 1.5 + 1)]
        assert values == sorted(values)
    assert frechet(b, b) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 rows, got 1"):
        frechet(b[:1], b)
    with pytest.raises(ValueError, match="8 and 7 dimensions"):
        frechet(b, b[:, :7])


def test_kid_is_that_of_torch_fidelity_and_of_the_whole_set() -> None:
    a, b = normal(60, 5, 0), normal(60, 5, 1) + 0.3
    whole = {"kid_subsets": 1, "kid_subset_size": 60, "rng_seed": 0, "verbose": False}
    theirs = kid_features_to_metric(a, b, **whole)["kernel_inception_distance_mean"]
    assert kid_estimate(a, b).value == pytest.approx(theirs, rel=1e-9)
    assert kid_estimate(a, b[:33]).value == pytest.approx(float(kid(a, b[:33])), rel=1e-9)


def test_cmmd_is_its_double_loop_and_so_is_each_set_without_a_group() -> None:
    a, b = normal(41, 6, 0), normal(33, 6, 1) + 1

    def direct(xs: torch.Tensor, ys: torch.Tensor) -> float:
        def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
            return float(torch.exp(-(x / x.norm() - y / y.norm()).square().sum() / (2 * 10**2)))

        n, m = len(xs), len(ys)
        within = sum(kernel(xs[i], xs[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
        within += sum(kernel(ys[i], ys[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
        return 1000 * (within - 2 * sum(kernel(x, y) for x in xs for y in ys) / (n * m))

    found = cmmd_estimate(a, b)
    assert found.value == pytest.approx(direct(a, b), rel=1e-8)
    kept_a, kept_b = (torch.arange(len(x)) % 10 != 4 for x in (a, b))
    assert found.left_out[4] == pytest.approx(direct(a[kept_a], b[kept_b]), rel=1e-8)
    assert cmmd_estimate(a[:19], b[:19]).left_out == ()
    assert abs(cmmd_estimate(a, a.clone()).value) < abs(found.value)
    with pytest.raises(ValueError, match="at least 2 rows in each set, got 1 and 33"):
        cmmd_estimate(a[:1], b)


def test_kernel_distances_of_one_distribution_are_zero_on_average() -> None:
    values = np.array([kid_estimate(normal(20, 4, s), normal(20, 4, s + 1000)).value for s in range(200)])
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
