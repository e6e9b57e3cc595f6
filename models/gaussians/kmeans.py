"""k-means in passes over data that need not fit in memory, and the deviations of the resulting Gaussians.

Lloyd's algorithm; starting means by k-means++ (Arthur and Vassilvitskii 2007) on a sample. A pass adds up, for each
Gaussian, moments of its members about the current means; moments of two parts of the data add, so parts may be
computed anywhere. Sums are float64. Everything is deterministic: same data, same seed, same parts, same result.

Symbols: x = embeddings [rows, embed]; m_j = current means [k, embed]; n_j = members of j.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_MEMBERS = 8  # a Gaussian with fewer members borrows deviation from the pooled one
STD_FLOOR = 1e-4  # smallest deviation, as a share of the root mean square deviation over all dimensions
_ROWS_AT_ONCE = 16_384  # bounds the [rows, k] distance matrix


@dataclass
class Moments:
    """Sums over the members of each Gaussian, about the means that the members were assigned to (float64)."""

    counts: Float[Tensor, "gauss"]  # n_j
    first: Float[Tensor, "gauss embed"]  # sum of (x - m_j)
    second: Float[Tensor, "gauss embed"]  # sum of (x - m_j)^2

    @classmethod
    def zero(cls, num_gaussians: int, embed_dim: int) -> "Moments":
        """Return the moments of no data."""
        sums = torch.zeros(num_gaussians, embed_dim, dtype=torch.float64)
        return cls(torch.zeros(num_gaussians, dtype=torch.float64), sums, sums.clone())

    def __iadd__(self, other: "Moments") -> "Moments":
        """Add the moments of another part of the data, taken about the same means."""
        self.counts += other.counts
        self.first += other.first
        self.second += other.second
        return self

    @property
    def inertia(self) -> float:
        """Sum of squared distances of all embeddings from their means: what k-means makes small."""
        return float(self.second.sum())


@dataclass(frozen=True)
class FittedGaussians:
    """The outcome: float32 means and deviations, member counts, and the inertia before each update of the means."""

    means: Float[Tensor, "gauss embed"]
    stds: Float[Tensor, "gauss embed"]
    counts: Int[Tensor, "gauss"]
    inertias: tuple[float, ...]
    converged: bool


@dataclass(frozen=True)
class KMeansState:
    """Everything needed to go on: the current means (float64) and the inertia of each pass so far."""

    means: Float[Tensor, "gauss embed"]
    inertias: tuple[float, ...] = ()

    def converged(self, tolerance: float) -> bool:
        """Tell whether the last pass lowered the inertia by no more than this share of it."""
        if len(self.inertias) < 2:
            return False
        before, now = self.inertias[-2:]
        return before - now <= tolerance * before


def squared_distances(
    x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"]
) -> Float[Tensor, "rows gauss"]:
    """Return |x - m_j|^2 = |x - c|^2 - 2 (x - c) . (m_j - c) + |m_j - c|^2, with c the mean of the means.

    The common origin c keeps the digits when embeddings share a large offset, as CLIP's do.
    """
    origin = means.mean(0)
    x, means = x - origin, means - origin
    products = x @ means.T  # [rows, k]
    return (x.square().sum(1, keepdim=True) - 2 * products + means.square().sum(1)).clamp_min(0)


def assign(x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"]) -> Int[Tensor, "rows"]:
    """Return the index of the nearest mean of each row; ties go to the lowest index."""
    means = means.to(x.dtype)
    return torch.cat([squared_distances(part, means).argmin(1) for part in torch.split(x, _ROWS_AT_ONCE)])


def moments_of(x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"]) -> Moments:
    """Assign each row to its nearest mean and add up the moments of each Gaussian's members."""
    total = Moments.zero(*means.shape)
    exact_means = means.double()
    for part in torch.split(x, _ROWS_AT_ONCE):
        index = assign(part, means)
        centred = part.double() - exact_means[index]
        total.counts += torch.bincount(index, minlength=len(means))
        total.first.index_add_(0, index, centred)
        total.second.index_add_(0, index, centred.square())
    return total


