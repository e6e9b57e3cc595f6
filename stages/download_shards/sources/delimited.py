"""csv and tsv: all values are texts as written, and a quote that is not closed costs its row alone.

csv follows RFC 4180, strictly. In a tsv a quote that is not closed by the rules of csv is a character like others, as
in IANA's definition of the format. A quoted field may go over several lines, as captions do, but not over one that is
itself a row with an address: there, the quote was not meant to open a field.
"""

import collections
import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract.parsing import Unreadable, shown
from stages.download_shards.sources.columns import BAD_ROW, FAULT, Wanted, refuse_own
from stages.download_shards.sources.text_files import MAX_LINE

csv.field_size_limit(MAX_LINE)

MAX_LINES = 1000  # of one field
_ROWS_AT_ONCE = 65_536
_WHOLE = r"^-?(0|[1-9][0-9]*)$"
_MOST_EXACT = 2**53  # up to which a float holds every whole number
_NUMBER = r"^-?(0|[1-9][0-9]*)([.][0-9]+)?([eE][+-]?[0-9]+)?$"

Record = tuple[int, list[str] | str]
"""The number of a row's first line, and its fields, or what is wrong with it."""


class _OpenQuote(Exception):
    """A quoted field would go on where it cannot have been meant to."""


class _Lines(Iterator[str]):
    """Lines that a csv reader takes, and which may be taken back."""

    def __init__(self, lines: Iterable[str], delimiter: str) -> None:
        self._lines, self._back, self._delimiter = iter(lines), collections.deque[str](), delimiter
        self._taken: list[str] = []
        self.number = 1
        """Of the first line of the record."""
        self.width, self.address, self.pattern = 0, 0, re.compile("")

    def begin(self) -> None:
        """Begin with a record."""
        self.number += len(self._taken)
        self._taken = []

    def __next__(self) -> str:
        """Return the next line of the record."""
        line = self._back.popleft() if self._back else next(self._lines)
        if self._taken and not self._may_go_on(line):
            self._back.appendleft(line)
            raise _OpenQuote
        self._taken.append(line)
        return line

    def first_alone(self) -> str:
        """Take back all lines of the record but the first, and return that one without its end."""
        self._back.extendleft(reversed(self._taken[1:]))
        del self._taken[1:]
        return self._taken[0].rstrip("\r\n")

    def _may_go_on(self, line: str) -> bool:
        """Return whether the field that the record's first line left open may go over this line."""
        if len(self._taken) >= MAX_LINES or self.width < 2:  # names and addresses have one line
            return False
        cells = self._taken[0].split(self._delimiter)
        opened = next((index for index, cell in enumerate(cells) if cell.lstrip('"') != cell), 0)
        # The line that closes a field may hold an address after it; then the first line must not hold one.
        return not self._is_row(self._taken[0] if opened < self.address else line)

    def _is_row(self, line: str) -> bool:
        cells = line.rstrip("\r\n").split(self._delimiter)
        return len(cells) == self.width and self.pattern.match(cells[self.address].strip(' "')) is not None


def read_delimited(lines: Iterable[str], delimiter: str, wanted: Wanted) -> pa.Table:
    """Read a whole table; rows that cannot be read are null but for the column FAULT, which says why."""
    source = _Lines(lines, delimiter)
    names, records = _header(source, delimiter, wanted)
    tables = []
    while batch := list(itertools.islice(records, _ROWS_AT_ONCE)):
        tables.append(_table(batch, names))
    return pa.concat_tables(tables) if tables else _table([], names)


def read_header(lines: Iterable[str], delimiter: str, wanted: Wanted) -> list[str]:
    """Read the names of the columns."""
    return _header(_Lines(lines, delimiter), delimiter, wanted)[0]


