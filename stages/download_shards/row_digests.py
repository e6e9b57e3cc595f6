"""What identifies a row of a table: what it says, whatever the other rows say.

A table has columns that exist because some row needs them, and the types of its columns are those of all values: one
bad row, one second caption or one fraction would otherwise change all rows.
"""

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from stages.contract.parsing import load_json
from stages.download_shards.ambiguous_urls import IS_AMBIGUOUS, name_of_ambiguous_url
from stages.download_shards.growth import DIGEST_BYTES, Digests, as_digests
from stages.download_shards.http.fetch import recorded_url
from stages.download_shards.sources.base import Growth
from stages.download_shards.sources.rows import take

_ROWS_AT_ONCE = 65_536
_FAULT = "__fault__"
_TEXTS = frozenset({"url", "caption", "captions", _FAULT, "__json__", "__text__"})
"""Columns that are texts in every table."""
_MAY_BE_JSON = re.compile(r"[-0-9\[{]|true$|false$")
Row = Mapping[str, Any]


def row_digests(rows: pa.Table, contents: Sequence[bytes] | None = None) -> Digests:
    """Return the digest of each row, with that of its content where it is known; addresses count without secrets.

    Of addresses that are the same without them and are not the same, each counts by its own name. A null counts as no
    column, a number as itself whether it is a text, whole or a float.
    """
    return _digests(rows, contents, own_values)


def earlier_row_digests(rows: pa.Table, contents: Sequence[bytes] | None = None) -> list[Digests]:
    """Return the digests that earlier versions made of these rows: of all columns that the table had.

    Whether there were faults and several captions in that table is not known, so there is one for each case.
    """
    cases = itertools.product((False, True), (False, True))
    return [_digests(rows, contents, _earlier_form(*case)) for case in cases]


def growth_of(rows: pa.Table, rows_per_shard: int, contents: Sequence[bytes] | None = None) -> Growth:
    """Return the rows of a table as the entries of a source."""
    earlier = functools.cache(functools.partial(earlier_row_digests, rows, contents))  # of several artifacts
    return Growth(row_digests(rows, contents), functools.partial(take, rows), rows_per_shard, earlier)


def own_values(row: Row) -> dict[str, Any]:
    """Return what a row says, in a form that does not depend on other rows of its table."""
    said = {name: value if name in _TEXTS else plain_value(value) for name, value in row.items()}
    if len(said.get("captions") or ()) < 2:  # the only one is in the column of one caption
        said.pop("captions", None)
    return {name: value for name, value in said.items() if value is not None}


def plain_value(value: Any) -> Any:
    """Return a value of JSON in one form, also where its column is of texts because of another row."""
    if isinstance(value, str) and _MAY_BE_JSON.match(value):
        try:
            value = load_json(value)
        except ValueError:
            return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return int(value) if value.is_integer() else value
    if isinstance(value, dict):  # a struct has the fields of all rows
        return {name: made for name, one in value.items() if (made := plain_value(one)) is not None}
    return [plain_value(one) for one in value] if isinstance(value, list) else value


def _earlier_form(has_faults: bool, has_lists: bool) -> Callable[[Row], dict[str, Any]]:
    def form(row: Row) -> dict[str, Any]:
        said = dict(row)
        if has_faults:
            said.setdefault(_FAULT, None)
        elif said.get(_FAULT) is None:
            said.pop(_FAULT, None)
        if has_lists and "caption" in said:
            said.setdefault("captions", None if said["caption"] is None else [said["caption"]])
        elif len(said.get("captions") or ()) < 2:
            said.pop("captions", None)
        return said

    return form


def _digests(rows: pa.Table, contents: Sequence[bytes] | None, form: Callable[[Row], dict[str, Any]]) -> Digests:
    found = (json.dumps(form(row), sort_keys=True, default=str) for row in _named(rows))
    parts = (row.encode("utf-8", "surrogatepass") for row in found)
    if contents is not None:
        parts = (row + b"\0" + content for row, content in zip(parts, contents, strict=True))
    return as_digests(hashlib.blake2b(part, digest_size=DIGEST_BYTES).digest() for part in parts)


def _named(rows: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows, with the addresses by which they are known."""
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            is_ambiguous = row.pop(IS_AMBIGUOUS, False)
            if row.get("url"):
                row["url"] = name_of_ambiguous_url(row["url"]) if is_ambiguous else recorded_url(row["url"])
            yield row
