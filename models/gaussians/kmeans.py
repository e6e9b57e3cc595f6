"""k-means in passes over data that need not fit in memory, and the deviations of the resulting Gaussians.

Lloyd's algorithm. A pass adds up, for each Gaussian, sums over its members; sums over two parts of the data add, so
parts may be computed anywhere. Sums are float64: embeddings have 24 significant bits or fewer and squares of them 48,
so that sums of them lose less than the embeddings themselves leave open. Everything is deterministic: same data, same
seed, same parts, same result.

Spherical k-means (Dhillon and Modha 2001) assigns by cosine: it runs on embeddings of unit length, and its means are
of unit length. The Gaussians are in either case the means and deviations of the embeddings themselves.

Symbols: x = embeddings [rows, embed], or x/|x| where spherical; m_j = current means [k, embed]; n_j = members of j.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.gaussians.nearest import Nearest, rows_at_once

Kind = Literal["euclidean", "spherical"]

MIN_MEMBERS = 8  # a Gaussian with fewer members borrows deviation from the pooled one
STD_FLOOR = 1e-4  # smallest deviation, as a share of the root mean square deviation over all dimensions
_ADDED_AT_ONCE = 128  # rows: what they take as float64 stays in a core's own cache


@dataclass
class Moments:
    """Sums over the members of each Gaussian (float64); ``second`` only where deviations are asked for."""

    counts: Float[Tensor, "gauss"]  # n_j
    first: Float[Tensor, "gauss embed"]  # sum of x
    energy: Float[Tensor, ""]  # sum of |x|^2 over all members of all Gaussians
    second: Float[Tensor, "gauss embed"] | None = None  # sum of x^2

    @classmethod
    def zero(cls, num_gaussians: int, embed_dim: int, *, deviations: bool = False) -> "Moments":
        """Return the sums over no data."""
        first = torch.zeros(num_gaussians, embed_dim, dtype=torch.float64)
        second = torch.zeros_like(first) if deviations else None
        return cls(torch.zeros(num_gaussians, dtype=torch.float64), first, torch.zeros((), dtype=torch.float64), second)

    def __iadd__(self, other: "Moments") -> "Moments":
        """Add the sums over another part of the data, assigned to the same means."""
        self.counts += other.counts
        self.first += other.first
        self.energy += other.energy
        if self.second is not None and other.second is not None:
            self.second += other.second
        return self

    def add_rows(self, x: Float[Tensor, "rows embed"], index: Int[Tensor, "rows"]) -> None:
        """Add rows with the Gaussians that they belong to."""
        self.counts += torch.bincount(index, minlength=len(self.counts))
        for part, of in zip(torch.split(x, _ADDED_AT_ONCE), torch.split(index, _ADDED_AT_ONCE), strict=True):
            exact = part.to(torch.float64, copy=True)
            self.first.index_add_(0, of, exact)
            self.energy += torch.dot(exact.flatten(), exact.flatten())
            if self.second is not None:
                self.second.index_add_(0, of, exact.square_())

    def inertia(self, means: Float[Tensor, "gauss embed"]) -> float:
        """Return sum |x - m_j|^2 = sum |x|^2 - 2 sum_j m_j . sum x + sum_j n_j |m_j|^2: what k-means makes small."""
        between = (self.counts * means.square().sum(1)).sum() - 2 * (means * self.first).sum()
        return max(0.0, float(self.energy + between))


@dataclass(frozen=True)
class FittedGaussians:
    """The outcome: float32 means and deviations, member counts, and the inertia found by each pass but the last."""

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


class Pass:
    """One pass over the data: adds up parts of it. ``last`` asks for deviations, of the embeddings themselves."""

    def __init__(self, nearest: Nearest, kind: Kind = "euclidean", *, last: bool = False) -> None:
        """Prepare for these means (of unit length where spherical)."""
        self.total = Moments.zero(*nearest.shape, deviations=last)
        self._nearest = nearest
        self._kind = kind
        self._raw = last or kind == "euclidean"

    def add(self, embeddings: Float[Tensor, "rows embed"]) -> None:
        """Assign rows to their nearest means and add them up."""
        for rows in torch.split(embeddings, rows_at_once(*self._nearest.shape)):
            self.total.add_rows(*self.assign(rows))

    def assign(
        self, embeddings: Float[Tensor, "rows embed"]
    ) -> tuple[Float[Tensor, "rows embed"], Int[Tensor, "rows"]]:
        """Return what is to be added up of these rows, and their nearest means; threads may ask side by side."""
        x = placed(embeddings, self._kind)
        return embeddings if self._raw else x, self._nearest(x)


def placed(embeddings: Float[Tensor, "rows embed"], kind: Kind) -> Float[Tensor, "rows embed"]:
    """Return the embeddings where k-means sees them: as they are, or (spherical) on the unit sphere."""
    return embeddings if kind == "euclidean" else F.normalize(embeddings.float(), dim=1)


def moments_of(
    embeddings: Float[Tensor, "rows embed"],
    means: Float[Tensor, "gauss embed"],
    kind: Kind = "euclidean",
    *,
    last: bool = False,
) -> Moments:
    """Make one pass over embeddings in memory."""
    one_pass = Pass(Nearest(means), kind, last=last)
    one_pass.add(embeddings)
    return one_pass.total


MakePass = Callable[[Tensor, bool], Moments]
Refill = Callable[[int, Tensor, int], Tensor]
Watch = Callable[[KMeansState, Tensor], None]


def fit_kmeans(
    state: KMeansState,
    make_pass: MakePass,
    refill: Refill,
    *,
    max_iterations: int,
    tolerance: float,
    kind: Kind = "euclidean",
    watch: Watch = lambda state, counts: None,
) -> FittedGaussians:
    """Run Lloyd's iterations from a state; the last one measures the Gaussians too.

    Args:
        state: where to go on.
        make_pass: ``make_pass(means, last)`` makes one pass over all data.
        refill: ``refill(number, means, count)`` finds so many new means far from these, in pass ``number``.
        max_iterations: most passes over the data, all told.
        tolerance: a pass that lowers the inertia by no more than this share of it is followed by the last one.
        kind: how the means were placed.
        watch: sees the state and the member counts after each pass but the last.
    """
    while len(state.inertias) < max_iterations - 1 and not state.converged(tolerance):
        moments = make_pass(state.means, False)
        means = moved_means(moments, kind, functools.partial(refill, len(state.inertias) + 1))
        state = KMeansState(means, (*state.inertias, moments.inertia(state.means)))
        watch(state, moments.counts)
    moments = make_pass(state.means, True)
    length = (moments.energy / moments.counts.sum()).sqrt() if kind == "spherical" else 1.0
    means = torch.where(moments.counts[:, None] > 0, _centres(moments), state.means * length)
    return FittedGaussians(
        means.float(), deviations(moments).float(), moments.counts.long(), state.inertias, state.converged(tolerance)
    )


def moved_means(moments: Moments, kind: Kind, refill: Callable[[Tensor, int], Tensor]) -> Float[Tensor, "gauss embed"]:
    """Move every mean to the centre of its members; ``refill(means, count)`` finds new ones for those without any."""
    means = _centres(moments)
    if kind == "spherical":
        means = F.normalize(means, dim=1)
    empty = moments.counts == 0
    if empty.any():
        means[empty] = refill(means[~empty], int(empty.sum())).to(means)
    return means


def _centres(moments: Moments) -> Float[Tensor, "gauss embed"]:
    return moments.first / moments.counts.clamp_min(1)[:, None]


def deviations(moments: Moments) -> Float[Tensor, "gauss embed"]:
    """Return the standard deviation of each Gaussian's members in each dimension (divided by n, as numpy does).

    With v_j the members' variance and v the variance pooled over all Gaussians, fewer than m = MIN_MEMBERS members
    give the blend (n_j v_j + (m - n_j) v) / m. No deviation falls below STD_FLOOR of the pooled root mean square.

    Raises:
        ValueError: the moments were taken without squares, or all embeddings of every Gaussian are equal, so that
            there is no deviation at all.
    """
    if moments.second is None:
        raise ValueError("deviations: the moments hold no squares: take them in a pass with last=True")
    counts = moments.counts[:, None]
    scatter = (moments.second - moments.first.square() / counts.clamp_min(1)).clamp_min(0)  # n_j v_j: [k, embed]
    pooled = scatter.sum(0) / counts.sum()  # [embed]
    scale = pooled.mean().sqrt()
    # Below a ten-millionth of the embeddings' own length it is what rounding leaves of equal ones.
    if not scale > 1e-7 * (moments.energy / counts.sum() / len(pooled)).sqrt():
        raise ValueError(
            f"every one of the {len(counts)} Gaussians holds copies of a single embedding, so that none has a "
            "deviation; give more images or fewer Gaussians"
        )
    blended = (scatter + (MIN_MEMBERS - counts).clamp_min(0) * pooled) / counts.clamp_min(MIN_MEMBERS)
    return blended.sqrt().clamp_min(float(STD_FLOOR * scale))
