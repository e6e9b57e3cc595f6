import pytest
import torch
from torch.nn import functional as F

from models.similarity import (
    block_cosine,
    centred_cosine,
    distance_report,
    diversity,
    embedding_report,
    frechet_distance,
    kid,
    mmd,
    reference_report,
    retrieval_ranks,
    unrelated_cosine,
)


def make(rows: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, rows, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a, b


def test_cosine_is_averaged_over_blocks() -> None:
    a, b = torch.tensor([[1.0, 0.0, 100.0, 0.0]]), torch.tensor([[0.0, 1.0, 100.0, 0.0]])
    assert block_cosine(a, b, [2, 2]).item() == pytest.approx(0.5)
    assert block_cosine(a, b, [4]).item() > 0.99


def test_unrelated_is_the_mean_over_all_other_pairs() -> None:
    a, b = make()
    matrix = torch.stack(
        [F.cosine_similarity(x[:, None], y[None], dim=-1) for x, y in ((a[:, :2], b[:, :2]), (a[:, 2:], b[:, 2:]))]
    )
    matrix = matrix.mean(0)
    expected = torch.stack([matrix[i][torch.arange(20) != i].mean() for i in range(20)])
    torch.testing.assert_close(unrelated_cosine(a, b, [2, 4]), expected)
    torch.testing.assert_close(unrelated_cosine(a[5:9], b, [2, 4], first=5), expected[5:9])
    with pytest.raises(ValueError, match="at least 2"):
        unrelated_cosine(a[:1], b[:1], [6])


def test_the_mean_of_all_wins_no_rank() -> None:
    _, b = make()
    assert retrieval_ranks(b, b, [6]).tolist() == [1] * 20
    constant = b.mean(0).expand_as(b)
    assert embedding_report(constant, b, [6])["retrieval_at_1"] <= 0.1
    assert retrieval_ranks(b, torch.ones_like(b), [6]).tolist() == [20] * 20


def test_report_of_a_perfect_and_of_a_doubled_prediction() -> None:
    _, b = make()
    report = embedding_report(2 * b, b, [2, 4])
    assert report["cosine_true"] == pytest.approx(1)
    assert report["cosine_true_block_1"] == pytest.approx(1)
    assert report["norm_ratio"] == pytest.approx(2)
    assert report["variance_ratio"] == pytest.approx(4)
    assert report["retrieval_at_1"] == 1
    blocks = [unrelated_cosine(2 * x, x, [x.shape[1]]).mean() for x in (b[:, :2], b[:, 2:])]
    assert [report[f"cosine_unrelated_block_{i}"] for i in (0, 1)] == pytest.approx([float(x) for x in blocks])


def test_blocks_must_add_up() -> None:
    a, b = make()
    with pytest.raises(ValueError, match="add up to 5"):
        block_cosine(a, b, [2, 3])


def normal(rows: int, embed: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, embed, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("rows", "others"), [(50, 40), (4, 5)])  # more rows than dimensions, and fewer
def test_frechet_distance_is_the_distance_of_two_gaussians(rows: int, others: int) -> None:
    a, b = normal(rows, 6, 0) * torch.arange(1, 7), normal(others, 6, 1) @ normal(6, 6, 2) + 1
    product = torch.cov(a.T) @ torch.cov(b.T)
    root = torch.linalg.eigvals(product).real.clamp_min(0).sqrt().sum()  # tr (C_a C_b)^(1/2)
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * root
    assert float(frechet_distance(a, b)) == pytest.approx(float(expected), rel=1e-6)
    assert float(frechet_distance(a + 2, a)) == pytest.approx(4 * 6)
    with pytest.raises(ValueError, match="at least 2 rows"):
        frechet_distance(a[:1], b)


def test_frechet_distance_is_biased_as_documented() -> None:
    rows, embed = 400, 40
    fractions = [float(frechet_distance(normal(rows, embed, s), normal(rows, embed, s + 9))) / embed for s in range(4)]
    assert sum(fractions) / 4 == pytest.approx(embed / (2 * rows), rel=0.3)
    assert 1 < float(frechet_distance(normal(20, 2000, 0), normal(20, 2000, 1))) / 2000 < 2.1


def test_mmd_is_the_mean_of_the_kernel_without_the_pairs() -> None:
    a, b = normal(7, 6, 0), normal(7, 6, 1) + 1

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(torch.exp(-(F.normalize(x, dim=0) - F.normalize(y, dim=0)).square().sum() / (2 * 0.5**2)))

    terms = [
        kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
        for x, y in ((a[:, :2], b[:, :2]), (a[:, 2:], b[:, 2:]))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    assert float(mmd(a, b, [2, 4], sigma=0.5)) == pytest.approx(1000 * sum(terms) / len(terms))
    assert float(mmd(b, b, [2, 4], sigma=None)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="at least 2 pairs"):
        mmd(a[:3], b, [6], sigma=1.0)


def test_mmd_of_one_distribution_is_zero_on_average() -> None:
    values = torch.tensor([float(mmd(normal(20, 6, s), normal(20, 6, s + 500), [6], sigma=None)) for s in range(300)])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 300**0.5
    assert float(values.min()) < 0


def test_only_the_narrow_kernel_sees_a_lost_spread() -> None:
    centre, spread = torch.full((6,), 2.0, dtype=torch.float64), normal(400, 6, 0)
    near, far = (float(mmd(centre + 0.2 * spread, centre + normal(400, 6, 1), [6], sigma=s)) for s in (None, 10.0))
    assert near > 50 * abs(far)


def test_kid_is_the_unbiased_mean_of_the_polynomial_kernel() -> None:
    a, b = normal(7, 3, 0), normal(5, 3, 1) + 1

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = [sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1)) for x, n in
              ((a, 7), (b, 5))]  # fmt: skip
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert float(kid(a, b)) == pytest.approx(sum(within) - 2 * across)
    with pytest.raises(ValueError, match="at least 2 rows in each set, got 1 and 5"):
        kid(a[:1], b)


