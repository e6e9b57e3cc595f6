"""Measures between generated and true embeddings (method section 5).

A cosine to the true embedding alone can be gamed, because the mean wins: report beside it the cosine to unrelated
embeddings, the ratios of norm and variance, and the retrieval rank.

Symbols: a = generated, b = true embeddings, row i of a belongs to row i of b: [batch, embed];
``block_dims`` = widths of the concatenated CLIP models, in order; they add up to embed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

RETRIEVAL_RANKS = (1, 5, 10)
_TIE = 1e-6  # cosines nearer than this are equal: more than rounding


def blocks_of(embeddings: Float[Tensor, "batch embed"], block_dims: Sequence[int]) -> tuple[Tensor, ...]:
    """Split concatenated embeddings into one block per CLIP model.

    Raises:
        ValueError: the block widths do not add up to the embedding's width.
    """
    if sum(block_dims) != embeddings.shape[-1]:
        raise ValueError(
            f"similarity: block_dims {list(block_dims)} add up to {sum(block_dims)}, "
            f"but the embeddings have {embeddings.shape[-1]} dimensions; give one width per CLIP model"
        )
    return torch.split(embeddings, list(block_dims), dim=-1)


def block_cosine(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return the cosine of each pair of rows, taken per block and averaged over the blocks."""
    pairs = zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)
    return torch.stack([F.cosine_similarity(x, y, dim=-1) for x, y in pairs]).mean(0)


def unrelated_cosine(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return each row's mean block cosine to ALL the other pairs' true embeddings (no shuffle, so no luck).

    Raises:
        ValueError: there are fewer than two pairs.
    """
    count = a.shape[0]
    if count < 2:
        raise ValueError(f"similarity: unrelated pairs need at least 2 embeddings, got {count}")
    pairs = zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)
    per_block = []
    for x, y in pairs:
        x_hat, y_hat = F.normalize(x, dim=-1), F.normalize(y, dim=-1)
        own = (x_hat * y_hat).sum(-1)  # cos(a_i, b_i): [batch]
        per_block.append((x_hat @ y_hat.sum(0) - own) / (count - 1))  # mean over j != i
    return torch.stack(per_block).mean(0)


def retrieval_ranks(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> Float[Tensor, "batch"]:
    """Return the rank (1 = best) of each row's true embedding among all true embeddings, by block cosine.

    A true embedding that ties with others takes the last of their ranks, so that a constant answer scores nothing.
    """
    pairs = zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)
    scores = torch.stack([F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T for x, y in pairs]).mean(0)
    return (scores >= scores.diagonal()[:, None] - _TIE).sum(1).to(a.dtype)


def embedding_report(
    a: Float[Tensor, "batch embed"], b: Float[Tensor, "batch embed"], block_dims: Sequence[int]
) -> dict[str, float]:
    """Return every measure as named numbers.

    ``cosine_true`` and ``cosine_unrelated`` are averaged over blocks (``cosine_true_block_<i>`` gives each);
    ``norm_ratio`` = mean norm of a / mean norm of b; ``variance_ratio`` = total variance of a / total variance of b;
    ``retrieval_at_<r>`` = share of rows whose true embedding ranks r or better.
    """
    a, b = a.double(), b.double()
    ranks = retrieval_ranks(a, b, block_dims)
    report = {
        "cosine_true": block_cosine(a, b, block_dims).mean(),
        "cosine_unrelated": unrelated_cosine(a, b, block_dims).mean(),
        "norm_ratio": a.norm(dim=-1).mean() / b.norm(dim=-1).mean(),
        "variance_ratio": a.var(0).sum() / b.var(0).sum(),
        **{f"retrieval_at_{r}": (ranks <= r).double().mean() for r in RETRIEVAL_RANKS},
    }
    if len(block_dims) > 1:
        for i, (x, y) in enumerate(zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)):
            report[f"cosine_true_block_{i}"] = F.cosine_similarity(x, y, dim=-1).mean()
    return {name: float(value) for name, value in report.items()}
