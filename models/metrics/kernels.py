"""Squared maximum mean discrepancies of two sets of features, unbiased: KID and CMMD.

MMD^2 = sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1))
        - 2 sum_{i, j} k(x_i, y_j) / (n m)
(Gretton et al. 2012, eq. 3). It may fall below 0. The sums are kept by groups of rows, so that the figure without any
of the groups, of which its interval is made, costs nothing more.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from models.metrics.intervals import GROUPS
from models.similarity import CMMD_SIGMA, MMD_SCALE

Kernel = Callable[[Tensor, Tensor], Tensor]
_ROWS_AT_ONCE = 512


class Estimate(NamedTuple):
    """A figure, and what it would be without each group of rows; row i is of group i modulo their number."""

    value: float
    left_out: tuple[float, ...]
    """Empty where the sets are too small to leave a group out."""


def polynomial(x: Float[Tensor, "rows embed"], y: Float[Tensor, "others embed"]) -> Float[Tensor, "rows others"]:
    """Return (x . y / embed + 1)^3, the kernel of KID (arXiv 1801.01401, section 4)."""
    return (x @ y.T / x.shape[1] + 1).pow(3)


def gaussian(x: Float[Tensor, "rows embed"], y: Float[Tensor, "others embed"]) -> Float[Tensor, "rows others"]:
    """Return exp(-|x - y|^2 / (2 sigma^2)) with sigma 10 of rows of length 1, as CMMD has it (arXiv 2401.09603)."""
    return ((x @ y.T - 1) / CMMD_SIGMA**2).exp()  # |x - y|^2 = 2 - 2 x . y


def kid_estimate(a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"]) -> Estimate:
    """Return the kernel distance of two sets of features (KID)."""
    return mmd_estimate(a, b, polynomial)


def cmmd_estimate(a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"]) -> Estimate:
    """Return 1000 MMD^2 of CLIP embeddings scaled to length 1, with a Gaussian kernel of sigma 10 (CMMD)."""
    value, left_out = mmd_estimate(F.normalize(a.double(), dim=-1), F.normalize(b.double(), dim=-1), gaussian)
    return Estimate(MMD_SCALE * value, tuple(MMD_SCALE * one for one in left_out))


def mmd_estimate(
    a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"], kernel: Kernel, groups: int = GROUPS
) -> Estimate:
    """Return MMD^2 of two sets, and those without each group of rows."""
    if min(len(a), len(b)) < 2:
        raise ValueError(f"metrics: a kernel distance needs at least 2 rows in each set, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    within = tuple(_grouped_sums(x, x, kernel, groups, distinct=True) for x in (a, b))
    sums = (*within, _grouped_sums(a, b, kernel, groups, distinct=False))
    sizes = tuple(torch.bincount(torch.arange(len(x)) % groups, minlength=groups) for x in (a, b))
    everything = torch.ones(groups, dtype=torch.bool)
    value = _unbiased(sums, sizes, everything)
    if min(len(a), len(b)) < 2 * groups:
        return Estimate(value, ())
    others = (everything.index_fill(0, torch.tensor(group), False) for group in range(groups))
    return Estimate(value, tuple(_unbiased(sums, sizes, kept) for kept in others))


def _grouped_sums(x: Tensor, y: Tensor, kernel: Kernel, groups: int, *, distinct: bool) -> Tensor:
    """Return the sums of the kernel over each pair of groups, without pairs of a row with itself: [group, group]."""
    group_of_y = F.one_hot(torch.arange(len(y)) % groups, groups).double()
    total = x.new_zeros(groups, groups)
    for first in range(0, len(x), _ROWS_AT_ONCE):
        values = kernel(x[first : first + _ROWS_AT_ONCE], y)
        rows = torch.arange(first, first + len(values))
        if distinct:
            values[torch.arange(len(values)), rows] = 0
        total.index_add_(0, rows % groups, values @ group_of_y)
    return total


def _unbiased(sums: tuple[Tensor, ...], sizes: tuple[Tensor, ...], kept: Tensor) -> float:
    """Return MMD^2 of the groups that are kept."""
    within_a, within_b, across = (float(one[kept][:, kept].sum()) for one in sums)
    n, m = (int(size[kept].sum()) for size in sizes)
    return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * across / (n * m)
