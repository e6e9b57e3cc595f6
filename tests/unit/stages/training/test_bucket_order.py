"""The order of samples by buckets: one bucket a step, all samples equally often, and the same from any step on."""

from collections import Counter

import numpy as np
import pytest

from stages.training.bucket_order import BucketOrder

SIZES = np.array([[3, 0, 1], [0, 0, 0], [10, 12, 9], [1, 0, 0], [5, 5, 20]])  # of buckets, by shard
STEPS, BATCH = 600, 8


def make(seed: int = 7) -> BucketOrder:
    return BucketOrder(SIZES, 16, seed, batch_size=BATCH)


def test_every_sample_is_seen_equally_often() -> None:
    order, seen = make(), Counter[tuple[int, ...]]()
    for step in range(STEPS):
        rows, buckets = order.at(range(BATCH * step, BATCH * (step + 1)), [0] * BATCH)
        assert len(set(buckets.tolist())) == 1
        seen.update((bucket, *row) for bucket, row in zip(buckets.tolist(), rows.tolist(), strict=True))
    assert len(seen) == SIZES.sum()
    # Each bucket's batches are right up to the number of buckets, 4; the bucket of 1 gives its sample 8 times a batch.
    expected = STEPS * BATCH / SIZES.sum()
    for (bucket, *_), times in seen.items():
        assert abs(times - expected) <= 4 * BATCH / SIZES[bucket].sum() + 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_bucket_gives_its_batches_in_order_and_its_fraction_of_them(seed: int) -> None:
    order = make(seed)
    counts = Counter[int]()
    for step in range(200):
        bucket, batch = order.batch_at(step)
        assert batch == counts[bucket]
        counts[bucket] += 1
        for other, size in enumerate(SIZES.sum(axis=1)):
            assert abs(counts[other] - (step + 1) * size / SIZES.sum()) <= 4


def test_any_step_can_be_asked_for_first() -> None:
    steps = [599, 0, 37, 38, 400]
    in_turn = make()
    for step in range(STEPS):
        in_turn.batch_at(step)
    assert [make().batch_at(step) for step in steps] == [in_turn.batch_at(step) for step in steps]
    assert [make(1).batch_at(step)[0] for step in range(40)] != [make(2).batch_at(step)[0] for step in range(40)]


def test_a_sample_behind_another_is_of_the_same_bucket() -> None:
    order = make()
    (row,), (bucket,) = order.at([80], [0])
    (other,), (same,) = order.at([80], [1])
    assert bucket == same
    assert other.tolist() == order.at([81], [0])[0][0].tolist()
    assert row.tolist() != other.tolist()
