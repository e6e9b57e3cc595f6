"""95 % intervals: of fractions by Wilson's score, of other means by the bootstrap, of distances between sets by the
jackknife over groups of rows.

The bootstrap of rows that are all alike has no width, as if they were certain: 0 of 20 is no proof of 0. Wilson's
interval of a fraction has one there, and covers better near the ends (Brown, Cai and DasGupta 2001).

A set that is sampled with replacement holds rows several times, which no set of the distribution does: a bootstrapped
Fréchet or kernel distance lies above the measured one as a whole. The jackknife, which leaves groups of rows out
instead, has no such shift (Efron and Stein 1981).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
GROUPS = 10
_NORMAL_QUANTILE = 1.959964  # 97.5 % of the normal distribution
_T_QUANTILE = 2.262  # 97.5 % of Student's t with GROUPS - 1 degrees of freedom
_SAMPLED_AT_ONCE = 2**18


class Interval(NamedTuple):
    """The ends of a 95 % interval."""

    low: float
    high: float


def resampled_means(
    columns: Float[np.ndarray, "rows columns"], seed: int, resamples: int = RESAMPLES
) -> Float[np.ndarray, "resamples columns"]:
    """Return the columns' means over rows sampled with replacement, the same rows for all columns (Efron 1979).

    Memory does not grow with rows x resamples.
    """
    count = len(columns)
    if count == 0:
        raise ValueError("intervals: found no rows: expected one or more to sample from")
    rng, parts = np.random.default_rng(seed), []
    at_once = max(1, _SAMPLED_AT_ONCE // count)
    for first in range(0, resamples, at_once):
        size = min(at_once, resamples - first)
        sampled = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
        times = np.bincount(sampled.ravel(), minlength=size * count).reshape(size, count)
        parts.append(times @ np.asarray(columns, dtype=np.float64) / count)
    return np.concatenate(parts)


def percentile_interval(resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """Return the 2.5th and 97.5th percentiles of a resampled figure; NaN: it has no value in some of the samples."""
    if not np.isfinite(resampled).all():  # such as a ratio to a variance, where few rows are all the same one
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(float(low), float(high))


def mean_interval(
    rows: Float[np.ndarray, " rows"], resampled: Float[np.ndarray, " resamples"], *, is_fraction: bool = False
) -> Interval:
    """Return the interval of the rows' mean: of a fraction (rows of 0 and 1) Wilson's, else by its resampled values.

    NaN: the rows are all alike, and no fraction; how far their mean may be off is then not known.
    """
    if is_fraction:
        return wilson_interval(int(rows.sum()), len(rows))
    if (rows == rows[0]).all():
        return Interval(float("nan"), float("nan"))
    return percentile_interval(resampled)


def wilson_interval(hits: int, count: int) -> Interval:
    """Return (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = hits / n (Wilson 1927)."""
    z2 = _NORMAL_QUANTILE**2 / count
    p = hits / count
    half = np.sqrt(z2 * p * (1 - p) + z2**2 / 4)
    low, high = (p + z2 / 2 - half) / (1 + z2), (p + z2 / 2 + half) / (1 + z2)
    return Interval(float(low) if hits else 0.0, float(high) if hits < count else 1.0)  # the ends without rounding


def jackknife_interval(value: float, left_out: Sequence[float]) -> Interval:
    """Return value +- t se, with se^2 = (g - 1) / g sum (v_i - mean v)^2 over the g values without one group each."""
    values = np.asarray(left_out, dtype=np.float64)
    if len(values) != GROUPS:
        raise ValueError(f"intervals: found {len(values)} values: expected {GROUPS}, each without one group")
    half = _T_QUANTILE * float(np.sqrt((GROUPS - 1) * values.var()))
    return Interval(value - half, value + half)