def test_kid_of_one_distribution_is_zero_on_average_where_frechet_is_not() -> None:
    """Over 200 pairs of sets, within four standard errors of the mean."""
    values = torch.tensor([float(kid(normal(20, 8, s), normal(20, 8, s + 1000))) for s in range(200)])
    assert abs(values.mean()) < 4 * values.std() / 200**0.5
    assert min(float(frechet_distance(normal(20, 8, s), normal(20, 8, s + 1000))) for s in range(20)) > 1


def test_the_mean_has_no_centred_cosine() -> None:
    b = normal(200, 6, 0) + 10
    assert float(block_cosine(b.mean(0).expand_as(b) + 1e-3 * normal(200, 6, 1), b, [6]).mean()) > 0.9
    assert abs(float(centred_cosine(b.mean(0).expand_as(b) + 1e-3 * normal(200, 6, 1), b, [6]).mean())) < 0.15
    assert float(centred_cosine(b, b, [2, 4]).mean()) == pytest.approx(1)


def test_rows_that_are_not_finite_are_refused() -> None:
    a, b = normal(8, 4, 0), normal(8, 4, 1)
    a[3, 1] = float("nan")
    for report in (embedding_report, distance_report):
        with pytest.raises(ValueError, match="1 of 8 generated embeddings hold numbers that are not finite"):
            report(a, b, [4])


def test_diversity_is_the_mean_distance_of_one_captions_samples() -> None:
    samples = normal(12, 6, 0).reshape(4, 3, 6)
    expected = [
        1 - sum(float(block_cosine(one[i : i + 1], one[j : j + 1], [2, 4])) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
        for one in samples
    ]
    assert diversity(samples, [2, 4]).tolist() == pytest.approx(expected)
    alike = normal(50, 6, 0)[:, None].expand(50, 3, 6)
    assert (diversity(alike, [6]) >= 0).all()
    assert float(diversity(alike, [6]).max()) < 1e-12
    with pytest.raises(ValueError, match="at least 2 samples"):
        diversity(samples[:, :1], [6])


def test_distances_stand_beside_what_two_halves_of_the_truth_have() -> None:
    b = normal(200, 6, 0)
    reference = reference_report(b, [6])
    good, bad = (distance_report(a, b, [6]) for a in (normal(200, 6, 1), 0.3 * normal(200, 6, 1) + 1))
    assert good["frechet"] == pytest.approx(reference["frechet"], rel=1)
    assert all(bad[name] > 10 * max(reference[name], good[name]) for name in ("frechet", "cmmd", "mmd"))
    # A copy of the true embeddings is no better than others of their distribution: halves are compared crosswise.
    assert distance_report(b, b, [6])["frechet"] == pytest.approx(reference["frechet"])
    with pytest.raises(ValueError, match="at least 4"):
        distance_report(b[:3], b[:3], [6])
