"""What stands in a source more than once: found in any order of values, with the first one kept."""

import pickle
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.download_shards.duplicates import (
    IS_DUPLICATE,
    count_repeated_urls,
    find_repeated_images,
    mark_repeated,
    repeated,
)
from stages.download_shards.sources.rows import cut
from stages.formats.samples import sample_keys
from stages.storage.artifact import Output


@pytest.mark.parametrize("values", [0, 1, 40, 5000])
def test_indices_of_repeated_values_are_those_of_a_set(values: int) -> None:
    rng = random.Random(values)
    listed = [rng.choice([None, rng.randbytes(16), bytes([rng.randrange(9)] * 16)]) for _ in range(values)]
    seen: set[bytes] = set()
    expected = []
    for index, value in enumerate(listed):
        if value is not None and value in seen:
            expected.append(index)
        elif value is not None:
            seen.add(value)
    assert repeated([listed[first : first + 700] for first in range(0, values, 700)]).tolist() == expected


def test_values_that_differ_in_one_half_alone_are_not_the_same() -> None:
    assert repeated([[b"a" * 8 + b"b" * 8, b"a" * 8 + b"c" * 8, b"d" * 8 + b"b" * 8]]).tolist() == []


def test_rows_whose_address_stood_before_are_marked() -> None:
    urls = ["http://a", None, "http://b", "http://a", None, "http://á", "http://b"]
    marked = mark_repeated(pa.table({"url": urls, "more": range(7)}))
    assert marked[IS_DUPLICATE].to_pylist() == [False, False, False, True, False, False, True]
    assert marked["more"].to_pylist() == list(range(7))


def test_images_and_addresses_are_compared_over_all_shards(tmp_path: Path) -> None:
    shards = Output(str(tmp_path), "download_shards", "d")
    a, b, c = (letter * 64 for letter in "abc")
    ok, bad = "success", "failed_to_download"
    one, two = sample_keys(["u", "u"])
    (other,) = sample_keys(["another address, recorded as u"])
    made: dict[str, list[tuple[str, str | None, str | None, str]]] = {
        "00000": [(ok, a, "u", one), (bad, None, "v", "k1"), (ok, b, "w", "k2")],
        "00001": [],
        "00002": [(bad, None, "x", "k3"), (ok, c, "u", two), (ok, a, "y", "k4"), (ok, c, "z", "k5")],
        "00003": [(ok, b, None, "k6"), (bad, None, "u", other)],
    }
    for name, rows in made.items():
        columns = {
            column: pa.array([row[n] for row in rows], pa.string())
            for n, column in enumerate(("status", "sha256", "url", "key"))
        }
        with shards.writing(f"shards/{name}.parquet") as path:
            pq.write_table(pa.table(columns), path)
    found = find_repeated_images(shards, ["00002", "00000", "00003", "00001"])
    assert {name: rows.tolist() for name, rows in found.items()} == {"00002": [2, 3], "00003": [0]}
    assert count_repeated_urls(shards, list(made)) == 1


def test_a_part_takes_its_own_rows_along_and_no_others() -> None:
    table = pa.table({"url": [f"http://host/{number}" for number in range(10_000)]})
    parts = cut(table, 3000)
    assert [part.rows().num_rows for part in parts] == [3000, 3000, 3000, 1000]
    sent = pickle.dumps(parts[3])
    assert len(sent) < 60_000
    assert pickle.loads(sent).rows().equals(table.slice(9000))
    assert pa.concat_tables([part.rows() for part in parts]).equals(table)
