"""Columns of tables as strangers make them: which are texts, what a caption may be, and types that a shard can hold.

The column of addresses (or file names) becomes strings, that of captions strings or lists of strings, in whatever form
Arrow holds them. A value that is no valid text costs its row (the column FAULT); a column of another shape is refused.
"""

import collections
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import Unreadable, is_text, shown
from stages.download_shards.sources.text_files import MARK
from stages.formats.source_records import Counted, Counter

FAULT = "__fault__"
"""A column of a table: null, or why the row is lost, as cause and message; see :func:`fault_of`."""
BAD_ROW = f"{FailureCause.BAD_ROW}|{FailureCause.BAD_ROW.messages[0]}: "
_NUL = "\0"
_MOST_NAMES = 20  # in a message
_OWN = frozenset({FAULT, "__is_duplicate__", "__json__", "__text__"})


@dataclass(frozen=True)
class Wanted:
    """What is to be read of a table as texts."""

    address: str
    """The column of addresses or file names."""
    caption: str | None
    address_pattern: re.Pattern[str] = re.compile("")
    """What an address looks like at its beginning."""
    encoding: str = "utf-8"

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the columns that are texts."""
        return (self.address,) if self.caption is None else (self.address, self.caption)


def as_fault(cause: FailureCause, message: str) -> str:
    """Return a value of the column FAULT."""
    usual = next(iter(cause.messages), cause.value)
    return f"{cause}|{usual}: {message}" if message else f"{cause}|{usual}"


def fault_of(text: str | None) -> ItemFault | None:
    """Return what a value of the column FAULT says."""
    if text is None:
        return None
    cause, _, message = text.partition("|")
    return ItemFault(FailureCause(cause), message)


def count_faults(rows: pa.Table) -> dict[str, Counted]:
    """Count the rows that are lost, by cause, with the address of the first, or else what is wrong with it."""
    counter = Counter()
    if FAULT in rows.column_names and rows[FAULT].null_count < len(rows):
        for row in rows.select([FAULT, "url"]).filter(pc.is_valid(rows[FAULT])).to_pylist():
            fault = fault_of(row[FAULT])
            if fault is not None:
                counter.add(fault.cause, row["url"] or str(fault))
    return counter.counted


def with_texts(table: pa.Table, wanted: Wanted) -> pa.Table:
    """Return the table with its texts as strings; FAULT is its last column, if any row is lost."""
    table = pa.Table.from_arrays(table.columns, names=[name.lstrip(MARK) for name in table.column_names])
    refuse_repeated(table.column_names)
    faults: dict[int, str] = {}
    if FAULT in table.column_names:
        faults = {row: text for row, text in enumerate(table[FAULT].to_pylist()) if text is not None}
        table = table.drop_columns([FAULT])
    for name, convert in ((wanted.address, texts_of), (wanted.caption, captions_of)):
        if name is None or name not in table.column_names:
            continue
        column, found = convert(table[name], name)
        table = table.set_column(table.column_names.index(name), name, column)
        for row, reason in found.items():
            faults.setdefault(row, as_fault(FailureCause.BAD_ROW, f"column {shown(name, 40)!r}: {reason}"))
    if faults:
        table = table.append_column(FAULT, pa.array([faults.get(row) for row in range(len(table))], pa.string()))
    return table


def refuse_own(names: Iterable[str]) -> None:
    """Refuse a table that has columns of the names that are added to its rows on their way to the workers."""
    own = sorted(_OWN & set(names))
    if own:
        raise Unreadable(f"a column is named {', '.join(own)}, as are columns of this program", "give it another name")


def refuse_repeated(names: Sequence[str]) -> None:
    """Refuse names that several columns have."""
    repeated = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if repeated:
        raise Unreadable(
            f"several columns are named {', '.join(shown(name, 40) for name in repeated[:_MOST_NAMES])}"
            f"{', …' if len(repeated) > _MOST_NAMES else ''}",
            "give each its own name",
        )


# ---- texts


def texts_of(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Return a column of addresses as strings, and why by row where a value is no valid text."""
    kind = without_wrapping(column.type)
    if not (is_texts(kind) or pa.types.is_integer(kind)):
        raise Unreadable(f"column {shown(name, 40)!r} holds {shown(kind, 60)}: addresses and names are texts")
    return _strings(column, kind)


