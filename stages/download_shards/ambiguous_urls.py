"""Addresses of a list that differ, and are the same in what a shard records of them.

``?key=cat.jpg`` and ``?key=dog.jpg`` differ in a parameter that is a secret by its name and says here which image is
meant. Such addresses get names of their own, which hold a hash of what differs. All others are called by what is
recorded of them, so that a signature that is renewed gives no new sample: a parameter that stands in a list with one
value for one address counts as a secret, and enters no hash.

What can be nothing but a secret (signatures, passwords) never enters one. From a hash, a random token cannot be found.
A short text can, by somebody who tries all of them: a hash that tells millions of addresses apart cannot hide it, and
one with a secret of its own would give the same list other keys in another store.

A webdataset is read a tar at a time, and no tar knows the addresses of the others: there, a sample whose recorded
address hides such a parameter is not called by it (:func:`hides_identity`), but by its tar and key.
"""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from stages.contract.secrets import MASK, redact_parameters, redact_signatures
from stages.download_shards.duplicates import Indices, bucketed
from stages.download_shards.http.fetch import recorded_url, without_logins

IS_AMBIGUOUS = "__is_ambiguous__"
"""The column that is true where another address of the list is recorded alike; there is none where no one is."""
_URLS_AT_ONCE = 65_536
_HASH_BYTES = 8  # among a million addresses that are recorded alike, two collide with a chance of one in 10^7
_VALUE = np.dtype([("high", "<u8"), ("low", "<u8"), ("own", "<u8"), ("row", "<i8")])


def mark_ambiguous_urls(rows: pa.Table) -> pa.Table:
    """Return the rows, with a column :data:`IS_AMBIGUOUS` where different addresses are recorded alike."""
    ambiguous = find_ambiguous_urls(batch.column("url").to_pylist() for batch in _batches(rows))
    if not len(ambiguous):
        return rows
    marked = np.zeros(rows.num_rows, dtype=bool)
    marked[ambiguous] = True
    return rows.append_column(IS_AMBIGUOUS, pa.array(marked))


def find_ambiguous_urls(batches: Iterator[Sequence[str | None]]) -> Indices:
    """Return the ascending indices of addresses that are recorded as another one is that is not the same.

    Hashes of those that may be, 32 bytes each, are sorted into temporary files, one of which is in memory at a time.
    """
    found = [_not_alone(values) for values in bucketed(_number_all(batches), _VALUE)]
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *found]))


def name_of_ambiguous_url(url: str) -> str:
    """Return the name of the sample at an address that is recorded as others are."""
    return f"{recorded_url(url)} {_hash(_own(url)).hex()}"


def hides_identity(recorded: str) -> bool:
    """Return whether what is masked in a recorded address may have said which image is meant (``?key=…``)."""
    open_values = recorded.replace(MASK, "_")
    return redact_parameters(open_values) != redact_signatures(open_values)


def _batches(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    yield from rows.select(["url"]).to_batches(max_chunksize=_URLS_AT_ONCE)


def _number_all(batches: Iterator[Sequence[str | None]]) -> Iterator[np.ndarray]:
    first = 0
    for batch in batches:
        found = [
            (*np.frombuffer(_hash(recorded, 16), "<u8"), *np.frombuffer(_hash(own), "<u8"), row)
            for row, url in enumerate(batch, first)
            if url is not None and ("?" in url or "%" in url)
            if (recorded := recorded_url(url)) != (own := _own(url)) or MASK in url
        ]
        yield np.array(found, dtype=_VALUE)
        first += len(batch)


def _own(url: str) -> str:
    return redact_signatures(without_logins(url))


def _hash(text: str, size: int = _HASH_BYTES) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _not_alone(values: np.ndarray) -> Indices:
    """Return the rows of those that have the recorded address in common with another one of another hash."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    ordered = values[np.lexsort((values["low"], values["high"]))]
    same = (ordered["high"][1:] == ordered["high"][:-1]) & (ordered["low"][1:] == ordered["low"][:-1])
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    differ = np.minimum.reduceat(ordered["own"], starts) != np.maximum.reduceat(ordered["own"], starts)
    rows: Indices = ordered["row"][np.repeat(differ, np.diff([*starts, len(ordered)]))]
    return rows
