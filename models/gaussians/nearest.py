"""The nearest of many means to each of many rows, by matrix products in blocks of bounded size.

Where the processor multiplies bfloat16 several times as fast as float32, a first product in bfloat16 settles every row
whose nearest mean is nearer than all others by more than that product's largest possible error. The other rows go
through the product in float32, which decides all rows elsewhere. So either way gives the nearest mean to float32's own
precision.

Symbols: x = embeddings [rows, embed]; m_j = means [k, embed]; c = the mean of the means [embed];
s_j = |m_j - c|^2 / 2 - (x - c) . (m_j - c), which is least for the nearest mean.
"""

import functools

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SCORES_AT_ONCE = 2**21  # bounds the [rows, k] matrix: 8 MB
_ROWS_AT_ONCE = 2048
_EQUAL = 1e-6  # squared distances below this share of |x - c|^2 + |m - c|^2 are rounding errors of float32
_ROUNDING = 2.0**-9  # largest error of rounding to bfloat16, as a share
_ALLOWANCE = 1.05  # for products of errors, and for what float32 adds up
_FEWEST_TO_SCREEN = 128  # means; with fewer, the products are not where the time goes


class Nearest:
    """Finds the nearest of k means; what does not depend on the rows is computed once."""

    def __init__(self, means: Float[Tensor, "gauss embed"], *, screen: bool | None = None) -> None:
        """Take the means about their own mean c, which keeps the digits when embeddings share a large offset.

        ``screen`` says whether to go through bfloat16 first; by default where that is fast and there are many means.
        """
        self.origin = means.double().mean(0).float()
        centred = means.double() - self.origin.double()
        squares = centred.square().sum(1)
        self._columns = centred.float().T
        self._half_squares = (squares / 2).float()
        self._longest = float(squares.max().sqrt())
        self._screens = bfloat16_is_fast() and len(means) >= _FEWEST_TO_SCREEN if screen is None else screen
        self._rough_columns = self._columns.bfloat16() if self._screens else None
        self._most_lost = float((self._columns.bfloat16().float() - self._columns).norm(dim=0).max())
        # Memory that is asked for anew in every block costs as much time as filling it.
        self._scores = torch.empty(rows_at_once(len(means)), len(means))
        self._rough = torch.empty_like(self._scores, dtype=torch.bfloat16) if self._screens else None

    def __call__(self, x: Float[Tensor, "rows embed"]) -> Int[Tensor, "rows"]:
        """Return argmin_j |x - m_j|^2 = argmin_j s_j for each row; ties go to the lowest index."""
        parts = [self._indices(part.float() - self.origin) for part in torch.split(x, len(self._scores))]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _indices(self, x: Tensor) -> Tensor:
        if not self._screens:
            return self._exact(x)
        index, unsettled = self._screened(x)
        rows = unsettled.nonzero().flatten()
        # Where most rows stay open (data without clusters), the first product is not worth its time from here on.
        self._screens = 2 * len(rows) <= len(x)
        if len(rows):
            index[rows] = self._exact(x[rows])
        return index

    def _exact(self, x: Tensor) -> Tensor:
        return _least(torch.addmm(self._half_squares, x, self._columns, alpha=-1, out=self._scores[: len(x)]))

    def _screened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest mean by the rough product, and whether another one may be nearer yet."""
        assert self._rough_columns is not None
        assert self._rough is not None
        rough_x = x.bfloat16()
        rough = torch.mm(rough_x, self._rough_columns, out=self._rough[: len(x)])
        scores = self._scores[: len(x)].copy_(rough).neg_().add_(self._half_squares)
        index = _least(scores)[:, None]
        best = scores.gather(1, index).flatten()
        # Errors of a product: what rounding took from x, from m, and from the product, which for any mean that may be
        # nearer is at most the largest |m - c|^2 / 2 less the best score. Both means compared may be off by as much.
        lost = (rough_x.float() - x).norm(dim=1)
        error = lost * self._longest + x.norm(dim=1) * self._most_lost + _ROUNDING * (self._longest**2 / 2 - best)
        second = torch.from_numpy(scores.scatter_(1, index, torch.inf).numpy().min(1))
        return index.flatten(), second <= best + 2 * _ALLOWANCE * error


@functools.cache
def bfloat16_is_fast() -> bool:
    """Tell whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _least(scores: Float[Tensor, "rows gauss"]) -> Int[Tensor, "rows"]:
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
