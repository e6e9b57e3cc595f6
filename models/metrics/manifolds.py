"""How far the manifolds of generated and true images cover each other, by balls around features.

The ball of a row reaches to its k-th nearest other row of its own set. Values come one for each row; a figure is their
mean.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NEIGHBOURS_OF_PRECISION = 3
NEIGHBOURS_OF_DENSITY = 5
_ROWS_AT_ONCE = 512


class Manifolds(NamedTuple):
    """Values of generated rows (precision, density) and of true rows (recall, coverage)."""

    precision: Float[Tensor, " rows"]
    """Whether a generated row lies in the ball of any true one (arXiv 1904.06991, eq. 2), k = 3."""
    recall: Float[Tensor, " others"]
    """Whether a true row lies in the ball of any generated one (the same), k = 3."""
    density: Float[Tensor, " rows"]
    """In how many balls of true rows a generated row lies, by k (arXiv 2002.09797, eq. 3), k = 5."""
    coverage: Float[Tensor, " others"]
    """Whether any generated row lies in the ball of a true one (the same, eq. 4), k = 5."""


def manifolds(a: Float[Tensor, "rows embed"], b: Float[Tensor, "others embed"]) -> Manifolds:
    """Return how generated rows ``a`` and true rows ``b`` cover each other; ValueError: there are too few."""
    least = NEIGHBOURS_OF_DENSITY + 1
    if min(len(a), len(b)) < least:
        raise ValueError(f"metrics: manifolds need at least {least} rows in each set, got {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    radius_a, radius_b = (_radii(x, NEIGHBOURS_OF_PRECISION) for x in (a, b))
    precision = _balls_around(a, b, radius_b) > 0
    recall = _balls_around(b, a, radius_a) > 0
    wide_b = _radii(b, NEIGHBOURS_OF_DENSITY)
    density = _balls_around(a, b, wide_b).double() / NEIGHBOURS_OF_DENSITY
    return Manifolds(precision.double(), recall.double(), density, _is_entered(b, wide_b, a).double())


def _radii(x: Tensor, neighbours: int) -> Float[Tensor, " rows"]:
    """Return the distance of each row from its k-th nearest other row."""
    parts = [
        torch.cdist(part, x).kthvalue(neighbours + 1).values for part in torch.split(x, _ROWS_AT_ONCE)
    ]  # itself is first
    return torch.cat(parts)


def _balls_around(points: Tensor, centres: Tensor, radii: Tensor) -> Int[Tensor, " points"]:
    """Return in how many balls each point lies."""
    return torch.cat([(torch.cdist(part, centres) <= radii).sum(1) for part in torch.split(points, _ROWS_AT_ONCE)])


def _is_entered(centres: Tensor, radii: Tensor, points: Tensor) -> Bool[Tensor, " centres"]:
    """Return which balls hold a point."""
    parts = zip(torch.split(centres, _ROWS_AT_ONCE), torch.split(radii, _ROWS_AT_ONCE), strict=True)
    return torch.cat([(torch.cdist(part, points) <= radius[:, None]).any(1) for part, radius in parts])
