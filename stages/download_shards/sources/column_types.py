"""Further columns of tables: in types that Parquet can hold and Python can read, the same in all tables of a list."""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from stages.contract.parsing import clean_text
from stages.download_shards.sources.columns import FAULT, is_bytes, is_list, is_list_view, is_texts, without_wrapping
from stages.download_shards.sources.dates import UNREADABLE, python_value, with_readable_dates, with_texts_for_dates


def as_texts(values: Iterable[Any]) -> pa.Array:
    """Return any values as texts: those that are none as JSON writes them."""
    return pa.array([None if value is None else _as_text(value) for value in values], pa.string())


def _as_text(value: Any) -> str:
    return clean_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def with_plain_types(table: pa.Table, texts: Iterable[str]) -> pa.Table:
    """Return the table with its further columns in such types."""
    kept = {*texts, FAULT}
    for name in table.column_names:
        if name not in kept:
            table = _with(table, name, plain(table[name]))
    return table


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a further column in a type that Parquet can hold and Python can read, else as texts."""
    kind = _plain_type(column.type)
    try:
        made = _cast(column, kind)
        made.validate(full=True)
        return with_readable_dates(made)
    except UNREADABLE:
        return _texts_of_any(column)


def storable(column: pa.ChunkedArray, *, dates_as_texts: bool = False) -> pa.ChunkedArray:
    """Return a column in the type that it has, if Parquet can hold it and Python can read it, else as :func:`plain`.

    ``dates_as_texts``: its dates are texts, though all of them can be read.
    """
    if _is_unknown_to_parquet(column.type):
        return plain(column)
    try:
        return with_texts_for_dates(column) if dates_as_texts else with_readable_dates(column)
    except UNREADABLE:
        return _texts_of_any(column)


def _is_unknown_to_parquet(kind: pa.DataType) -> bool:
    kind = without_wrapping(kind)
    if is_list(kind):
        return _is_unknown_to_parquet(kind.value_type)
    return bool(pa.types.is_interval(kind) or pa.types.is_run_end_encoded(kind))


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if kind == column.type:
        return column
    return pa.chunked_array([pa.array(column.to_pylist(), kind)]) if is_list_view(column.type) else column.cast(kind)


def _texts_of_any(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        made = column.cast(pa.string())
        made.validate(full=True)
        return made
    except pa.ArrowException:
        return pa.chunked_array([as_texts(map(python_value, column))])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    kind = without_wrapping(kind)
    if is_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    if pa.types.is_struct(kind) and kind.num_fields:  # Parquet has none without
        return pa.struct([pa.field(field.name, _plain_type(field.type)) for field in kind])
    if is_bytes(kind):
        return pa.binary()
    if pa.types.is_null(kind):
        return kind
    types = pa.types
    tests = (types.is_map, types.is_union, types.is_interval, types.is_duration, types.is_struct, is_texts)
    return pa.string() if any(test(kind) for test in tests) else kind


def join(tables: Sequence[pa.Table], caption: str | None = None) -> pa.Table:
    """Join tables whose columns may differ: one that is absent is null, one of several types is as texts.

    The column ``caption`` holds texts, or lists of texts where one of the tables does.
    """
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        columns = [table.select([name]) for table in tables if name in table.column_names]
        if len({column.schema for column in columns}) < 2:
            continue
        if name == caption:
            tables = _each_with(tables, name, _lists_of_texts)
        elif not _can_be_joined(columns):
            tables = _each_with(tables, name, _texts_of_any)
    return pa.concat_tables(tables, promote_options="permissive")


def _can_be_joined(columns: Sequence[pa.Table]) -> bool:
    """Return whether there is a type that holds all values: large whole numbers beside fractions have none."""
    try:
        pa.concat_tables(columns, promote_options="permissive")
    except pa.ArrowException:
        return False
    return True


def _lists_of_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of lists as it is, and one of texts as lists of one each; null stays null."""
    if is_list(column.type):
        return column
    lists = [None if text is None else [text] for text in column.to_pylist()]
    return pa.chunked_array([pa.array(lists, pa.list_(pa.string()))])


def _each_with(
    tables: Sequence[pa.Table], name: str, convert: Callable[[pa.ChunkedArray], pa.ChunkedArray]
) -> list[pa.Table]:
    """Return the tables with the column of this name converted, where they have it."""
    return [_with(table, name, convert(table[name])) if name in table.column_names else table for table in tables]


def _with(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)
