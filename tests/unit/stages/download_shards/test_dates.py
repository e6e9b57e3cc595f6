"""Dates that Python does not know become texts wherever they lie in a value; everything else stays as it is."""

import datetime
import json
from typing import Any

import pyarrow as pa
import pytest

from stages.download_shards.sources.column_types import plain, storable
from stages.download_shards.sources.dates import python_rows, python_value

YEAR_0, FAR = -62167219200, 10**12
UNKNOWN: dict[str, tuple[pa.DataType, Any, str]] = {
    "year 0": (pa.timestamp("s"), YEAR_0, "0000-01-01 00:00:00"),
    "far": (pa.timestamp("s"), FAR, "<value out of range: 1000000000000>"),
    "ahead of the end": (pa.timestamp("s", "Asia/Tokyo"), 253402300799, "10000-01-01 08:59:59+0900"),
    "unknown zone": (pa.timestamp("us", "Not/AZone"), 1, "1970-01-01 00:00:00.000001Z"),
    "date": (pa.date32(), 2**31 - 1, "<value out of range: 2147483647>"),
    "milliseconds": (pa.date64(), 864 * 10**15, "<value out of range: 864000000000000000>"),
    "duration": (pa.duration("s"), 2**62, str(2**62)),
}


def chunked(values: list[Any], kind: pa.DataType) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values[:1], kind), pa.array(values[1:], kind)])


def within(kind: pa.DataType, value: Any, form: str) -> tuple[pa.DataType, Any]:
    """Return the type of values that hold some of another type, and one of these."""
    match form:
        case "itself":
            return kind, value
        case "list":
            return pa.list_(kind), [value, None]
        case "struct":
            return pa.struct([("when", kind), ("count", pa.int32())]), {"when": value, "count": 7}
        case "structs":
            return pa.list_(pa.struct([("when", kind), ("count", pa.int32())])), [{"when": value, "count": 7}]
        case _:
            return pa.map_(pa.string(), kind), [("when", value)]


@pytest.mark.parametrize("form", ["itself", "list", "struct", "structs", "map"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_a_date_that_python_does_not_know_becomes_a_text_and_costs_nothing_else(name: str, form: str) -> None:
    kind, value, text = UNKNOWN[name]
    outer, held = within(kind, value, form)
    column = chunked([held, None], outer)
    _, expected = within(pa.string(), text, form)
    assert python_value(column[0]) == expected
    made = plain(column).to_pylist()
    assert made == [json.dumps(expected) if form == "map" else expected, None]  # a list has no column of maps
    if form in {"itself", "list"}:
        assert storable(column).to_pylist() == made
    batch = pa.record_batch({"when": column.combine_chunks(), "n": [1, 2]})
    assert python_rows(batch) == [{"when": expected, "n": 1}, {"when": None, "n": 2}]


@pytest.mark.parametrize("form", ["itself", "list", "struct", "structs"])
def test_dates_that_python_knows_keep_their_type(form: str) -> None:
    when = datetime.datetime(2020, 2, 29, 12)
    kind, value = within(pa.timestamp("us"), when, form)
    for convert in (plain, storable):
        made = convert(chunked([value, None], kind))
        assert (made.type, made.to_pylist()) == (kind, [value, None])


def test_a_column_is_of_texts_in_every_part_where_one_part_needs_it() -> None:
    fine = chunked([0, None], pa.timestamp("s"))
    assert storable(fine, dates_as_texts=True).to_pylist() == ["1970-01-01 00:00:00", None]


def test_values_for_which_parquet_has_no_type_become_texts() -> None:
    interval = chunked([(1, 2, 3), None], pa.month_day_nano_interval())
    assert storable(interval).to_pylist() == ["[1, 2, 3]", None]