def starting_means(sample: Float[Tensor, "rows embed"], num_gaussians: int, seed: int) -> Float[Tensor, "gauss embed"]:
    """Choose rows of the sample as first means by k-means++: each in proportion to its squared distance so far.

    Raises:
        ValueError: the sample holds fewer different rows than Gaussians are asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(num_gaussians, generator=generator, dtype=torch.float64)
    chosen = [int(uniform[0] * len(sample))]
    nearest = _distance_to_row(sample, chosen[0])
    for number in range(1, num_gaussians):
        cumulative = nearest.cumsum(0)
        if not cumulative[-1] > 0:
            raise ValueError(f"num_gaussians is {num_gaussians}, but only {number} different embeddings were found")
        row = int(torch.searchsorted(cumulative, uniform[number] * cumulative[-1], right=True))
        chosen.append(min(row, len(sample) - 1))
        nearest = torch.minimum(nearest, _distance_to_row(sample, chosen[-1]))
    return sample[chosen].double()


def _distance_to_row(sample: Tensor, row: int) -> Tensor:
    """Exact squared distance of every row to one of them (zero for equal rows): float64 [rows]."""
    return (sample - sample[row]).square().sum(1).double()


def updated_means(
    means: Float[Tensor, "gauss embed"], moments: Moments, sample: Float[Tensor, "rows embed"]
) -> Float[Tensor, "gauss embed"]:
    """Move every mean to the centre of its members; an empty one to the sample's row farthest from all means."""
    updated = means + moments.first / moments.counts.clamp_min(1)[:, None]
    empty = (moments.counts == 0).nonzero().flatten().tolist()
    if empty:
        filled = updated[moments.counts > 0].to(sample.dtype)
        nearest = squared_distances(sample, filled).min(1).values
        for j in empty:
            row = int(nearest.argmax())
            updated[j] = sample[row].double()
            nearest = torch.minimum(nearest, _distance_to_row(sample, row).to(nearest.dtype))
    return updated


def fit_kmeans(
    state: KMeansState,
    sample: Float[Tensor, "rows embed"],
    moments_about: Callable[[Tensor], Moments],
    *,
    max_iterations: int,
    tolerance: float,
    on_iteration: Callable[[KMeansState], None] = lambda state: None,
) -> FittedGaussians:
    """Run Lloyd's iterations from a state, then measure the Gaussians in one last pass.

    ``moments_about(means)`` makes one pass over all data; ``on_iteration`` sees the state after each iteration.
    """
    while len(state.inertias) < max_iterations and not state.converged(tolerance):
        moments = moments_about(state.means)
        means = updated_means(state.means, moments, sample)
        state = KMeansState(means, (*state.inertias, moments.inertia))
        on_iteration(state)
    moments = moments_about(state.means)
    means = state.means + moments.first / moments.counts.clamp_min(1)[:, None]
    return FittedGaussians(
        means.float(), deviations(moments).float(), moments.counts.long(), state.inertias, state.converged(tolerance)
    )


def deviations(moments: Moments) -> Float[Tensor, "gauss embed"]:
    """Return the standard deviation of each Gaussian's members in each dimension (divided by n, as numpy does).

    With v_j the members' variance and v the variance pooled over all Gaussians, fewer than m = MIN_MEMBERS members
    give the blend (n_j v_j + (m - n_j) v) / m. No deviation falls below STD_FLOOR of the pooled root mean square.

    Raises:
        ValueError: all embeddings of every Gaussian are equal, so that there is no deviation at all.
    """
    counts = moments.counts[:, None]
    scatter = (moments.second - moments.first.square() / counts.clamp_min(1)).clamp_min(0)  # n_j v_j: [k, embed]
    pooled = scatter.sum(0) / counts.sum()  # [embed]
    scale = pooled.mean().sqrt()
    if not scale > 0:
        raise ValueError(
            f"every one of the {len(counts)} Gaussians holds copies of a single embedding, so that none has a "
            "deviation; give more images or fewer Gaussians"
        )
    blended = (scatter + (MIN_MEMBERS - counts).clamp_min(0) * pooled) / counts.clamp_min(MIN_MEMBERS)
    return blended.sqrt().clamp_min(float(STD_FLOOR * scale))
