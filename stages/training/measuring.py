"""The intervals of what a validation finds, with the protocols that they are measured under."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from models.metrics.intervals import Interval, mean_interval, resampled_means
from stages.contract.measures import Measure, Protocol, protocol_digest

Intervals = Mapping[str, Interval]


class Measured(NamedTuple):
    """Measures by the names of their metrics, and their protocols by digest, as events and summaries have them."""

    measures: dict[str, Measure]
    protocols: dict[str, Protocol]


def mean_intervals(
    columns: Mapping[str, Float[np.ndarray, " rows"]], seed: int, *, are_fractions: bool = False
) -> dict[str, Interval]:
    """Return the intervals of the means of columns, whose rows are resampled together; of fractions all are 0 or 1."""
    if not columns:
        return {}
    resampled = resampled_means(np.stack(list(columns.values()), 1).astype(np.float64), seed)
    return {
        name: mean_interval(rows, means, is_fraction=are_fractions)
        for (name, rows), means in zip(columns.items(), resampled.T, strict=True)
    }


def measure(
    metrics: Mapping[str, float], intervals: Intervals, n: int, protocol: Protocol, *, rows: str = "pairs"
) -> Measured:
    """Return the measures of those finite metrics that have an interval, all of ``n`` rows, a part of the protocol."""
    own = {**protocol, rows: str(n)}
    digest = protocol_digest(own)
    found = {
        name: Measure(metrics[name], _finite(low), _finite(high), n, digest)
        for name, (low, high) in intervals.items()
        if math.isfinite(metrics[name])
    }
    return Measured(found, {digest: own} if found else {})


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None
