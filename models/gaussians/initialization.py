"""Where k-means starts: rows of a sample, chosen as k-means++ chooses them, many at a time, and a few iterations there.

k-means++ (Arthur and Vassilvitskii 2007) chooses one row after another, each in proportion to D^2, its squared distance
to the nearest mean so far; so each of k choices is a pass over the sample. Here a batch is chosen by the D^2 of before
the batch, and each row is kept with probability D^2 now / D^2 before. A kept row then has exactly the distribution
that k-means++ asks for (rejection sampling), and distances are updated for a batch at a time, by matrix products.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from models.gaussians.kmeans import Kind, KMeansState, MakePass, moved_means
from models.gaussians.nearest import squared_distances
from models.noise import folded_seed

_BATCH_FRACTION = 4  # a batch is this part of the means so far: few of its rows are rejected
_LARGEST_BATCH = 1024
_COMPARED_AT_ONCE = 256  # rows of the sample, with a batch of means


class Sample(Protocol):
    """Embeddings that need not be in memory, as k-means sees them (on the unit sphere where spherical), float32."""

    @property
    def origin(self) -> Float[Tensor, "embed"]:
        """Their mean."""
        ...

    @property
    def scale(self) -> Float[Tensor, "embed"]:
        """Root mean square of the embeddings themselves, on the sphere or not."""
        ...

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def map(self, function: Callable[[Float[Tensor, "rows embed"]], Tensor], size: int) -> Iterator[Tensor]:
        """Apply a function to all, so many at a time, in threads or not; yield the results in order."""
        ...

    def pick(self, rows: Int[Tensor, "picked"]) -> Float[Tensor, "picked embed"]:
        """Read some."""
        ...


def generator_of(seed: int) -> torch.Generator:
    """Return a generator that begins with all bits of a seed >= 0."""
    return torch.Generator().manual_seed(folded_seed(seed))


def initialize_on_sample(
    sample: Sample, make_pass: MakePass, num_gaussians: int, seed: int, kind: Kind = "euclidean", *, iterations: int
) -> KMeansState:
    """Choose first means and move them by some of Lloyd's iterations on the sample, which ``make_pass`` goes over."""
    generator = generator_of(seed)
    means = initial_means(sample, num_gaussians, generator)
    for _ in range(iterations):
        moments = make_pass(KMeansState(means, sample.scale), False)
        means = moved_means(moments, kind, lambda filled, count: further_means(sample, filled, count, generator))
        del moments  # before the next pass makes its own
    return KMeansState(means, sample.scale)


def initial_means(sample: Sample, num_gaussians: int, generator: torch.Generator) -> Float[Tensor, "gauss embed"]:
    """Choose rows of the sample as first means: the first one evenly, the others by :func:`further_means`."""
    first = (torch.rand(1, generator=generator, dtype=torch.float64) * len(sample)).long()
    means = sample.pick(first)
    return torch.cat([means, further_means(sample, means, num_gaussians - 1, generator)])


def further_means(
    sample: Sample, means: Float[Tensor, "gauss embed"], count: int, generator: torch.Generator
) -> Float[Tensor, "count embed"]:
    """Return ``count`` rows of the sample, each in proportion to its squared distance to the nearest mean so far.

    Rows count as equal where float32 does not distinguish their distance from zero (a thousandth of their norms).
    """
    squared = torch.full((len(sample),), torch.inf)
    _lower(squared, sample, means)
    found, done = means.new_empty(count, means.shape[1]), 0
    while done < count:
        cumulative = squared.double().cumsum(0)
        known = len(means) + done
        if not cumulative[-1] > 0:
            raise ValueError(f"num_gaussians is {len(means) + count}, but only {known} different embeddings were found")
        batch = max(1, min(known // _BATCH_FRACTION, _LARGEST_BATCH, count - done))
        position, luck = torch.rand(2, batch, generator=generator, dtype=torch.float64)
        rows = torch.searchsorted(cumulative, position * cumulative[-1], right=True).clamp_max(len(sample) - 1)
        generated = sample.pick(rows)
        generated = generated[_kept(generated, squared[rows], luck, sample.origin)]
        _lower(squared, sample, generated)
        found[done : done + len(generated)] = generated
        done += len(generated)
    return found


def _kept(
    generated: Float[Tensor, "batch embed"],
    before: Float[Tensor, "batch"],
    luck: Float[Tensor, "batch"],
    origin: Tensor,
) -> Bool[Tensor, "batch"]:
    """Return which rows stay: each with the fraction of its D^2 that the rows kept before it in the batch have left."""
    between = squared_distances(generated, generated, origin)
    now, limits = before.clone(), luck * before
    kept = torch.zeros(len(generated), dtype=torch.bool)
    for row in range(len(generated)):
        if limits[row] < now[row]:
            kept[row] = True
            now = torch.minimum(now, between[row])
    return kept


def _lower(squared: Float[Tensor, "rows"], sample: Sample, means: Float[Tensor, "gauss embed"]) -> None:
    """Lower each row's squared distance to that of the nearest of these means, in place."""
    if not len(means):
        return

    def lowest(rows: Tensor) -> Tensor:
        return squared_distances(rows, means, sample.origin).amin(1)

    for part, found in zip(torch.split(squared, _COMPARED_AT_ONCE), sample.map(lowest, _COMPARED_AT_ONCE), strict=True):
        torch.minimum(part, found, out=part)
