"""Sums over the members of each Gaussian that come out the same, to the bit, in whatever order they are added up.

Numbers are first rounded to multiples of a step, so fine that it is lost beside what the embeddings themselves leave
open, and so coarse that float64 holds every sum of them without rounding (pre-rounding: Demmel and Nguyen 2013, "Fast
Reproducible Floating-Point Summation"). So neither workers nor threads nor how the data are cut change a result, and
nobody has to wait for anybody's sums.

Symbols: x = embeddings [rows, embed]; N = rows in all; r = root mean square of x in each dimension; n_j = members of j.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_HEADROOM = 8  # how many times r may turn out to be what a grid was made for
_DIGITS = 53  # of float64
_FREE: AbstractContextManager[Any] = nullcontext()
_NUMBERS_AT_ONCE = 2**17  # what they take as float64 stays in a core's own cache


@dataclass(frozen=True)
class Grid:
    """The steps, powers of 2, of which the numbers that are added up are multiples (float64)."""

    values: Float[Tensor, "embed"]  # of x
    squares: Float[Tensor, "embed"]  # of x^2
    energy: Float[Tensor, ""]  # of |x|^2

    @classmethod
    def of(cls, scale: Float[Tensor, "embed"], rows: int) -> "Grid":
        """Make the finest grid for N rows of about this r.

        The sum of |x| over any rows is at most N r (Cauchy-Schwarz), and that of x^2 at most N r^2.
        """
        largest = _HEADROOM * scale.double()
        squares = rows * largest.square()
        return cls(_step(rows * largest), _step(squares), _step(squares.sum()))


def _step(largest: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    return torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - _DIGITS)


def _round(numbers: Float[Tensor, "..."], step: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Round to multiples of the step, in place: beside 1.5 * 2^52 steps float64 has no room for less than one."""
    shift = step * (1.5 * 2 ** (_DIGITS - 1))
    return numbers.add_(shift).sub_(shift)


@dataclass
class Moments:
    """Sums over the members of each Gaussian (float64); ``second`` only where standard deviations are asked for."""

    grid: Grid
    counts: Float[Tensor, "gauss"]  # n_j
    first: Float[Tensor, "gauss embed"]  # sum of x
    energy: Float[Tensor, ""]  # sum of |x|^2 over all members of all Gaussians
    second: Float[Tensor, "gauss embed"] | None = None  # sum of x^2

    @classmethod
    def zero(cls, num_gaussians: int, grid: Grid, *, stds: bool = False) -> "Moments":
        """Return the sums over no data."""
        counts = torch.zeros(num_gaussians, dtype=torch.float64)
        first = counts.new_zeros(num_gaussians, len(grid.values))
        second = torch.zeros_like(first) if stds else None
        return cls(grid, counts, first, counts.new_zeros(()), second)

    def __iadd__(self, other: "Moments") -> "Moments":
        """Add the sums over another part of the data, assigned to the same means, on the same grid."""
        self.counts += other.counts
        self.first += other.first
        self.energy += other.energy
        if self.second is not None and other.second is not None:
            self.second += other.second
        return self

    def add_rows(
        self, x: Float[Tensor, "rows embed"], index: Int[Tensor, "rows"], lock: AbstractContextManager[Any] = _FREE
    ) -> None:
        """Add rows with the Gaussians that they belong to; threads that do so side by side need a lock."""
        size = _rows_at_once(x.shape[1])
        energy = torch.empty(len(x), dtype=torch.float64)
        for part, of, energy_of in zip(*(torch.split(rows, size) for rows in (x, index, energy)), strict=True):
            values = part.to(torch.float64, copy=True)
            torch.linalg.vector_norm(values, dim=1, out=energy_of)
            _round(values, self.grid.values)
            with lock:
                self.first.index_add_(0, of, values)
            if self.second is not None:
                _round(values.square_(), self.grid.squares)
                with lock:
                    self.second.index_add_(0, of, values)
        counts = torch.bincount(index, minlength=len(self.counts))
        _round(energy.square_(), self.grid.energy)
        with lock:
            self.counts += counts
            self.energy += energy.sum()

    def inertia(self, means: Float[Tensor, "gauss embed"]) -> float:
        """Return sum |x - m_j|^2 = sum |x|^2 - 2 sum_j m_j . sum x + sum_j n_j |m_j|^2: what k-means makes small."""
        inertia = float(self.energy)
        for part in parts(means):
            m = means[part].double()
            inertia += float((self.counts[part] * m.square().sum(1)).sum() - 2 * (m * self.first[part]).sum())
        return max(0.0, inertia)

    @property
    def exact(self) -> bool:
        """Whether r was what the grid was made for, so that no sum was rounded; only a pass for stds knows."""
        return self.second is not None and bool((self.second.sum(0) <= self.grid.squares * 2**_DIGITS).all())


def parts(sums: Float[Tensor, "gauss embed"]) -> list[slice]:
    """Cut the Gaussians into parts, whose float64 matrices are small beside those of all."""
    size = _rows_at_once(sums.shape[1])
    return [slice(first, first + size) for first in range(0, len(sums), size)]


def _rows_at_once(embed_dim: int) -> int:
    return max(1, _NUMBERS_AT_ONCE // embed_dim)