def captions_of(column: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Return a column of captions as strings or as lists of strings, and why by row where a value is no valid text."""
    kind = without_wrapping(column.type)
    if pa.types.is_floating(kind) and _are_missing(column.cast(kind)):  # as pandas writes a column without values
        return pa.chunked_array([pa.nulls(len(column), pa.string())]), {}
    require_captions(kind, name)
    return _strings(column, kind) if is_texts(kind) else _lists(column)


def _are_missing(column: pa.ChunkedArray) -> bool:
    """Return whether all floats of a column are null or NaN."""
    return bool(pc.all(pc.is_null(column, nan_is_null=True), min_count=0).as_py())


def require_captions(kind: pa.DataType, name: str) -> None:
    """Refuse the type of a column of captions that are neither texts nor lists of texts."""
    kind = without_wrapping(kind)
    if is_texts(kind) or (is_list(kind) and is_texts(without_wrapping(kind.value_type))):
        return
    raise Unreadable(
        f"column {shown(name, 40)!r} holds {shown(kind, 60)}: captions are texts or lists of texts",
        "set download_shards.source.caption_column to another column, or make texts of this one",
    )


def is_list(kind: pa.DataType) -> bool:
    """Return whether the values of a type are lists."""
    types = pa.types
    return is_list_view(kind) or any(
        test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list)
    )


def is_list_view(kind: pa.DataType) -> bool:
    """Return whether a type is a view of lists, which Arrow 25 casts wrongly where there are nulls."""
    return bool(pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind))


def is_texts(kind: pa.DataType) -> bool:
    """Return whether the values of a type are texts: strings, or bytes that may be some."""
    types = pa.types
    strings = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    return any(test(kind) for test in strings) or is_bytes(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether the values of a type are bytes."""
    types = pa.types
    tests = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(test(kind) for test in tests)


def without_wrapping(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a dictionary or of an extension."""
    while True:
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        else:
            return kind


def _strings(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, dict[int, str]]:
    """Read values one by one only where there is one that is no valid text."""
    try:
        texts = (column if column.type == kind else column.cast(kind)).cast(pa.string())
        texts.validate(full=True)
        if not pc.any(pc.match_substring(texts, _NUL)).as_py():
            return pc.utf8_ltrim(texts, characters=MARK), {}
    except pa.ArrowException:
        pass
    faults: dict[int, str] = {}
    values = _bytes(column)
    found = [text_of(value, row, faults) for row, value in enumerate(values)]
    return pa.chunked_array([pa.array(found, pa.string())]), faults


def _bytes(column: pa.ChunkedArray) -> list[Any]:
    kind = without_wrapping(column.type)
    plain_column = column if column.type == kind else column.cast(kind)
    if not is_bytes(kind) and not pa.types.is_integer(kind):
        plain_column = plain_column.cast(pa.large_binary())
    return list(plain_column.to_pylist())


def text_of(value: Any, row: int, faults: dict[int, str]) -> str | None:
    """Return a value as a text, or None and a fault of its row."""
    if value is None:
        return None
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        faults[row] = f"the value is not UTF-8: {shown(value.decode(errors='backslashreplace'), 60)}"
        return None
    if not is_text(text) or _NUL in text:
        what = "holds a NUL" if _NUL in text else "is no valid text"
        faults[row] = f"the value {what}: {shown(text, 60)}"
        return None
    return text.lstrip(MARK)


def _lists(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, dict[int, str]]:
    faults: dict[int, str] = {}
    values = column.to_pylist() if is_list_view(column.type) else column.cast(pa.list_(pa.binary())).to_pylist()
    found = [
        None if value is None else [text_of(one, row, faults) for one in value] for row, value in enumerate(values)
    ]
    return pa.chunked_array([pa.array(found, pa.list_(pa.string()))]), faults
