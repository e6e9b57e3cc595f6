"""The nearest of many means to each of many rows, by matrix products in blocks of bounded size.

Symbols: x = embeddings [rows, embed]; m_j = means [k, embed]; c = the mean of the means [embed].
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SCORES_AT_ONCE = 2**21  # bounds the [rows, k] matrix: 8 MB
_ROWS_AT_ONCE = 2048
_EQUAL = 1e-6  # squared distances below this share of |x - c|^2 + |m - c|^2 are rounding errors of float32


class Nearest:
    """Finds the nearest of k means; what does not depend on the rows is computed once."""

    def __init__(self, means: Float[Tensor, "gauss embed"]) -> None:
        """Take the means about their own mean c, which keeps the digits when embeddings share a large offset."""
        self.origin = means.double().mean(0).float()
        centred = means.double() - self.origin.double()
        self._columns = centred.float().T
        self._half_squares = (centred.square().sum(1) / 2).float()

    def __call__(self, x: Float[Tensor, "rows embed"]) -> Int[Tensor, "rows"]:
        """Return argmin_j |x - m_j|^2 = argmin_j |m_j - c|^2 / 2 - (x - c) . (m_j - c); ties go to the lowest index."""
        parts = [self._indices(part) for part in torch.split(x, rows_at_once(len(self._half_squares)))]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _indices(self, x: Tensor) -> Tensor:
        scores = torch.addmm(self._half_squares, x.float() - self.origin, self._columns, alpha=-1)
        return torch.from_numpy(scores.numpy().argmin(1))  # several times as fast as torch's own on a CPU


def rows_at_once(num_means: int) -> int:
    """Return how many rows to compare with so many means in one matrix product."""
    return max(16, min(_ROWS_AT_ONCE, _SCORES_AT_ONCE // num_means))


def assign(x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"]) -> Int[Tensor, "rows"]:
    """Return the index of the nearest mean of each row; ties go to the lowest index."""
    return Nearest(means)(x)


def squared_distances(
    x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"], origin: Float[Tensor, "embed"]
) -> Float[Tensor, "rows gauss"]:
    """Return |x - m_j|^2 by one matrix product about an origin; what is not told from zero in float32 is zero."""
    x, means = x - origin, means - origin
    squares = x.square().sum(1, keepdim=True) + means.square().sum(1)
    distances = torch.addmm(squares, x, means.T, alpha=-2)
    return distances.masked_fill_(distances < _EQUAL * squares, 0)
