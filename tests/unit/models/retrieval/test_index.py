"""The nearest of the embeddings that a decoder has learned from."""

import numpy as np
import pytest
import torch

from models.normalization import Normalization
from models.retrieval.model import EmbeddingIndex, joint_query
from models.retrieval.spec import IndexSpec, RetrievalSampling


def embeddings(num: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Return rows as CLIP gives them: one dimension has far larger numbers than the others."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.ones(dim)
    scale[0] = 30.0
    return torch.randn(num, dim, generator=generator) * scale + 5 * scale


def nearest_by_definition(queries: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    x, e = rows.double().numpy(), queries.double().numpy()
    mean, std = x.mean(0), x.std(0)
    a, b = ((z - mean) / std for z in (e, x))
    cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T
    return cosines.argmax(1)


@pytest.mark.parametrize("num", [1, 2, 300, 16_384, 40_001])  # less than a part, one part, several
def test_the_nearest_is_that_of_the_definition(num: int) -> None:
    rows, queries = embeddings(num, 12), embeddings(50, 12, seed=1)
    found = EmbeddingIndex.of(rows).nearest(queries)
    if num > 1:
        assert found.tolist() == nearest_by_definition(queries, rows).tolist()
    assert len(set(found.tolist())) > min(num, 40) // 2


def test_a_dimension_of_large_numbers_does_not_decide_alone() -> None:
    rows = torch.tensor([[100.0, -1.0], [-100.0, 1.0]])  # by the angle as it is, the first is nearer
    assert EmbeddingIndex.of(rows).nearest(torch.tensor([[50.0, 2.0]])).tolist() == [1]


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_the_weight_interpolates(weight: float) -> None:
    rows, queries = embeddings(100, 6), embeddings(9, 6, seed=1)
    index = EmbeddingIndex.of(rows)
    expected = (1 - weight) * queries + weight * rows[index.nearest(queries)]
    torch.testing.assert_close(index(queries, weight), expected)


def test_what_is_in_the_index_stays_where_it_is() -> None:
    rows = embeddings(500, 16)
    torch.testing.assert_close(EmbeddingIndex.of(rows)(rows, 1.0), rows, rtol=0, atol=0)


def test_the_others_of_a_batch_do_not_matter() -> None:
    index, queries = EmbeddingIndex.of(embeddings(1000, 16)), embeddings(64, 16, seed=1)
    alone = torch.cat([index(query[None], 1.0) for query in queries])
    assert torch.equal(index(queries, 1.0), alone)


def test_half_precision_is_kept_where_it_loses_nothing() -> None:
    rows = embeddings(10, 4)
    assert EmbeddingIndex.of(rows.half().float()).spec == IndexSpec(10, 4, "float16")
    assert EmbeddingIndex.of(rows).spec == IndexSpec(10, 4, "float32")
    assert torch.equal(EmbeddingIndex.of(rows).rows, rows)


def test_embeddings_that_are_all_equal_are_found() -> None:
    found = EmbeddingIndex.of(torch.full((3, 4), 7.0))(embeddings(2, 4), 1.0)
    assert torch.equal(found, torch.full((2, 4), 7.0))


@pytest.mark.parametrize(
    ("rows", "words"),
    [(torch.zeros(0, 4), "found 0: expected 1"), (torch.tensor([[1.0, torch.nan]]), "not finite")],
)
def test_no_index_is_made_of_none_or_of_numbers_that_are_not_finite(rows: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        EmbeddingIndex.of(rows)


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), float("inf")])
def test_weights_are_fractions(weight: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1, or none"):
        RetrievalSampling(weight)


def test_a_joint_query_is_that_of_the_definition() -> None:
    e, t, x, y, rows = (embeddings(num, 8, seed) for seed, num in enumerate((20, 20, 90, 70, 300)))
    scales = [Normalization(8), Normalization(8)]
    for scale, learned in zip(scales, (x, y), strict=True):
        scale.measure(learned)
    parts = []
    for one, learned in ((e, x), (t, y)):
        z = (one.double() - learned.double().mean(0)) / learned.double().std(0, correction=0)
        parts.append(z / z.norm(dim=1, keepdim=True))
    query, index = parts[0] + parts[1], (rows.double() - rows.double().mean(0)) / rows.double().std(0, correction=0)
    expected = (query @ (index / index.norm(dim=1, keepdim=True)).T).argmax(1)
    found = joint_query(e, t, *scales)
    torch.testing.assert_close(found, query.float(), rtol=1e-4, atol=1e-5)
    assert EmbeddingIndex.of(rows).nearest(e, found).tolist() == expected.tolist()
    assert expected.tolist() != EmbeddingIndex.of(rows).nearest(e).tolist()


def test_a_query_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="expected embedding or embedding_and_text, or none"):
        RetrievalSampling(1.0, "text")  # type: ignore[arg-type]
