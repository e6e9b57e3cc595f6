import pytest
import torch
from torch.nn import functional as F

from models.similarity import block_cosine, embedding_report, retrieval_ranks, unrelated_cosine


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
    with pytest.raises(ValueError, match="at least 2"):
        unrelated_cosine(a[:1], b[:1], [6])


def test_the_mean_of_all_wins_no_rank() -> None:
    _, b = make()
    assert retrieval_ranks(b, b, [6]).tolist() == [1] * 20
    constant = b.mean(0).expand_as(b)
    assert embedding_report(constant, b, [6])["retrieval_at_1"] <= 0.1
    assert retrieval_ranks(b, torch.ones_like(b), [6]).tolist() == [20] * 20


def test_report_of_a_perfect_and_of_a_doubled_answer() -> None:
    _, b = make()
    report = embedding_report(2 * b, b, [2, 4])
    assert report["cosine_true"] == pytest.approx(1)
    assert report["cosine_true_block_1"] == pytest.approx(1)
    assert report["norm_ratio"] == pytest.approx(2)
    assert report["variance_ratio"] == pytest.approx(4)
    assert report["retrieval_at_1"] == 1


def test_blocks_must_add_up() -> None:
    a, b = make()
    with pytest.raises(ValueError, match="add up to 5"):
        block_cosine(a, b, [2, 3])
