"""The nearest of many means to each of many rows, by matrix products in blocks of bounded size.

Where the processor multiplies bfloat16 several times as fast as float32, a first product in bfloat16 leaves to each row
the means that its largest possible error does not rule out: one for most rows of clustered data, a few for the others,
and between those float32 decides, as it does between all means elsewhere. So both give the nearest mean to
float32's own precision.

Symbols: x = embeddings [rows, embed]; m_j = means [k, embed]; c = the mean of the means [embed];
s_j = (x - c) . (m_j - c) - |m_j - c|^2 / 2, which is largest for the nearest mean.
"""

import functools
import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

_BYTES_AT_ONCE = 17 * 2**18  # bounds what a block takes: rows in float32 and bfloat16, and products in bfloat16
_FEWEST_ROWS, _MOST_ROWS = 256, 2048  # with fewer, the means are read more often than they are used
_MULTIPLE = 128  # of rows, as matrix products like them
_EXACT_AT_ONCE = 256  # rows
_CACHED = 2**17  # numbers of float32 that stay in a core's own cache
_EQUAL = 1e-6  # squared distances below this fraction of |x - c|^2 + |m - c|^2 are rounding errors of float32
_ROUNDING = 2.0**-8  # largest error of rounding a number to bfloat16, as a fraction
_ALLOWANCE = 1.05  # for what float32 adds up, and for products of errors
_FEWEST_TO_SCREEN = 128  # means; with fewer, the products are not where the time goes
_MOST_LEFT = 4  # means left to a row, on average over a block; with more, the whole product in float32 is faster
_BESIDE = 4  # columns of the rough product beside the embedding's: for the errors, and for |m_j - c|^2 / 2 in three


class _Scratch(threading.local):
    """The matrices of a thread: asked for anew for every block, they would cost as much as filling them."""

    def __init__(self, num_means: int, embed_dim: int) -> None:
        self._shape = (num_means, embed_dim)

    @functools.cached_property
    def rough(self) -> tuple[Tensor, Tensor]:
        """Rows beside ones, and their products with all means."""
        rows = rows_at_once(*self._shape)
        wide = torch.ones(rows, self._shape[1] + _BESIDE, dtype=torch.bfloat16)
        return wide, torch.empty(rows, self._shape[0], dtype=torch.bfloat16)

    @functools.cached_property
    def exact(self) -> tuple[Tensor, Tensor]:
        """Rows, and their products with all means."""
        return torch.empty(_EXACT_AT_ONCE, self._shape[1]), torch.empty(_EXACT_AT_ONCE, self._shape[0])


