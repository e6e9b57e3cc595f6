"""The nearest of many means to each of many rows, by matrix products in blocks of bounded size.

Where the processor multiplies bfloat16 several times as fast as float32, a first product in bfloat16 leaves to each row
the means that its largest possible error does not rule out: one for most rows of clustered data, a few for the others,
and between those float32 decides, as it does between all means elsewhere. So either way gives the nearest mean to
float32's own precision.

Symbols: x = embeddings [rows, embed]; m_j = means [k, embed]; c = the mean of the means [embed];
s_j = (x - c) . (m_j - c) - |m_j - c|^2 / 2, which is largest for the nearest mean.
"""

import functools
import threading

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NUMBERS_AT_ONCE = 3 * 2**18  # bounds the [rows, k] and [rows, embed] matrices together
_FEWEST_ROWS, _MOST_ROWS = 256, 2048  # with fewer, the means are read more often than they are used
_MULTIPLE = 128  # of rows, as matrix products like them
_PART = 512  # rows at once in float32: what they take stays in a core's own cache
_EQUAL = 1e-6  # squared distances below this share of |x - c|^2 + |m - c|^2 are rounding errors of float32
_ROUNDING = 2.0**-8  # largest error of rounding a number to bfloat16, as a share
_ALLOWANCE = 1.02  # for what float32 adds up, and for products of errors
_FEWEST_TO_SCREEN = 128  # means; with fewer, the products are not where the time goes
_MOST_LEFT = 4  # means left to a row, on average over a part; with more, the whole product in float32 is faster
_PAIRED_AT_ONCE = 2**16  # numbers: what pairs of rows and means take stays in a core's own cache


class _Scratch(threading.local):
    """The matrices of a thread: asked for anew for every part, they would cost as much as filling them."""

    def __init__(self, rows: int, num_means: int, embed_dim: int, *, rough: bool) -> None:
        part = min(_PART, rows)
        self.x, self.scores = torch.empty(part, embed_dim), torch.empty(part, num_means)
        rows = rows if rough else 0
        self.rough_x = torch.empty(rows, embed_dim, dtype=torch.bfloat16)
        self.rough = torch.empty(rows, num_means, dtype=torch.bfloat16)


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
        lengths, lost = torch.empty(2, len(means))
        rough = torch.empty(len(means) if self._screens else 0, means.shape[1], dtype=torch.bfloat16)
        for part in torch.arange(len(means)).split(_pairs_at_once(means.shape[1])):
            centred = self._means[part] - self.origin
            lengths[part] = centred.norm(dim=1)
            if self._screens:
                rough[part] = centred.bfloat16()
                lost[part] = (rough[part].float() - centred).norm(dim=1)
        self._rough_columns = rough.T
        self._half_squares = lengths.square() / 2
        # A rough score's errors as shares of |x - c|: from rounding x - c, the product with it, and m_j - c.
        self._reach = _ALLOWANCE * (2 * _ROUNDING * lengths + lost)
        self._scratch = _Scratch(rows_at_once(*means.shape), *means.shape, rough=self._screens)

    def __call__(self, x: Float[Tensor, "rows embed"]) -> Int[Tensor, "rows"]:
        """Return argmin_j |x - m_j|^2 = argmax_j s_j for each row; ties go to the lowest index."""
        index = torch.empty(len(x), dtype=torch.int64)
        size = rows_at_once(*self.shape)
        size = size if self._screens else min(size, _PART)
        for rows, found in zip(torch.split(x, size), torch.split(index, size), strict=True):
            if self._screens:
                self._screen(rows, found)
            else:
                found.copy_(self._exact(rows))
        return index

    @functools.cached_property
    def _columns(self) -> Float[Tensor, "embed gauss"]:
        return (self._means - self.origin).T

    def _centred(self, x: Tensor) -> Tensor:
        return torch.sub(x, self.origin, out=self._scratch.x[: len(x)])

    def _exact(self, x: Tensor) -> Tensor:
        scores = self._scratch.scores[: len(x)]
        return _largest(torch.addmm(-self._half_squares, self._centred(x), self._columns, out=scores))

    def _screen(self, x: Tensor, found: Tensor) -> None:
        rough_x, products = self._scratch.rough_x[: len(x)], self._scratch.rough[: len(x)]
        length = torch.empty(len(x))
        parts = [torch.split(tensor, _PART) for tensor in (x, length, products, found, rough_x)]
        for rows, length_of, _, _, rough_of in zip(*parts, strict=True):
            centred = self._centred(rows)
            rough_of.copy_(centred)
            torch.linalg.vector_norm(centred, dim=1, out=length_of)
        torch.mm(rough_x, self._rough_columns, out=products)
        for rows, length_of, products_of, found_of, _ in zip(*parts, strict=True):
            found_of.copy_(self._decide(rows, length_of, products_of))

    def _decide(self, x: Tensor, length: Tensor, products: Tensor) -> Tensor:
        """Find the nearest means of a few rows, given |x - c| and the rough products with all means."""
        most = self._scratch.scores[: len(x)].copy_(products)
        most.addcmul_(length[:, None], self._reach).sub_(self._half_squares)  # s is no more than that
        index = _largest(most)
        least = _at(most, index) - 2 * length * self._reach[index]  # s of that mean is no less
        second = _at(most, _largest(most.scatter_(1, index[:, None], -torch.inf)))
        rows = (second >= least).nonzero().flatten()
        exact = self._scores_of(x, rows, index[rows])
        open_still = second[rows] >= exact
        rows, exact = rows[open_still], exact[open_still]
        left = most[rows]
        row, mean = (left >= exact[:, None]).nonzero(as_tuple=True)
        if len(row) > _MOST_LEFT * len(x):
            return self._exact(x)
        scores = left.fill_(-torch.inf).scatter_(1, index[rows, None], exact[:, None])
        scores[row, mean] = self._scores_of(x, rows[row], mean)
        index[rows] = _largest(scores)
        return index

    def _scores_of(self, x: Tensor, row: Tensor, mean: Tensor) -> Float[Tensor, "pairs"]:
        """Return s of pairs of a row and a mean."""
        size = _pairs_at_once(self.shape[1])
        pairs = zip(torch.split(row, size), torch.split(mean, size), strict=True)
        products = [torch.linalg.vecdot(x[r] - self.origin, self._means[m] - self.origin) for r, m in pairs]
        return torch.cat(products) - self._half_squares[mean]


@functools.cache
def bfloat16_is_fast() -> bool:
    """Tell whether this processor has instructions for products of bfloat16."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def _largest(scores: Float[Tensor, "rows gauss"]) -> Int[Tensor, "rows"]:
    return torch.from_numpy(scores.numpy().argmax(1))  # several times as fast as torch's own on a CPU


def _at(scores: Float[Tensor, "rows gauss"], index: Int[Tensor, "rows"]) -> Float[Tensor, "rows"]:
    return scores.gather(1, index[:, None])[:, 0]


def _pairs_at_once(embed_dim: int) -> int:
    return max(1, _PAIRED_AT_ONCE // embed_dim)


def rows_at_once(num_means: int, embed_dim: int) -> int:
    """Return how many rows to compare with so many means in one matrix product."""
    rows = _NUMBERS_AT_ONCE // (num_means + embed_dim)
    return max(_FEWEST_ROWS, min(_MOST_ROWS, rows // _MULTIPLE * _MULTIPLE))


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
