"""k-means in passes over data that need not fit in memory, and the standard deviations of the resulting Gaussians.

Lloyd's algorithm. A pass adds up, for each Gaussian, sums over its members; sums over two parts of the data add, so
parts may be computed anywhere. They are float64 and exact (:mod:`models.gaussians.moments`), so that everything is
deterministic: same data, same seed, same result, however the data are cut and whoever adds them up.

Spherical k-means (Dhillon and Modha 2001) assigns by cosine: it runs on embeddings of unit length, and its means are
of unit length. The Gaussians are in either case the means and standard deviations of the embeddings themselves.

Symbols: x = embeddings [rows, embed], or x/|x| where spherical; m_j = current means [k, embed]; n_j = members of j.
"""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from models.gaussians.moments import Grid, Moments, parts
from models.gaussians.nearest import Nearest, rows_at_once

Kind = Literal["euclidean", "spherical"]

MIN_MEMBERS = 8  # a Gaussian with fewer members borrows variance from the pooled one
STD_FLOOR = 0.1  # smallest std in a dimension, as a fraction of the std pooled over all Gaussians there
_CONSTANT = 1e-4  # the same, where that is 0, as a fraction of its root mean square over all dimensions


@dataclass(frozen=True)
class FittedGaussians:
    """The outcome: float32 means and stds, member counts, and the inertia found by each pass but the last."""

    means: Float[Tensor, "gauss embed"]
    stds: Float[Tensor, "gauss embed"]
    counts: Int[Tensor, "gauss"]
    inertias: tuple[float, ...]
    converged: bool
    exact: bool  # whether no sum was rounded (:attr:`models.gaussians.moments.Moments.exact`)


@dataclass(frozen=True)
class KMeansState:
    """Everything needed to go on: the current means (float32) and the inertia of each pass so far."""

    means: Float[Tensor, "gauss embed"]
    scale: Float[Tensor, "embed"]  # about the root mean square of the embeddings; sets how finely they are added up
    inertias: tuple[float, ...] = ()

    def converged(self, tolerance: float) -> bool:
        """Return whether the last pass lowered the inertia by no more than this fraction of it."""
        if len(self.inertias) < 2:
            return False
        before, now = self.inertias[-2:]
        return before - now <= tolerance * before


class Pass:
    """One pass over the data: adds up parts of it. ``last`` asks for stds, of the embeddings themselves."""

    def __init__(self, state: KMeansState, rows: int, kind: Kind = "euclidean", *, last: bool = False) -> None:
        """Prepare for these means (of unit length where spherical) and so many rows in all."""
        self._kind = kind
        self._raw = last or kind == "euclidean"
        self._nearest = Nearest(state.means)
        grid = Grid.of(state.scale if self._raw else torch.ones_like(state.scale), rows)
        self.total = Moments.zero(len(state.means), grid, stds=last)
        self.rows_at_once = rows_at_once(*state.means.shape)
        self._adding = threading.Lock()

    def add(self, embeddings: Float[Tensor, "rows embed"]) -> None:
        """Assign rows to their nearest means and add them up; threads may do so side by side."""
        for rows in torch.split(embeddings, self.rows_at_once):
            x = placed(rows, self._kind)
            self.total.add_rows(rows if self._raw else x, self._nearest(x), self._adding)


def placed(embeddings: Float[Tensor, "rows embed"], kind: Kind) -> Float[Tensor, "rows embed"]:
    """Return the embeddings where k-means sees them: as they are, or (spherical) on the unit sphere."""
    return embeddings if kind == "euclidean" else F.normalize(embeddings.float(), dim=1)


MakePass = Callable[[KMeansState, bool], Moments]
Refill = Callable[[int, Tensor, int], Tensor]
Report = Callable[[KMeansState, Tensor], None]


