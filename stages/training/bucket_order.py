"""The order in which samples of several buckets are seen: every batch is of one bucket; a pure function, without state.

Each bucket has an endless sequence of its own samples (:mod:`stages.training.order`), of which it gives a batch at a
time; a batch that ends one pass over the bucket begins the next, so that no sample is left out, however small its
bucket. With n of N samples, a bucket's j-th batch is at the time (j + u) N / n, u uniform in [0, 1) by (seed, bucket,
j); the s-th batch of all in time is that of step s. So after any number of steps with K buckets, a bucket has given
n / N of all batches, up to K.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from stages.training.order import SampleOrder


class BucketBatch(NamedTuple):
    """The number of a bucket, and which of the bucket's own batches it is."""

    bucket: int
    batch: int


class BucketOrder:
    """The sample at each position of the endless sequence of samples, in batches of one bucket each."""

    def __init__(
        self, sizes: Int[np.ndarray, "buckets shards"], window_size: int, seed: int, *, batch_size: int
    ) -> None:
        """Take how many samples of each bucket each shard has; windows of all buckets together hold ``window_size``."""
        self._seed, self._batch_size = seed, batch_size
        counts = sizes.sum(axis=1)
        self.epoch_size = int(counts.sum())
        self._counts = {int(bucket): int(counts[bucket]) for bucket in np.flatnonzero(counts)}
        # One seed for all: their passes, which are in step with one another, then visit the shards in one order.
        self._orders = {
            bucket: SampleOrder(sizes[bucket], max(1, window_size * count // self.epoch_size), seed)
            for bucket, count in self._counts.items()
        }
        self.batch_at = lru_cache(maxsize=4)(self._batch_at)

    def at(
        self, positions: Sequence[int], shifts: Sequence[int]
    ) -> tuple[Int[np.ndarray, "positions 2"], Int[np.ndarray, " positions"]]:
        """Return (shard, number among the shard's samples of the bucket) and the bucket of each position.

        ``shifts``: how far behind it in the bucket's own sequence a sample is taken instead.
        """
        rows, buckets = [], []
        for position, shift in zip(positions, shifts, strict=True):
            step, offset = divmod(int(position), self._batch_size)
            bucket, batch = self.batch_at(step)
            rows.append(self._orders[bucket].at([batch * self._batch_size + offset + int(shift)])[0])
            buckets.append(bucket)
        return np.array(rows, dtype=np.int64).reshape(-1, 2), np.array(buckets, dtype=np.int64)

    def _batch_at(self, step: int) -> BucketBatch:
        """Return the batch of a step: the one of index ``step`` by time.

        Before a time A, a bucket has given floor(A n / N) batches or one more. So with A = step - K - 1, those that are
        surely before A need not be looked at, and with K + 2 after the step, enough are.
        """
        num = len(self._counts)
        start, end = max(0, step - num - 1), step + num + 2
        passed, later = 0, []
        for bucket, count in self._counts.items():
            first, last = (time * count // self.epoch_size for time in (start, end))
            passed += first
            later += [(self._time(bucket, batch), bucket, batch) for batch in range(first, last + 1)]
        _, bucket, batch = sorted(later)[step - passed]
        return BucketBatch(bucket, batch)

    def _time(self, bucket: int, batch: int) -> float:
        number = np.random.SeedSequence([self._seed, 3, bucket, batch]).generate_state(1, np.uint64)[0]
        return (batch + float(number) / 2.0**64) * self.epoch_size / self._counts[bucket]
