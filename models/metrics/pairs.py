"""The figures of :func:`models.similarity.embedding_report` with their bootstrapped intervals.

Symbols: a = generated, b = true embeddings, row i of a belongs to row i of b: [batch, embed].
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from models.metrics.intervals import Interval, mean_interval, percentile_interval, resampled_means
from models.similarity import (
    RETRIEVAL_RANKS,
    block_cosine,
    blocks_of,
    centred_cosine,
    require_finite_rows,
    retrieval_ranks,
    unrelated_columns,
)


class PairFigure(NamedTuple):
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


def pair_figures(
    a: Float[Tensor, "batch embed"],
    b: Float[Tensor, "batch embed"],
    block_dims: Sequence[int],
    *,
    seed: int,
    groups: Int[Tensor, " batch"] | None = None,
) -> dict[str, PairFigure]:
    """Return every measure of pairs by the name that embedding_report gives it; pairs are resampled together.

    ``groups`` are those of related pairs, as embedding_report takes them.
    """
    require_finite_rows(generated=a, true=b)
    a, b = a.double(), b.double()
    columns = _columns(a, b, block_dims) | unrelated_columns(a, b, block_dims, groups)
    measured = np.concatenate([np.stack([column.numpy() for column in columns.values()], 1), a.numpy(), b.numpy()], 1)
    resampled = np.concatenate([measured.mean(0, keepdims=True), resampled_means(measured, seed)])  # row 0: the figure
    means = dict(zip(columns, resampled.T, strict=False))
    centre_a, centre_b = np.split(resampled[:, len(columns) :], 2, axis=1)
    spread_a = means.pop("square_a") - np.square(centre_a).sum(1)  # E|x|^2 - |E x|^2, the variance in all
    spread_b = means.pop("square_b") - np.square(centre_b).sum(1)
    means["norm_ratio"] = means.pop("norm_a") / means.pop("norm_b")
    with np.errstate(divide="ignore", invalid="ignore"):
        means["variance_ratio"] = spread_a / spread_b
    return {name: PairFigure(float(values[0]), *_interval(columns, name, values[1:])) for name, values in means.items()}


def _interval(columns: Mapping[str, Tensor], name: str, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """Return the interval of a mean of one of the columns, or of what several were put together to."""
    if name not in columns:
        return percentile_interval(resampled)
    return mean_interval(columns[name].numpy(), resampled, is_fraction=name.startswith("retrieval_at_"))


def _columns(a: Tensor, b: Tensor, block_dims: Sequence[int]) -> dict[str, Tensor]:
    """Return what is averaged, a number for each pair."""
    ranks = retrieval_ranks(a, b, block_dims)
    columns = {
        "cosine_true": block_cosine(a, b, block_dims),
        "cosine_centred": centred_cosine(a, b, block_dims),
        **{f"retrieval_at_{r}": (ranks <= r).double() for r in RETRIEVAL_RANKS},
        "norm_a": a.norm(dim=-1),
        "norm_b": b.norm(dim=-1),
        "square_a": a.square().sum(-1),
        "square_b": b.square().sum(-1),
    }
    if len(block_dims) > 1:
        for i, (x, y) in enumerate(zip(blocks_of(a, block_dims), blocks_of(b, block_dims), strict=True)):
            columns[f"cosine_true_block_{i}"] = block_cosine(x, y, [x.shape[-1]])
    return columns