def fit_kmeans(
    state: KMeansState,
    make_pass: MakePass,
    refill: Refill,
    *,
    max_iterations: int,
    tolerance: float,
    kind: Kind = "euclidean",
    report: Report = lambda state, counts: None,
) -> FittedGaussians:
    """Run Lloyd's iterations from a state; the last one measures the Gaussians too.

    Args:
        state: where to go on.
        make_pass: ``make_pass(state, last)`` makes one pass over all data.
        refill: ``refill(number, means, count)`` finds so many new means far from these, in pass ``number``.
        max_iterations: most passes over the data in all.
        tolerance: a pass that lowers the inertia by no more than this fraction of it is followed by the last one.
        kind: how the means were placed.
        report: is given the state and the member counts after each pass but the last.
    """
    while len(state.inertias) < max_iterations - 1 and not state.converged(tolerance):
        moments = make_pass(state, False)
        means = moved_means(moments, kind, functools.partial(refill, len(state.inertias) + 1))
        state = KMeansState(means, state.scale, (*state.inertias, moments.inertia(state.means)))
        report(state, moments.counts)
        del moments  # before the next pass makes its own
    moments = make_pass(state, True)
    stds, exact = member_stds(moments), moments.exact
    moments.second = None  # the largest matrix is of no more use
    means, empty = _centres(moments), moments.counts == 0
    length = (moments.energy / moments.counts.sum()).sqrt() if kind == "spherical" else 1.0
    means[empty] = (state.means[empty] * length).float()
    return FittedGaussians(means, stds, moments.counts.long(), state.inertias, state.converged(tolerance), exact)


def moved_means(moments: Moments, kind: Kind, refill: Callable[[Tensor, int], Tensor]) -> Float[Tensor, "gauss embed"]:
    """Move every mean to the centre of its members; ``refill(means, count)`` finds new ones for those without any."""
    means = _centres(moments)
    if kind == "spherical":
        means = F.normalize(means, dim=1)
    empty = moments.counts == 0
    if empty.any():
        means[empty] = refill(means[~empty], int(empty.sum()))
    return means


def _centres(moments: Moments) -> Float[Tensor, "gauss embed"]:
    means = torch.empty(moments.first.shape)
    for part in parts(means):
        means[part] = moments.first[part] / moments.counts[part, None].clamp_min(1)
    return means


def member_stds(moments: Moments) -> Float[Tensor, "gauss embed"]:
    """Return the standard deviation of each Gaussian's members in each dimension (divided by n, as numpy does).

    With v_j the members' variance and v the variance pooled over all Gaussians, fewer than m = MIN_MEMBERS members
    give the blend (n_j v_j + (m - n_j) v) / m. No std falls below STD_FLOOR of the pooled one: a process that ends in a
    Gaussian much narrower than sqrt(abar_T) |z_0 - mu| starts with less noise than there is signal left, and so
    returns mu whatever the caption. Nor does any fall below a ten-thousandth of the pooled root mean square.
    """
    num_gaussians, embed_dim = moments.first.shape
    of_parts = torch.stack([_scatter(moments, part).sum(0) for part in parts(moments.first)])
    pooled = of_parts.sum(0) / moments.counts.sum()  # [embed]
    scale = pooled.mean().sqrt()
    # Below a ten-millionth of the embeddings' own length it is what rounding leaves of equal ones.
    if not scale > 1e-7 * (moments.energy / moments.counts.sum() / embed_dim).sqrt():
        raise ValueError(
            f"every one of the {num_gaussians} Gaussians holds copies of a single embedding, so that their "
            "standard deviation is 0; give more images or fewer Gaussians"
        )
    floor = torch.maximum(STD_FLOOR * pooled.sqrt(), _CONSTANT * scale)  # [embed]
    stds = torch.empty(num_gaussians, embed_dim)
    for part in parts(moments.first):
        counts = moments.counts[part, None]
        blended = _scatter(moments, part) + (MIN_MEMBERS - counts).clamp_min(0) * pooled
        stds[part] = (blended / counts.clamp_min(MIN_MEMBERS)).sqrt().maximum(floor)
    return stds


def _scatter(moments: Moments, part: slice) -> Float[Tensor, "part embed"]:
    """Return n_j v_j of some Gaussians."""
    if moments.second is None:
        raise ValueError("standard deviations: the moments hold no squares: take them in a pass with last=True")
    counts = moments.counts[part, None].clamp_min(1)
    return (moments.second[part] - moments.first[part].square() / counts).clamp_min(0)
