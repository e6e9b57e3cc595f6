"""The nearest of many means to each of many rows, by matrix products in blocks of bounded size.

Where the processor multiplies bfloat16 several times as fast as float32, a first product in bfloat16 leaves to each row
the means that its largest possible error does not rule out: one for most rows of clustered data, a few for the others,
and between those float32 decides, as it does between all means elsewhere. So either way gives the nearest mean to
float32's own precision.

Symbols: x = embeddings [rows, embed]; m_j = means [k, embed]; c = the mean of the means [embed];
s_j = |m_j - c|^2 / 2 - (x - c) . (m_j - c), which is least for the nearest mean.
"""

import functools
import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NUMBERS_AT_ONCE = 2**20  # bounds the [rows, k] and [rows, embed] matrices: 4 MB
_FEWEST_ROWS, _MOST_ROWS = 256, 2048  # at once; with fewer, the means are read more often than they are used
_EQUAL = 1e-6  # squared distances below this share of |x - c|^2 + |m - c|^2 are rounding errors of float32
_ROUNDING = 2.0**-9  # largest error of rounding to bfloat16, as a share
_ALLOWANCE = 1.05  # for products of errors, and for what float32 adds up
_FEWEST_TO_SCREEN = 128  # means; with fewer, the products are not where the time goes
_MOST_LEFT = 4  # means left to a row, on average over a block; with more, the whole product in float32 is faster
_PAIRS_AT_ONCE = 512


class _Scratch(threading.local):
    """A block's matrices, one set for each thread: asked for anew in every block, they cost as much as filling them."""

    def __init__(self, rows: int, num_means: int, embed_dim: int, *, rough: bool) -> None:
        self.x = torch.empty(rows, embed_dim)
        self.scores = torch.empty(rows, num_means)
        self.rough_x = torch.empty_like(self.x, dtype=torch.bfloat16) if rough else self.x
        self.rough = torch.empty_like(self.scores, dtype=torch.bfloat16) if rough else self.scores


class Nearest:
    """Finds the nearest of k means; what does not depend on the rows is computed once. Threads may share it."""

    def __init__(self, means: Float[Tensor, "gauss embed"], *, screen: bool | None = None) -> None:
        """Take the means about their own mean c, which keeps the digits when embeddings share a large offset.

        ``screen`` says whether to go through bfloat16 first; by default where that is fast and there are many means.
        """
        self.shape = means.shape
        self.origin = means.double().mean(0).float()
        centred = means.double() - self.origin.double()
        lengths = torch.linalg.vector_norm(centred, dim=1)
        self._columns = centred.float().T
        self._half_squares = (lengths.square() / 2).float()
        self._screens = bfloat16_is_fast() and len(means) >= _FEWEST_TO_SCREEN if screen is None else screen
        self._rough_columns = self._columns.bfloat16()
        # Errors of a rough score: what rounding takes from x, from m_j, and from their product, as shares of |x|.
        lost = (self._rough_columns.float() - self._columns).norm(dim=0)
        self._reach = _ALLOWANCE * (2 * _ROUNDING * lengths.float() + lost)
        self._scratch = _Scratch(rows_at_once(*means.shape), *means.shape, rough=self._screens)

    def __call__(self, x: Float[Tensor, "rows embed"]) -> Int[Tensor, "rows"]:
        """Return argmin_j |x - m_j|^2 = argmin_j s_j for each row; ties go to the lowest index."""
        find = self._screened if self._screens else self._exact
        blocks = torch.split(x, rows_at_once(*self.shape))
        parts = [find(torch.sub(block, self.origin, out=self._scratch.x[: len(block)])) for block in blocks]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)

    def _exact(self, x: Tensor) -> Tensor:
        scores = self._scratch.scores[: len(x)]
        return _least(torch.addmm(self._half_squares, x, self._columns, alpha=-1, out=scores))

    def _screened(self, x: Tensor) -> Tensor:
        reach = x.norm(dim=1).max() * self._reach
        scratch = self._scratch
        rough_x, least = scratch.rough_x[: len(x)].copy_(x), scratch.scores[: len(x)]
        least.copy_(torch.mm(rough_x, self._rough_columns, out=scratch.rough[: len(x)]))
        torch.sub(self._half_squares - reach, least, out=least)  # s is no less than that
        index = _least(least)
        most = least.gather(1, index[:, None])[:, 0] + 2 * reach[index]  # s of that mean is no more
        second = torch.from_numpy(least.scatter_(1, index[:, None], torch.inf).numpy().min(1))
        rows = (second <= most).nonzero().flatten()
        exact = self._scores_of(x, rows, index[rows])
        row, mean = (least[rows] <= exact[:, None]).nonzero(as_tuple=True)
        if len(row) > _MOST_LEFT * len(x):
            return self._exact(x)
        scores = torch.full((len(rows), self.shape[0]), torch.inf).scatter_(1, index[rows, None], exact[:, None])
        scores[row, mean] = self._scores_of(x, rows[row], mean)
        index[rows] = _least(scores)
        return index

    def _scores_of(self, x: Tensor, row: Tensor, mean: Tensor) -> Float[Tensor, "pairs"]:
        """Return s of pairs of a row and a mean."""
        pairs = zip(torch.split(row, _PAIRS_AT_ONCE), torch.split(mean, _PAIRS_AT_ONCE), strict=True)
        return torch.cat([self._half_squares[m] - (x[r] * self._columns.T[m]).sum(1) for r, m in pairs])


@functools.cache
def bfloat16_is_fast() -> bool:
    """Tell whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _least(scores: Float[Tensor, "rows gauss"]) -> Int[Tensor, "rows"]:
    return torch.from_numpy(scores.numpy().argmin(1))  # several times as fast as torch's own on a CPU


def rows_at_once(num_means: int, embed_dim: int) -> int:
    """Return how many rows to compare with so many means in one matrix product."""
    return max(_FEWEST_ROWS, min(_MOST_ROWS, _NUMBERS_AT_ONCE // max(num_means, embed_dim)))


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
