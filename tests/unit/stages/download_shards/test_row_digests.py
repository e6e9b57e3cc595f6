"""What identifies a row: what it says, and how shards of earlier versions are found again."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from stages.download_shards.growth import as_digests, as_of_now
from stages.download_shards.row_digests import earlier_row_digests, row_digests
from stages.download_shards.sources.columns import FAULT
from stages.download_shards.sources.dataset_digests import RowIdentity

URLS = ["http://a/1", "http://a/2", "http://a/2", "http://a/3"]
PLAIN = {"caption": ["x", None, None, "7"], "url": URLS, "n": [1, 2, 2, None]}
LISTS: dict[str, Any] = {"captions": pa.array([["x"], None, None, ["7"]], pa.list_(pa.string()))}
FAULTS: dict[str, Any] = {FAULT: pa.nulls(4, pa.string())}
TABLES = [pa.table(PLAIN | lists | faults) for lists in ({}, LISTS) for faults in ({}, FAULTS)]


def as_before(rows: pa.Table) -> Any:
    """Return the digests that earlier versions made."""
    each = (json.dumps(row, sort_keys=True, default=str).encode() for row in rows.to_pylist())
    return as_digests(hashlib.blake2b(row, digest_size=16).digest() for row in each)


@pytest.mark.parametrize("old", range(4))
@pytest.mark.parametrize("new", range(4))
def test_shards_of_earlier_versions_are_found_again_with_and_without_faults_and_lists(old: int, new: int) -> None:
    before, now = as_before(TABLES[old]), row_digests(TABLES[new])
    known = {"0": before[:3], "1": np.concatenate([before[3:], as_digests([b"another's, and so"[:16]])])}
    found = as_of_now(known, now, lambda: earlier_row_digests(TABLES[new]))
    assert found["0"].tolist() == now[:3].tolist()
    assert found["1"].tolist() == [now[3].item(), known["1"][1].item()]
    mixed = {"0": before[:2], "1": now[2:]}  # a shard that was taken over, and one that was made since
    found = as_of_now(mixed, now, lambda: earlier_row_digests(TABLES[new]))
    assert np.concatenate([found["0"], found["1"]]).tolist() == now.tolist()


def test_values_of_one_row_count_alike_in_columns_of_every_type() -> None:
    same: list[list[Any]] = [
        [5, 5.0, "5", "5.0"],
        [None],
        [0.5, "0.5", "5e-1"],
        [True, "true"],
        [[1, 2], [1.0, 2.0], "[1, 2]"],
        [{"a": 1}, {"a": 1, "b": None}, '{"a": 1}'],
        [1234567890123456789, "1234567890123456789"],
        [1234567890123456788],
        ["05"],
        ["[" * 5000],
        ["1e999"],
        ["no"],
    ]
    found = [{row_digests(pa.table({"url": ["u"], "x": [value]}))[0].item() for value in one} for one in same]
    assert [len(digests) for digests in found] == [1] * len(same)
    assert len(set.union(*found)) == len(same)
    texts = [row_digests(pa.table({"url": ["u"], "caption": [text]}))[0].item() for text in ("5", "5.0")]
    assert len(set(texts)) == 2


def test_columns_that_another_row_needs_do_not_change_a_row() -> None:
    digests = [row_digests(table).tolist() for table in TABLES]
    assert all(one == digests[0] for one in digests)
    alone = row_digests(pa.table({"url": URLS[3:], "caption": ["7"]}))
    assert alone.tolist() == digests[0][3:]


def test_a_row_of_a_dataset_has_the_digest_of_earlier_versions_too(tmp_path: Path) -> None:
    row = {"image": {"path": "a.png", "bytes": b"image"}, "text": "a cat", "n": 5, "none": None}
    identity = RowIdentity(str(tmp_path), "image", ("text", "n", "none"), "text: string\nn: int64", 100, "text")
    before = hashlib.blake2b(json.dumps(["text: string\nn: int64", ["a cat", 5, None]]).encode(), digest_size=16)
    for part in (b"a.png", b"image"):
        before.update(hashlib.sha256(part).digest())
    assert identity.digests(row)[16:] == before.digest()
    others = RowIdentity(str(tmp_path), "image", ("n", "text", "width"), "n: double", 100, "text")
    assert others.digests({**row, "n": 5.0, "text": ["a cat", ""]})[:16] == identity.digests(row)[:16]
    for name, value in (("n", 6), ("text", "a dog"), ("image", {"path": "a.png", "bytes": b"other"})):
        assert identity.digests(row | {name: value})[:16] != identity.digests(row)[:16]
