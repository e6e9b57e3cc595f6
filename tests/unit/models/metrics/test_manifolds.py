import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from models.metrics.manifolds import manifolds


def normal(rows: int, embed: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, embed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def means(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    return [float(values.mean()) for values in manifolds(a, b)]


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    a, b = normal(70, 3, 0) * 0.8, normal(60, 3, 1)
    assert means(a, b)[:2] == pytest.approx(calculate_precision_recall_full(a, b, neighborhood=3), rel=1e-6)


def test_density_and_coverage_are_their_definitions() -> None:
    a, b = normal(30, 3, 0), normal(25, 3, 1) + 0.5
    radii = [sorted(float((x - y).norm()) for y in b)[5] for x in b]  # the first is of the row itself
    inside = [[float((x - y).norm()) <= radius for x, radius in zip(b, radii, strict=True)] for y in a]
    density = sum(map(sum, inside)) / (5 * len(a))
    coverage = sum(any(row[i] for row in inside) for i in range(len(b))) / len(b)
    assert means(a, b)[2:] == pytest.approx([density, coverage])


def test_what_is_narrow_is_precise_and_what_is_lost_is_not_recalled() -> None:
    b = normal(300, 4, 0)
    same, narrow, away = means(normal(300, 4, 1), b), means(0.2 * normal(300, 4, 1), b), means(b + 50, b)
    assert means(b, b) == pytest.approx([1, 1, 1.2, 1], abs=0.2)
    assert narrow[0] > same[0] - 0.05
    assert narrow[2] > same[2]
    assert narrow[1] < 0.5 * same[1]
    assert narrow[3] < same[3]
    assert away == [0, 0, 0, 0]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    assert means(normal(300, 4, 1)[order], b) == pytest.approx(same)
    with pytest.raises(ValueError, match="at least 6 rows in each set, got 5 and 300"):
        manifolds(b[:5], b)
