"""Near-duplicates in embedding space: exact, and the same on any machine.

Products are made in float32; where one lies within rounding of the threshold, float64 decides. Memory holds two shards
and one block of products.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_ROUNDING = 1e-4  # well above the error of a float32 product of two unit vectors of a few thousand dimensions
_FLOAT64_ROUNDING = 1e-12  # of the cosine of a row and its copy, which is 1 but for that
Units = Float[np.ndarray, "rows embed"]


@dataclass
class NearDuplicates:
    """For each row of a shard the first earlier row of which it is a near-duplicate, once found."""

    shard: Int[np.ndarray, " rows"]
    """Number of the earlier row's shard; -1: none was found."""
    row: Int[np.ndarray, " rows"]
    cosine: Float[np.ndarray, " rows"]

    @classmethod
    def none(cls, rows: int) -> "NearDuplicates":
        """Start with nothing found."""
        return cls(np.full(rows, -1), np.full(rows, -1), np.full(rows, np.nan))

    @property
    def is_open(self) -> Bool[np.ndarray, " rows"]:
        """Which rows are not near-duplicates as far as is known."""
        return np.asarray(self.shard < 0)

    def settle(
        self,
        row: int,
        unit: Float[np.ndarray, " embed"],
        earlier: "ShardUnits",
        candidates: Int[np.ndarray, " some"],
        minimum: float,
    ) -> None:
        """Record the first candidate row of the earlier shard whose cosine to the row's unit vector is large enough."""
        for other in candidates:
            cosine = float(np.sum(unit * earlier.units[other]))
            if cosine >= minimum - _FLOAT64_ROUNDING:
                self.shard[row], self.row[row], self.cosine[row] = earlier.number, other, cosine
                return


@dataclass(frozen=True)
class ShardUnits:
    """A shard's unit rows, and which of them are compared, ascending."""

    number: int
    units: Units
    rows: Int[np.ndarray, " compared"]


def find_near_duplicates(
    near_duplicates: NearDuplicates, own: ShardUnits, earlier: ShardUnits, *, minimum: float, block_rows: int
) -> None:
    """Record for each open row the first row of an earlier shard, or before it in its own, that it nearly repeats.

    A row counts as earlier whether it is a near-duplicate itself or not, so that shards can be compared in any order.
    """
    same = own.number == earlier.number
    for begin in range(0, len(own.rows), block_rows):
        block = own.rows[begin : begin + block_rows]
        for first in range(0, len(earlier.rows), block_rows):
            rows = block[near_duplicates.is_open[block]]
            others = earlier.rows[first : first + block_rows]
            if len(rows) == 0 or (same and others[0] >= rows[-1]):
                break
            products = own.units[rows].astype(np.float32) @ earlier.units[others].astype(np.float32).T
            if same:
                products[others[None, :] >= rows[:, None]] = -np.inf
            near = products >= minimum - _ROUNDING
            for index in np.flatnonzero(near.any(axis=1)):
                row = int(rows[index])
                near_duplicates.settle(row, own.units[row], earlier, others[near[index]], minimum)
