import math

import pytest
import torch

from models.metrics.pairs import pair_figures
from models.similarity import embedding_report


def normal(rows: int, embed: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, embed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dims", [[6], [2, 4]])
def test_figures_of_pairs_are_those_of_the_report_within_their_intervals(dims: list[int]) -> None:
    b = normal(80, 6, 0) + 1
    a = b + 0.5 * normal(80, 6, 1)
    figures, report = pair_figures(a, b, dims, seed=0), embedding_report(a, b, dims)
    assert {name: one.value for name, one in figures.items()} == pytest.approx(report, rel=1e-9)
    assert all(one.low <= one.value <= one.high for name, one in figures.items() if "unrelated" not in name)
    assert figures["variance_ratio"].high - figures["variance_ratio"].low > 0.05
    assert figures == pair_figures(a, b, dims, seed=0)


@pytest.mark.parametrize("count", [2, 3])
def test_what_some_samples_of_few_pairs_do_not_have_has_no_interval(count: int) -> None:
    generated, true = torch.randn(2, count, 8, generator=torch.Generator().manual_seed(0))
    found = pair_figures(generated, true, [8], seed=0)
    assert math.isnan(found["variance_ratio"].low)
    assert math.isnan(found["variance_ratio"].high)
    assert found["cosine_true"].low <= found["cosine_true"].value <= found["cosine_true"].high


def test_intervals_narrow_with_the_number_of_pairs() -> None:
    def width(count: int) -> float:
        b = normal(count, 6, 0)
        one = pair_figures(b + normal(count, 6, 1), b, [6], seed=0)["cosine_true"]
        return one.high - one.low

    assert width(100) == pytest.approx(2 * width(400), rel=0.3)
