"""Where k-means starts: rows of a sample drawn as k-means++ draws them, many at a time, and a few iterations there.

k-means++ (Arthur and Vassilvitskii 2007) draws one row after another, each in proportion to D^2, its squared distance
to the nearest mean so far; so each of k draws is a pass over the sample. Here a batch is drawn from the D^2 of before
the batch, and each draw is kept with probability D^2 now / D^2 before. A kept draw then has exactly the distribution
that k-means++ asks for (rejection sampling), and distances are updated for a batch at a time, by matrix products.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.gaussians.kmeans import Kind, moments_of, moved_means, placed
from models.gaussians.nearest import rows_at_once, squared_distances

_BATCH_SHARE = 4  # a batch is this part of the means so far: few of its draws are rejected
_LARGEST_BATCH = 1024


def start_on_sample(
    sample: Float[Tensor, "rows embed"], num_gaussians: int, seed: int, kind: Kind = "euclidean", *, iterations: int
) -> Float[Tensor, "gauss embed"]:
    """Choose first means and move them by some of Lloyd's iterations on the sample.

    Raises:
        ValueError: the sample holds fewer different rows than Gaussians are asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    sample = placed(sample, kind)
    means = starting_means(sample, num_gaussians, generator)
    for _ in range(iterations):
        moments = moments_of(sample, means, kind)
        means = moved_means(moments, kind, lambda filled, count: further_means(sample, filled, count, generator))
    return means


def starting_means(
    sample: Float[Tensor, "rows embed"], num_gaussians: int, generator: torch.Generator
) -> Float[Tensor, "gauss embed"]:
    """Choose rows of the sample as first means: the first one evenly, the others by :func:`further_means`.

    Raises:
        ValueError: the sample holds fewer different rows than Gaussians are asked for.
    """
    first = int(torch.rand((), generator=generator, dtype=torch.float64) * len(sample))
    means = sample[first : first + 1]
    return torch.cat([means, further_means(sample, means, num_gaussians - 1, generator)]).double()


def further_means(
    sample: Float[Tensor, "rows embed"],
    means: Float[Tensor, "gauss embed"],
    count: int,
    generator: torch.Generator,
) -> Float[Tensor, "count embed"]:
    """Draw ``count`` rows of the sample, each in proportion to its squared distance to the nearest mean so far.

    Rows count as equal where float32 does not tell their distance from zero (a thousandth of their norms).

    Raises:
        ValueError: the sample has too few rows that differ from all means.
    """
    origin = sample.mean(0)
    squared = torch.full((len(sample),), torch.inf)
    _lower(squared, sample, means.float(), origin)
    found: list[Tensor] = []
    known, wanted = len(means), len(means) + count
    while known < wanted:
        cumulative = squared.double().cumsum(0)
        if not cumulative[-1] > 0:
            raise ValueError(f"num_gaussians is {wanted}, but only {known} different embeddings were found")
        batch = max(1, min(known // _BATCH_SHARE, _LARGEST_BATCH, wanted - known))
        place, luck = torch.rand(2, batch, generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(cumulative, place * cumulative[-1], right=True).clamp_max(len(sample) - 1)
        rows = rows[_kept(sample[rows], squared[rows], luck, origin)]
        _lower(squared, sample, sample[rows], origin)
        found.append(sample[rows])
        known += len(rows)
    return torch.cat(found) if found else sample[:0]


def _kept(
    drawn: Float[Tensor, "batch embed"], before: Float[Tensor, "batch"], luck: Float[Tensor, "batch"], origin: Tensor
) -> Bool[Tensor, "batch"]:
    """Tell which draws stay: each with the share of its D^2 that the draws kept before it in the batch have left."""
    between = squared_distances(drawn, drawn, origin)
    now, limits = before.clone(), luck * before
    kept = torch.zeros(len(drawn), dtype=torch.bool)
    for row in range(len(drawn)):
        if limits[row] < now[row]:
            kept[row] = True
            now = torch.minimum(now, between[row])
    return kept


def _lower(squared: Tensor, sample: Tensor, means: Tensor, origin: Tensor) -> None:
    """Lower each row's squared distance to that of the nearest of these means, in place."""
    if not len(means):
        return
    size = rows_at_once(*means.shape)
    for part, rows in zip(torch.split(squared, size), torch.split(sample, size), strict=True):
        torch.minimum(part, squared_distances(rows, means, origin).amin(1), out=part)
