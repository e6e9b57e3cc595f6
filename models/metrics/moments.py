"""Mean and covariance of features as sums that can be merged, and the Fréchet distance of two of them.

Symbols: m = mean: [embed]; S = sum of (x - m)(x - m)': [embed, embed]; n = rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """What a Fréchet distance needs to know of a set of features, in float64."""

    count: int
    mean: Float[Tensor, " embed"]
    scatter: Float[Tensor, "embed embed"]
    """Sum of the products (x - mean)(x - mean)' of all rows x."""

    @classmethod
    def of(cls, rows: Float[Tensor, "rows embed"]) -> "Moments":
        """Return those of some rows."""
        rows = rows.double()
        mean = rows.mean(0) if len(rows) else rows.new_zeros(rows.shape[1])
        centred = rows - mean
        return cls(len(rows), mean, centred.T @ centred)

    @classmethod
    def merged(cls, parts: "Iterable[Moments]") -> "Moments":
        """Return those of all rows of several parts; ValueError: there is no part."""
        total: Moments | None = None
        for part in parts:
            total = part if total is None else total + part
        if total is None:
            raise ValueError("moments: found no parts to merge: expected one or more")
        return total

    def __add__(self, other: "Moments") -> "Moments":
        """Merge two: n = n_a + n_b, S = S_a + S_b + n_a n_b / n (m_a - m_b)(m_a - m_b)' (Chan et al. 1979, eq. 2.1)."""
        count = self.count + other.count
        if count == 0:
            return self
        apart, fraction = other.mean - self.mean, other.count / count
        between = torch.outer(apart, apart) * (self.count * fraction)
        return Moments(count, self.mean + fraction * apart, self.scatter + other.scatter + between)

    def __sub__(self, part: "Moments") -> "Moments":
        """Take out a part that was merged before: :meth:`__add__` solved for one of the two."""
        count = self.count - part.count
        if count < 1:
            raise ValueError(f"moments: found {part.count} rows to take out of {self.count}: expected fewer")
        mean = (self.count * self.mean - part.count * part.mean) / count
        apart = part.mean - mean
        between = torch.outer(apart, apart) * (count * part.count / self.count)
        return Moments(count, mean, self.scatter - part.scatter - between)

    def covariance(self) -> Float[Tensor, "embed embed"]:
        """Return S / (n - 1); ValueError: there are fewer than 2 rows."""
        if self.count < 2:
            raise ValueError(f"moments: a covariance needs at least 2 rows, got {self.count}")
        return self.scatter / (self.count - 1)


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), both taken as Gaussian (arXiv 1706.08500, eq. 6).

    tr (C_a C_b)^(1/2) is the sum of the roots of the eigenvalues of C_a^(1/2) C_b C_a^(1/2), which is symmetric; those
    within rounding of 0, which sets of fewer rows than dimensions have, count as 0.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"moments: found features of {len(a.mean)} and {len(b.mean)} dimensions: expected those of one network"
        )
    c_a, c_b = a.covariance(), b.covariance()
    values, vectors = torch.linalg.eigh(c_a)
    root = (vectors * _above_rounding(values).sqrt()) @ vectors.T
    product = root @ c_b @ root
    shared = _above_rounding(torch.linalg.eigvalsh((product + product.T) / 2)).sqrt().sum()
    spread = (c_a.trace() + c_b.trace() - 2 * shared).clamp_min(0)  # below 0 by rounding alone
    return float((a.mean - b.mean).square().sum() + spread)


def _above_rounding(values: Tensor) -> Tensor:
    """Return eigenvalues, those that are 0 but for rounding as 0."""
    least = values.abs().max() * len(values) * torch.finfo(values.dtype).eps
    return torch.where(values > least, values, torch.zeros_like(values))
