"""Distances between generated and true images, of features that stay on disk, with their intervals.

The Fréchet distance is biased: the fewer the images, the larger, so compare equal numbers of images under the same
network only; what two halves of the true images have stands beside it. The kernel distance (KID) has no such bias.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.metrics.intervals import GROUPS, jackknife_interval, mean_interval, resampled_means
from models.metrics.kernels import Estimate, cmmd_estimate, kid_estimate
from models.metrics.manifolds import NEIGHBOURS_OF_DENSITY, manifolds
from models.metrics.moments import Moments, frechet_of_moments
from models.similarity import blocks_of, frechet_distance
from stages.evaluate.records import Rows

FEWEST = 2
_BLOCK = 2048  # rows that are summed at once


@dataclass(frozen=True)
class Figure:
    """A figure, its 95 % interval where it has one, and of how many images or pairs it is."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


Figures = dict[str, Figure]


def frechet_steps(generated: int, true: int) -> int:
    """Return how often :func:`frechet_figures` of so many rows reports."""
    return 1 + (GROUPS if _has_interval(generated, true) else 0)


def _has_interval(generated: int, true: int) -> bool:
    return min(generated, true) >= 2 * GROUPS


def frechet_figures(generated: Rows[Any], true: Rows[Any], report: Callable[[], None]) -> Figures:
    """Return the Fréchet distance of all rows, and that of two halves of the true ones, which is its bias.

    ``report`` is called after it, and after each of those that the interval comes from, as one may take seconds.
    """
    sets = _pair(generated, true)
    value = sets.whole()
    figures = {"frechet_distance": Figure(value, generated.count)}
    report()
    if _has_interval(generated.count, true.count):
        others = []
        for group in range(GROUPS):
            others.append(sets.without(group))
            report()
        low, high = jackknife_interval(value, others)
        figures["frechet_distance"] = Figure(value, generated.count, max(low, min(value, 0.0)), high)
    if true.count >= 2 * FEWEST:
        figures["frechet_distance/true_halves"] = Figure(sets.true_halves(), true.count // 2)
    return figures


def _pair(generated: Rows[Any], true: Rows[Any]) -> "_FewRows | _ManyRows":
    width = next(generated.parts())[1].shape[1]
    return (_FewRows if max(generated.count, true.count) <= width else _ManyRows)(generated, true)


class _FewRows:
    """Two sets of no more rows than dimensions: their distance takes a product of rows, not one of dimensions."""

    def __init__(self, generated: Rows[Any], true: Rows[Any]) -> None:
        self._sets = [torch.from_numpy(rows.take(np.arange(rows.count))).double() for rows in (generated, true)]

    def whole(self) -> float:
        """Return the distance of all rows."""
        return float(frechet_distance(*self._sets))

    def without(self, group: int) -> float:
        """Return the distance without one of the groups of rows."""
        return float(frechet_distance(*(rows[torch.arange(len(rows)) % GROUPS != group] for rows in self._sets)))

    def true_halves(self) -> float:
        """Return the distance of every other true row to the rest."""
        true = self._sets[1]
        return float(frechet_distance(true[::2], true[1::2]))


class _ManyRows:
    """Two sets that stay on disk, by their moments."""

    def __init__(self, generated: Rows[Any], true: Rows[Any]) -> None:
        self._rows = generated, true
        self._halves = [[_moments(rows, start, 2) for start in (0, 1)] for rows in self._rows]
        self._whole = [Moments.merged(halves) for halves in self._halves]

    def whole(self) -> float:
        """Return the distance of all rows."""
        return frechet_of_moments(*self._whole)

    def without(self, group: int) -> float:
        """Return the distance without one of the groups of rows."""
        left_out = (_moments(rows, group, GROUPS) for rows in self._rows)
        return frechet_of_moments(*(whole - part for whole, part in zip(self._whole, left_out, strict=True)))

    def true_halves(self) -> float:
        """Return the distance of every other true row to the rest."""
        return frechet_of_moments(*self._halves[1])


def _moments(rows: Rows[Any], start: int, step: int) -> Moments:
    """Return those of every so many rows; they are summed in blocks, however small the units are."""
    return Moments.merged(Moments.of(torch.from_numpy(block)) for block in _blocks(rows, start, step))


def _blocks(rows: Rows[Any], start: int, step: int) -> Iterator[np.ndarray]:
    waiting: list[np.ndarray] = []
    for first, part in rows.parts():
        waiting.append(np.array(part[(start - first) % step :: step]))
        if sum(map(len, waiting)) >= _BLOCK:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def spaced(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Return up to ``most`` of so many numbers, evenly spaced."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).astype(np.int64)


def kernel_figures(generated: Float[Tensor, "rows embed"], true: Float[Tensor, "others embed"], seed: int) -> Figures:
    """Return the kernel distance, and where there are enough rows precision, recall, density and coverage."""
    figures = {"kernel_distance": _of_estimate(kid_estimate(generated, true), len(generated))}
    if min(len(generated), len(true)) > NEIGHBOURS_OF_DENSITY:
        for name, values in manifolds(generated, true)._asdict().items():
            rows = values.numpy()
            resampled = resampled_means(rows[:, None], seed)[:, 0]
            interval = mean_interval(rows, resampled, is_fraction=name != "density")  # which may exceed 1
            figures[name] = Figure(float(rows.mean()), len(rows), *interval)
    return figures


def cmmd_figure(
    generated: Float[Tensor, "rows embed"], true: Float[Tensor, "others embed"], block_dims: tuple[int, ...]
) -> Figure:
    """Return CMMD, averaged over the CLIP models."""
    blocks = zip(blocks_of(generated, block_dims), blocks_of(true, block_dims), strict=True)
    estimates = [cmmd_estimate(x, y) for x, y in blocks]
    value = float(np.mean([one.value for one in estimates]))
    left_out = np.array([one.left_out for one in estimates]).mean(0)
    return _of_estimate(Estimate(value, tuple(left_out.tolist())), len(generated))


def _of_estimate(estimate: Estimate, count: int) -> Figure:
    if not estimate.left_out:
        return Figure(estimate.value, count)
    return Figure(estimate.value, count, *jackknife_interval(estimate.value, estimate.left_out))
