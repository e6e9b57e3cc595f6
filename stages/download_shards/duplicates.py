"""Entries that occur more than once: by address before the download, by content after it.

Of several, the first in the order of the source counts as the original, whatever the order in which shards are done.
Values are compared by 128 bits of a hash, sorted into buckets on the disk, of which one at a time is in memory.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.formats.samples import unnumbered
from stages.formats.shards import EntryStatus, read_table
from stages.storage.artifact import Artifact

IS_DUPLICATE = "__is_duplicate__"
NUM_BUCKETS = 64
_URLS_AT_ONCE = 65_536
_DIGEST_BYTES = 16  # no two different images of the world are expected to collide
_VALUE = np.dtype([("high", "<u8"), ("low", "<u8"), ("row", "<i8")])
Indices = np.ndarray[tuple[int], np.dtype[np.int64]]


def mark_repeated(rows: pa.Table) -> pa.Table:
    """Add a column that is true where an earlier row has the same address, so that the row is not to be fetched."""
    marked = np.zeros(rows.num_rows, dtype=bool)
    marked[repeated(map(_url_digests, rows.select(["url"]).to_batches(max_chunksize=_URLS_AT_ONCE)))] = True
    return rows.append_column(IS_DUPLICATE, pa.array(marked))


def count_repeated_urls(shards: Artifact, names: Sequence[str]) -> int:
    """Count the rows of all shards whose address an earlier row has, too.

    Addresses that are recorded alike and are not the same have other keys of samples.
    """
    return len(repeated(map(_sample_digests, _read(shards, names, ["url", "key"]))))


def find_repeated_images(shards: Artifact, names: Sequence[str]) -> dict[str, Indices]:
    """Return for each shard that has any the rows whose images are, byte by byte, those of an earlier row."""
    ends: list[int] = []

    def digests() -> Iterator[list[bytes | None]]:
        for table in _read(shards, names, ["status", "sha256"]):
            ends.append(table.num_rows + (ends[-1] if ends else 0))
            images = pc.if_else(pc.equal(table["status"], EntryStatus.SUCCESS.value), table["sha256"], None)
            yield [None if found is None else bytes.fromhex(found)[:_DIGEST_BYTES] for found in images.to_pylist()]

    indices = repeated(digests())
    parts = np.split(indices, np.searchsorted(indices, ends[:-1])) if ends else []
    starts = [0, *ends[:-1]]
    return {name: part - start for name, part, start in zip(sorted(names), parts, starts, strict=True) if len(part)}


def repeated(batches: Iterable[Sequence[bytes | None]]) -> Indices:
    """Return the ascending indices of values (of 16 bytes) that have an equal at a lower index; None is no value."""
    found = [_seen_before(values) for values in bucketed(_number_all(batches), _VALUE)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *found]))


def bucketed(batches: Iterable[np.ndarray], dtype: np.dtype[Any]) -> Iterator[np.ndarray]:
    """Yield the values of all batches in other groups: those of one ``high`` together, one group in memory at a time.

    Shapes: [values] each, of a structured ``dtype`` with a field ``high`` of hashes; those of a group in their order.
    """
    with contextlib.ExitStack() as files:
        buckets = [files.enter_context(tempfile.TemporaryFile(prefix="corgi-seen-")) for _ in range(NUM_BUCKETS)]
        for values in batches:
            of = values["high"] % NUM_BUCKETS
            for bucket in np.unique(of).tolist():
                buckets[bucket].write(values[of == bucket].tobytes())
        for file in buckets:
            file.seek(0)
            yield np.frombuffer(file.read(), dtype=dtype)
            file.truncate(0)


def _number_all(batches: Iterable[Sequence[bytes | None]]) -> Iterator[np.ndarray]:
    first = 0
    for batch in batches:
        yield _numbered(batch, first)
        first += len(batch)


def _numbered(batch: Sequence[bytes | None], first: int) -> np.ndarray:
    known = [(row, value) for row, value in enumerate(batch, first) if value is not None]
    halves = np.frombuffer(b"".join(value for _, value in known), dtype="<u8").reshape(-1, 2)
    values = np.empty(len(known), dtype=_VALUE)
    values["high"], values["low"], values["row"] = halves[:, 0], halves[:, 1], [row for row, _ in known]
    return values


def _seen_before(values: np.ndarray) -> Indices:
    order = np.lexsort((values["low"], values["high"]))  # stable
    ordered = values[order]
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    rows: Indices = ordered["row"][1:][same]
    return rows


def _url_digests(rows: pa.Table | pa.RecordBatch) -> list[bytes | None]:
    return [
        None if url is None else hashlib.blake2b(url.encode(), digest_size=_DIGEST_BYTES).digest()
        for url in rows.column("url").to_pylist()
    ]


def _sample_digests(rows: pa.Table) -> list[bytes | None]:
    pairs = zip(rows["url"].to_pylist(), rows["key"].to_pylist(), strict=True)
    return [
        None
        if url is None
        else hashlib.blake2b(f"{unnumbered(key)} {url}".encode(), digest_size=_DIGEST_BYTES).digest()
        for url, key in pairs
    ]


def _read(shards: Artifact, names: Sequence[str], columns: list[str]) -> Iterator[pa.Table]:
    for name in sorted(names):
        yield read_table(shards, name, columns)