def _header(source: _Lines, delimiter: str, wanted: Wanted) -> tuple[list[str], Iterator[Record]]:
    records = _read_records(source, delimiter)
    number, names = next(records, (0, "the file is empty"))
    if isinstance(names, str):
        raise Unreadable(f"line {number}: {names}" if number else names)
    refuse_own(names)
    source.width = len(names)
    if wanted.address in names:
        source.address, source.pattern = names.index(wanted.address), wanted.address_pattern
    return _name_all(names), records


def _name_all(names: Sequence[str]) -> list[str]:
    """Name the columns without a name, of which a spreadsheet may leave several."""
    several = names.count("") > 1
    return [name if name or not several else f"unnamed_{index}" for index, name in enumerate(names)]


def _read_records(source: _Lines, delimiter: str) -> Iterator[Record]:
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.begin()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, _OpenQuote):
            line = source.first_alone()
            if delimiter != "\t":
                yield source.number, f"a quote is not closed, or is followed by other characters: {shown(line, 60)}"
                continue
            fields = line.split(delimiter)
        if fields and fields != [""]:
            yield source.number, _of_width(fields, source.width)


def _of_width(fields: list[str], width: int) -> list[str] | str:
    """Return the fields, without empty ones at the end where there are too many; or how many there are."""
    if width == 0 or len(fields) == width:
        return fields
    if len(fields) > width and not any(fields[width:]):
        return fields[:width]
    return f"{len(fields)} fields, where the header has {width}"


def _table(records: Sequence[Record], names: Sequence[str]) -> pa.Table:
    absent = [""] * len(names)
    rows = [absent if isinstance(fields, str) else fields for _, fields in records]
    faults = [f"{BAD_ROW}line {line}: {fields}" if isinstance(fields, str) else None for line, fields in records]
    columns = [[value or None for value in values] for values in zip(*rows, strict=True)] or [[] for _ in names]
    arrays = [pa.array(values, pa.string()) for values in columns]
    return pa.Table.from_arrays([*arrays, pa.array(faults, pa.string())], names=[*names, FAULT])


def with_numbers(tables: Sequence[pa.Table], texts: Iterable[str]) -> list[pa.Table]:
    """Make numbers of the columns that hold nothing else in any of the tables, but for those that are texts.

    A column of which a number would lose digits, or become infinite, stays one of texts.
    """
    kinds: dict[str, pa.DataType] = {}
    for name in dict.fromkeys(name for table in tables for name in table.column_names):
        if name not in {*texts, FAULT}:
            kind = _number_kind([table[name] for table in tables if name in table.column_names])
            kinds |= {} if kind is None else {name: kind}
    return [_cast(table, kinds) for table in tables]


def _number_kind(columns: Sequence[pa.ChunkedArray]) -> pa.DataType | None:
    """Return the type of number that holds all values as they are written, if there is one."""
    if all(column.null_count == len(column) for column in columns):
        return None
    if all(_all_match(column, _WHOLE) for column in columns):
        return pa.int64() if all(map(_are_integers, columns)) else None
    are_numbers = all(_all_match(column, _NUMBER) for column in columns)
    return pa.float64() if are_numbers and all(map(_are_floats, columns)) else None


def _all_match(column: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(column, pattern), min_count=0).as_py())


def _are_integers(column: pa.ChunkedArray) -> bool:
    try:
        column.cast(pa.int64())
    except pa.ArrowInvalid:
        return False
    return True


def _are_floats(column: pa.ChunkedArray) -> bool:
    """Return whether numbers are finite as floats, and whole ones, such as the names of things, keep their digits."""
    whole = column.filter(pc.match_substring_regex(column, _WHOLE))
    if not _are_integers(whole) or not pc.all(pc.is_finite(column.cast(pa.float64())), min_count=0).as_py():
        return False
    bounds = pc.min_max(whole.cast(pa.int64())).as_py()
    return (bounds["min"] or 0) >= -_MOST_EXACT and (bounds["max"] or 0) <= _MOST_EXACT


def _cast(table: pa.Table, kinds: dict[str, pa.DataType]) -> pa.Table:
    for name, kind in kinds.items():
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    return table