class Nearest:
    """Finds the nearest of k means; what does not depend on the rows is computed once. Threads may share it."""

    def __init__(self, means: Float[Tensor, "gauss embed"], *, screen: bool | None = None) -> None:
        """Take the means about their own mean c, which keeps the digits when embeddings share a large offset.

        ``screen`` says whether to go through bfloat16 first; by default where that is fast and there are many means.
        """
        self.shape = means.shape
        self._means = means.float()
        self.origin = self._means.mean(0)
        self._screens = bfloat16_is_fast() and len(means) >= _FEWEST_TO_SCREEN if screen is None else screen
        self._half_squares = torch.empty(len(means))
        rows, width = self.shape if self._screens else (0, 0)
        self._rough = torch.empty(rows, width + _BESIDE, dtype=torch.bfloat16)
        size = _pairs_at_once(means.shape[1])
        for first in range(0, len(means), size):
            part = slice(first, first + size)
            centred = self._means[part] - self.origin
            self._half_squares[part] = centred.square().sum(1) / 2
            if self._screens:
                self._rough[part] = self._rough_rows(centred)
        self._scratch = _Scratch(*means.shape)

    def _rough_rows(self, centred: Float[Tensor, "part embed"]) -> Float[Tensor, "part wide"]:
        """Return what rows are multiplied with: the means, then the product's largest error as a fraction of |x - c|.

        What rounding takes from x - c is at most _ROUNDING of it, and what it takes from m_j - c is known. The columns
        after these take |m_j - c|^2 / 2 off, in three summands that have all its digits.
        """
        rough, length = centred.bfloat16(), centred.norm(dim=1)
        reach = _ALLOWANCE * (_ROUNDING * length + (rough.float() - centred).norm(dim=1))
        left, beside = -length.square() / 2, [reach.bfloat16()]
        for _ in range(_BESIDE - 1):
            beside.append(left.bfloat16())
            left = left - beside[-1].float()
        return torch.cat([rough, torch.stack(beside, dim=1)], dim=1)

    def __call__(self, x: Float[Tensor, "rows embed"]) -> Int[Tensor, "rows"]:
        """Return argmin_j |x - m_j|^2 = argmax_j s_j for each row; ties go to the lowest index."""
        find, size = (self._screened, rows_at_once(*self.shape)) if self._screens else (self._exact, len(x) or 1)
        found = [find(rows) for rows in torch.split(x, size)]
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.int64)

    @functools.cached_property
    def _columns(self) -> Float[Tensor, "embed gauss"]:
        return (self._means - self.origin).T

    def _exact(self, x: Tensor) -> Tensor:
        index = torch.empty(len(x), dtype=torch.int64)
        for rows, found in zip(torch.split(x, _EXACT_AT_ONCE), torch.split(index, _EXACT_AT_ONCE), strict=True):
            centred, scores = (scratch[: len(rows)] for scratch in self._scratch.exact)
            torch.sub(rows, self.origin, out=centred)
            found.copy_(_largest(torch.addmm(-self._half_squares, centred, self._columns, out=scores)))
        return index

    def _at_most(self, x: Tensor) -> tuple[Float[Tensor, "rows gauss"], Float[Tensor, "rows"]]:
        """Return what s is no more than, but for the rounding of that number itself, and |x - c|, rounded up."""
        wide, most = (scratch[: len(x)] for scratch in self._scratch.rough)
        size = max(1, _CACHED // self.shape[1])
        for rows, rough in zip(torch.split(x, size), torch.split(wide, size), strict=True):
            centred = rows - self.origin
            rough[:, :-_BESIDE] = centred
            rough[:, -_BESIDE] = centred.norm(dim=1).mul_(1 + 2 * _ROUNDING)
        return torch.mm(wide, self._rough.T, out=most), wide[:, -_BESIDE].float()

    def _screened(self, x: Tensor) -> Tensor:
        most, length = self._at_most(x)
        index = _largest_of_rough(most)
        below = (_at(most, index) <= 0).nonzero().flatten()
        index[below] = _largest(most[below].float())
        best = _at(most, index).float()
        least = _lowered(best - 2 * length * self._rough[index, -_BESIDE].float(), best)  # s of that mean is no less
        most[torch.arange(len(x)), index] = -torch.inf
        second = _at(most, _largest_of_rough(most))
        rows = _still_open(second, least)
        exact = self._scores_of(x, rows, index[rows])
        still = _still_open(second[rows], exact)
        rows, exact = rows[still], exact[still]
        return self._decide(x, index, rows, exact, most[rows].float())

    def _decide(self, x: Tensor, index: Tensor, rows: Tensor, exact: Tensor, most: Tensor) -> Tensor:
        """Compare the means found for some rows, whose s is known, with all that may be nearer."""
        row, mean = (most >= _lowered(exact, exact)[:, None]).nonzero(as_tuple=True)
        if len(row) > _MOST_LEFT * len(x):
            return self._exact(x)
        scores = most.fill_(-torch.inf).scatter_(1, index[rows, None], exact[:, None])
        scores[row, mean] = self._scores_of(x, rows[row], mean)
        index[rows] = _largest(scores)
        return index

    def _scores_of(self, x: Tensor, row: Tensor, mean: Tensor) -> Float[Tensor, "pairs"]:
        """Return s of pairs of a row and a mean."""
        size = _pairs_at_once(self.shape[1])
        pairs = zip(torch.split(row, size), torch.split(mean, size), strict=True)
        products = [torch.linalg.vecdot(x[r] - self.origin, self._means[m] - self.origin) for r, m in pairs]
        return torch.cat(products) - self._half_squares[mean]


def _still_open(second: Tensor, least: Tensor) -> Int[Tensor, "rows"]:
    """Return the rows of which some other mean may be nearer; below 0 the second largest may not be what was found."""
    limit = _lowered(least, least)
    return ((second >= limit) | (limit <= 0)).nonzero().flatten()


def _lowered(scores: Tensor, rounded: Tensor) -> Tensor:
    """Return scores less the largest error of rounding such numbers to bfloat16."""
    return scores - 1.01 * _ROUNDING * rounded.abs()


@functools.cache
def bfloat16_is_fast() -> bool:
    """Return whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _largest(scores: Float[Tensor, "rows gauss"]) -> Int[Tensor, "rows"]:
    return torch.from_numpy(scores.numpy().argmax(1))  # several times as fast as torch's own on a CPU


def _largest_of_rough(scores: Float[Tensor, "rows gauss"]) -> Int[Tensor, "rows"]:
    """Return where each row's largest number is, if that is above 0: so far bfloat16's bits are in the same order."""
    return torch.from_numpy(scores.view(torch.int16).numpy().argmax(1))


def _at(scores: Float[Tensor, "rows gauss"], index: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    return scores.gather(1, index[:, None])[:, 0]


def _pairs_at_once(embed_dim: int) -> int:
    return max(1, _CACHED // (2 * embed_dim))


def rows_at_once(num_means: int, embed_dim: int) -> int:
    """Return how many rows to compare with so many means in one matrix product."""
    rows = _BYTES_AT_ONCE // (6 * embed_dim + 2 * num_means)
    return max(_FEWEST_ROWS, min(_MOST_ROWS, rows // _MULTIPLE * _MULTIPLE))


def squared_distances(
    x: Float[Tensor, "rows embed"], means: Float[Tensor, "gauss embed"], origin: Float[Tensor, "embed"]
) -> Float[Tensor, "rows gauss"]:
    """Return |x - m_j|^2 by one matrix product about an origin; what float32 does not distinguish from zero is zero."""
    x, means = x - origin, means - origin
    squares = x.square().sum(1, keepdim=True) + means.square().sum(1)
    distances = torch.addmm(squares, x, means.T, alpha=-2)
    return distances.masked_fill_(distances < _EQUAL * squares, 0)
