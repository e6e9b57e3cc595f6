"""Nothing of a source is unaccounted for: the stage itself adds up images, failures and skips."""

import pytest

from stages.contract.errors import FailureCause, ItemFault, Unaccounted
from stages.download_shards.sources.base import Entry, Skipped
from stages.download_shards.stage import check_accounts
from stages.download_shards.worker import check_count, without_skipped
from stages.formats.shards import ShardRecord
from stages.formats.source_records import Counted, Counter, SourceRecord

ONE = {"hidden_file": Counted(count=1, example=".x")}


def record(**changes):
    return ShardRecord(**({"rows": 3, "images": 2, "captioned": 0, "failures": {"http_404": 1}} | changes))


@pytest.mark.parametrize(
    ("shard", "source"),
    [
        (record(), SourceRecord()),
        (record(), SourceRecord(found=3)),
        (record(skips=ONE), SourceRecord()),
        (record(), SourceRecord(found=6, used={"captions": 2}, skips=ONE)),
    ],
)
def test_what_adds_up_passes(shard, source):
    check_accounts({"00000": shard}, source)


@pytest.mark.parametrize(
    ("shard", "source"),
    [
        (record(images=1), SourceRecord()),
        (record(), SourceRecord(found=4)),
        (record(failures={}), SourceRecord(found=3)),
        (record(), SourceRecord(found=5, skips=ONE)),
    ],
)
def test_what_does_not_add_up_ends_the_stage_with_the_numbers(shard, source):
    with pytest.raises(Unaccounted, match=r"\d entries, which became \d images, \d counted failures and \d counted"):
        check_accounts({"00000": shard}, source)


def test_a_shard_adds_up_what_its_part_holds():
    skips = Counter()
    given: list[Entry | Skipped] = [
        Entry(0, {}, b""),
        Skipped(FailureCause.HIDDEN_FILE, ".x"),
        Entry(1, {}, ItemFault(FailureCause.NO_IMAGE)),
    ]
    assert [entry.index for entry in without_skipped(iter(given), skips)] == [0, 1]
    check_count("00000", 3, 2, skips)
    with pytest.raises(Unaccounted, match="shard 00000: its part of the source has 4 entries, of which 2 were read"):
        check_count("00000", 4, 2, skips)
