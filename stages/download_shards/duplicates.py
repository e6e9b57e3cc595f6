"""Entries that occur more than once: by address before the download, by content after it.

Of several, the first in the order of the source counts as the original, whatever the order in which shards are done.
"""

import collections
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.artifacts import Artifact

IS_DUPLICATE = "__is_duplicate__"
DUPLICATE_URL = "duplicate address"
DUPLICATE_CONTENT = "duplicate content"
_DIGEST_BYTES = 16  # of SHA-256: enough to tell all images of the world apart


def mark_repeated(rows: pa.Table) -> pa.Table:
    """Add a column that tells which rows are not to be fetched because their address stood in the list before."""
    return rows.append_column(IS_DUPLICATE, pa.array(_repeated(rows["url"].cast(pa.large_string()))))


def count_repeated_urls(shards: Artifact, names: Sequence[str]) -> int:
    """Count the rows of all shards whose address stands in an earlier row."""
    urls = [table["url"].cast(pa.large_string()) for table in _read(shards, names, ["url"])]
    return int(
        _repeated(pa.chunked_array([chunk for column in urls for chunk in column.chunks], pa.large_string())).sum()
    )


def find_repeated_images(shards: Artifact, names: Sequence[str]) -> dict[str, set[str]]:
    """Return for each shard the keys of its images that are byte by byte those of an earlier row."""
    digests, keys, owners = [], [], []
    for name, table in zip(sorted(names), _read(shards, names, ["key", "status", "sha256"]), strict=True):
        images = table.filter(pc.equal(table["status"], "success"))
        values = [bytes.fromhex(digest)[:_DIGEST_BYTES] for digest in images["sha256"].to_pylist()]
        digests.append(pa.array(values, pa.binary(_DIGEST_BYTES)))
        keys.append(images["key"])
        owners += [name]
    repeated = _repeated(pa.chunked_array(digests, pa.binary(_DIGEST_BYTES)))
    found: dict[str, set[str]] = collections.defaultdict(set)
    start = 0
    for name, column in zip(owners, keys, strict=True):
        for offset in np.flatnonzero(repeated[start : start + len(column)]).tolist():
            found[name].add(column[offset].as_py())
        start += len(column)
    return dict(found)


def _read(shards: Artifact, names: Sequence[str], columns: list[str]) -> Iterable[pa.Table]:
    for name in sorted(names):
        with shards.open(f"shards/{name}.parquet") as file:
            yield pq.read_table(file, columns=columns)


def _repeated(values: pa.ChunkedArray) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Number the distinct values by first appearance: one whose number is no higher than before is a repetition."""
    encoded = values.combine_chunks().dictionary_encode()
    numbers = np.asarray(encoded.indices.fill_null(-1))
    before = np.maximum.accumulate(np.concatenate([[-1], numbers]))[:-1]
    repeated: np.ndarray[tuple[int], np.dtype[np.bool_]] = (numbers >= 0) & (numbers <= before)
    return repeated
