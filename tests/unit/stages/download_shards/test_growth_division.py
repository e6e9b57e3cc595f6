"""How small shards of an earlier artifact are put together."""

import numpy as np
import pytest

from stages.download_shards.growth import (
    MOST_SMALL_SHARDS,
    Digests,
    GrowthRecord,
    KeptRows,
    PlannedShard,
    as_digests,
    divide,
)

ROWS = 7


def entries(*numbers: int) -> Digests:
    return as_digests(number.to_bytes(16) for number in numbers)


def pile(num_small: int) -> dict[str, Digests]:
    """Return a full shard, and small ones of 3 entries each, of which the first is gone."""
    small = {f"small{one}": entries(*range(100 + 3 * one, 103 + 3 * one)) for one in range(num_small)}
    return {"full": entries(*range(1, 1 + ROWS)), **small}


def test_few_small_shards_stay() -> None:
    earlier = pile(MOST_SMALL_SHARDS)
    shards = divide(np.concatenate([*earlier.values()]), earlier, ROWS)
    assert [shard.is_whole for shard in shards] == [True] * (1 + MOST_SMALL_SHARDS)


def test_rows_of_many_are_put_together_in_full_shards_and_new_entries_come_behind() -> None:
    earlier = pile(MOST_SMALL_SHARDS + 1)
    lost = entries(100)
    now = np.concatenate([entries(8), *earlier.values()])
    now = now[now != lost[0]]
    shards = divide(now, earlier, ROWS)
    assert shards[0] == PlannedShard.of(KeptRows("full", tuple(range(1, 1 + ROWS))))
    assert [len(shard.entries) for shard in shards] == [ROWS, 7, 7, 7, 5, 1]
    assert [shard.is_new for shard in shards] == [False] * 5 + [True]
    assert shards[1].kept == (
        KeptRows("small0", (8, 9), (1, 2)),
        KeptRows("small1", (10, 11, 12)),
        KeptRows("small2", (13, 14), (0, 1)),
    )
    assert shards[2].kept[0] == KeptRows("small2", (15,), (2,))
    for shard in shards[:-1]:  # each entry is that of its row
        held = [earlier[one.base][list(one.rows)] if one.rows else earlier[one.base] for one in shard.kept]
        assert now[list(shard.entries)].tolist() == np.concatenate(held).tolist()
    assert sorted(number for shard in shards for number in shard.entries) == list(range(len(now)))
    record = GrowthRecord.of_shards("base", shards, earlier)
    assert (record.reused_shards, record.remade_shards, record.new_shards) == (1, 4, 1)
    assert (record.new_entries, record.lost_entries) == (1, 1)


@pytest.mark.parametrize("original_is_small", [True, False])
def test_a_copy_is_taken_only_behind_its_original(original_is_small: bool) -> None:
    earlier = pile(MOST_SMALL_SHARDS + 1)
    now = np.concatenate([*earlier.values()])
    full, small = earlier["full"][2].item(), earlier["small1"][0].item()
    repeat = (full, small) if original_is_small else (small, full)
    shards = divide(now, earlier, ROWS, [repeat])
    new = [now[number].item() for shard in shards if shard.is_new for number in shard.entries]
    assert new == ([full] if original_is_small else [])


def test_as_an_earlier_version_divided_small_shards_are_read_from_the_source() -> None:
    earlier = pile(MOST_SMALL_SHARDS + 1)
    shards = divide(np.concatenate([*earlier.values()]), earlier, ROWS, joins_small=False)
    assert [shard.is_new for shard in shards] == [False, True, True, True, True]
