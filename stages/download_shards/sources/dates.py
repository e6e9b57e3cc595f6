"""Dates, times and durations of strangers: where Python has no value for one, it becomes text.

Python knows the years 1 to 9999 alone, and the time zones of its database. 0000-01-01 as MySQL writes "no date",
9999-12-31T23:59:59Z in a zone that is ahead of it, or a zone of another name would otherwise end whatever makes rows of
a table.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.download_shards.sources.columns import is_list, is_list_view, without_wrapping

UNREADABLE = (pa.ArrowException, ValueError, OverflowError, KeyError, OSError)
"""What Arrow raises where it makes a value Python's own, or another column of one: a zone that is a folder among it."""
_UTC = "UTC"


def holds_dates(kind: pa.DataType) -> bool:
    """Return whether values of a type are dates, times or durations, or may hold some."""
    kind = without_wrapping(kind)
    if pa.types.is_union(kind) or pa.types.is_struct(kind):
        return any(holds_dates(kind.field(index).type) for index in range(kind.num_fields))
    if pa.types.is_map(kind):
        return holds_dates(kind.key_type) or holds_dates(kind.item_type)
    if is_list(kind) or pa.types.is_run_end_encoded(kind):
        return holds_dates(kind.value_type)
    return bool(pa.types.is_temporal(kind))


def has_readable_dates(column: pa.ChunkedArray | pa.Array) -> bool:
    """Return whether Python has a value for every date in a column, wherever it lies in its values."""
    try:
        _require_readable(column)
    except UNREADABLE:
        return False
    return True


def _require_readable(column: pa.ChunkedArray | pa.Array) -> None:
    kind = column.type
    if not holds_dates(kind):
        return
    if is_list(kind) and not is_list_view(kind):
        _require_readable(pc.list_flatten(column))
    elif pa.types.is_struct(kind):
        for index in range(kind.num_fields):
            _require_readable(pc.struct_field(column, [index]))
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        pc.min_max(column).as_py()  # what lies between two values that can be read can be read
    else:
        for value in column:
            value.as_py()


def with_readable_dates(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as it is, or with texts for all its dates where one of them cannot be read."""
    return column if has_readable_dates(column) else with_texts_for_dates(column)


def with_texts_for_dates(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column with texts in place of dates, wherever they lie in its values; the rest stays as it is.

    Its type depends on that of the column alone. A date in a zone that is not known is written in UTC.

    Raises:
        pyarrow.ArrowException: the type is one that Arrow does not convert.
    """
    if is_list_view(column.type):
        raise pa.ArrowNotImplementedError("views of lists are not converted")
    try:
        return column.cast(_with_type(column.type, pa.string()))
    except pa.ArrowInvalid:
        return column.cast(_with_type(column.type, None)).cast(_with_type(column.type, pa.string()))


def _with_type(kind: pa.DataType, dates: pa.DataType | None) -> pa.DataType:
    """Return a type with another one for dates; None: the same in UTC."""
    if not holds_dates(kind):
        return kind
    kind = without_wrapping(kind)
    if is_list(kind):
        return pa.list_(_with_type(kind.value_type, dates))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_with_type(field.type, dates)) for field in kind])
    if dates is None:
        return pa.timestamp(kind.unit, _UTC) if pa.types.is_timestamp(kind) and kind.tz else kind
    return dates


def python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return rows as Python's own, with the text of each value that Python does not know."""
    try:
        return list(batch.to_pylist())
    except UNREADABLE:
        columns = [map(python_value, column) for column in batch.columns]
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def python_value(value: pa.Scalar) -> Any:
    """Return a value as Python's own: as a text if Python does not know it, or with texts for those in it."""
    try:
        return value.as_py()
    except UNREADABLE:
        pass
    kind = value.type
    if pa.types.is_struct(kind):
        return {name: python_value(value[index]) for index, name in enumerate(kind.names)}
    if pa.types.is_map(kind):
        return [(python_value(one[0]), python_value(one[1])) for one in value.values]
    if is_list(kind):
        return [python_value(one) for one in value.values]
    if isinstance(inner := getattr(value, "value", None), pa.Scalar):  # of a dictionary, an extension or a union
        return python_value(inner)
    return _text_of(value)


def _text_of(value: pa.Scalar) -> str | None:
    for of_same_time in (value.type, _with_type(value.type, None)):
        try:
            return str(value.cast(of_same_time).cast(pa.string()))
        except UNREADABLE:  # bytes that are no text, too
            continue
    return None
