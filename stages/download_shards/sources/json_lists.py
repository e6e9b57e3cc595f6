"""Lists in JSON, in all forms that pandas writes, and in JSON lines: columns are those of all records."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import pyarrow as pa

from stages.contract.errors import FailureCause
from stages.contract.parsing import Unreadable, clean_text, is_text, load_json, shown
from stages.download_shards.sources.column_types import as_texts, join
from stages.download_shards.sources.columns import FAULT, Wanted, as_fault, refuse_own, refuse_repeated, text_of
from stages.download_shards.sources.text_files import MARK, read_lines

MAX_DOCUMENT = 1_000_000_000  # bytes; a longer list is one of JSON lines
_ROWS_AT_ONCE = 65_536
_WHAT = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
Record = tuple[int, dict[str, Any] | str]
"""A record by its number, or what is wrong with it."""
_FORMS = "a list of records, or one of the forms of pandas: columns, index, split, table"


class _Rows:
    """Records by the number of their line or of themselves, and what is wrong with some of them."""

    def __init__(self, numbered: Sequence[Record], what: str) -> None:
        self.numbers = [f"{what} {number}" for number, _ in numbered]
        self.faults = {row: found for row, (_, found) in enumerate(numbered) if isinstance(found, str)}
        self._records = [found if isinstance(found, dict) else {} for _, found in numbered]

    def names(self) -> list[str]:
        """Return the names of all fields of all records."""
        return list(dict.fromkeys(name for record in self._records for name in record))

    def values(self, name: str) -> list[Any]:
        """Return the values of a field."""
        return [record.get(name) for record in self._records]

    def texts(self, values: Sequence[Any]) -> pa.Array:
        """Return texts; what is no valid one costs its row."""
        return pa.array([text_of(value, row, self.faults) for row, value in enumerate(values)], pa.string())

    def lists(self, values: Sequence[Any]) -> pa.Array:
        """Return lists of texts."""
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        found = [
            None if one is None else [text_of(text, row, self.faults) for text in one] for row, one in enumerate(lists)
        ]
        return pa.array(found, pa.list_(pa.string()))

    def messages(self) -> pa.Array:
        """Return the column FAULT."""
        found = [
            as_fault(FailureCause.BAD_ROW, f"{number}: {self.faults[row]}") if row in self.faults else None
            for row, number in enumerate(self.numbers)
        ]
        return pa.array(found, pa.string())


def as_table(numbered: Sequence[Record], wanted: Wanted, what: str) -> pa.Table:
    """Return a table of records, ``what`` they are called in messages."""
    rows = _Rows(numbered, what)
    refuse_own(rows.names())
    columns: dict[str, Any] = {}
    for name in rows.names():
        values = rows.values(name)
        if name.lstrip(MARK) == wanted.address:
            values = [_without_nan(value) for value in values]
            _require_texts(values, rows, name, "addresses and names are texts", allowed=(str, int))
            columns[name] = rows.texts(values)
        elif name == wanted.caption:
            values = [_without_nan(value) for value in values]
            flat = [value for value in values if not isinstance(value, list)]
            _require_texts(values, rows, name, "captions are texts or lists of texts", allowed=(str, list))
            columns[name] = rows.texts(values) if len(flat) == len(values) else rows.lists(values)
        else:
            columns[clean_text(name)] = _any_array(values)
    return pa.table(columns | {FAULT: rows.messages()})


def _without_nan(value: Any) -> Any:
    """Return None for NaN, as pandas has it where a text is missing, also in a list."""
    if isinstance(value, list):
        return [_without_nan(one) if isinstance(one, float) else one for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _require_texts(
    values: Sequence[Any], rows: _Rows, name: str, allowed_in_words: str, allowed: tuple[type, ...]
) -> None:
    """Refuse a column of which a value has another shape."""
    for value, number in zip(values, rows.numbers, strict=True):
        is_listed = isinstance(value, list) and list in allowed
        for one in value if is_listed else [value]:
            if one is None or (type(one) in allowed and not isinstance(one, list)):
                continue
            raise Unreadable(
                f"{number}: column {shown(name, 40)!r} holds {'a list with ' if is_listed else ''}"
                f"{_WHAT.get(type(one), 'no text')}: {allowed_in_words}",
                "name another column in the source's section, or make texts of this one",
            )


def _any_array(values: Sequence[Any]) -> pa.Array:
    """Return values of JSON as Arrow infers their type, or as texts where they have no common one."""
    try:
        made = pa.array(values)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        return as_texts(values)
    return made


def read_json_lines(text: TextIO, wanted: Wanted) -> pa.Table:
    """Read JSON lines; one that is no record costs its row alone."""
    tables, first = [], 1
    lines = read_lines(text)
    while batch := list(itertools.islice(lines, _ROWS_AT_ONCE)):
        numbered = [(number, _parse_line(line)) for number, line in enumerate(batch, first) if line.strip()]
        tables.append(as_table(numbered, wanted, "line"))
        first += len(batch)
    return join(tables, wanted.caption) if tables else as_table([], wanted, "line")


def _parse_line(line: str) -> dict[str, Any] | str:
    if not is_text(line):
        return f"no valid text: {shown(line, 60)}"
    try:
        record = load_json(line, unique_keys=True)
    except ValueError as error:
        return shown(error)
    return record if isinstance(record, dict) else f"{_WHAT.get(type(record), 'a text')}, where an object is expected"


def read_json(text: TextIO, wanted: Wanted) -> pa.Table:
    """Read a JSON document."""
    content = load_json(text.read(MAX_DOCUMENT + 1), max_bytes=MAX_DOCUMENT, unique_keys=True, any_text=True)
    records = _records(content, wanted)
    return as_table(list(enumerate(records, 1)), wanted, "record")


def _records(content: Any, wanted: Wanted) -> Sequence[dict[str, Any] | str]:
    """Return the records of a document in any of the forms."""
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        names = content.get("columns")
        if isinstance(names, list) and all(isinstance(row, list) for row in content["data"]):
            return _of_split([str(name) for name in names], content["data"])
        if isinstance(content.get("schema"), dict):
            content = content["data"]
    if isinstance(content, list) and (not content or any(isinstance(row, dict) for row in content)):
        return [
            row if isinstance(row, dict) else f"{_WHAT.get(type(row), 'a text')}, where an object is expected"
            for row in content
        ]
    if isinstance(content, dict) and content:
        if wanted.address not in content and all(isinstance(row, dict) for row in content.values()):
            return list(content.values())  # {index: {column: value}}
        if all(isinstance(values, dict | list) for values in content.values()):
            return _of_columns(content)
    raise Unreadable(f"found {_WHAT.get(type(content), 'a text or null')}, which is no table: expected {_FORMS}")


def _of_split(names: Sequence[str], rows: Iterable[list[Any]]) -> list[dict[str, Any] | str]:
    refuse_repeated(names)
    return [
        dict(zip(names, row, strict=True)) if len(row) == len(names) else f"{len(row)} values for {len(names)} columns"
        for row in rows
    ]


def _of_columns(content: Mapping[str, Any]) -> list[dict[str, Any] | str]:
    """Return the records of {column: [values]} or {column: {index: value}}, in which the indices are no values."""
    columns: dict[str, dict[Any, Any]] = {
        name: dict(enumerate(values)) if isinstance(values, list) else values for name, values in content.items()
    }
    lengths = {name: len(values) for name, values in content.items() if isinstance(values, list)}
    if len(set(lengths.values())) > 1 or 0 < len(lengths) < len(content):
        raise Unreadable(f"the columns have different lengths or forms ({shown(lengths)}): expected {_FORMS}")
    index = dict.fromkeys(key for values in columns.values() for key in values)
    return [{name: values.get(key) for name, values in columns.items()} for key in index]
