"""Tables in files of several formats, here or at a remote address: their rows, or only the names of their columns."""

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from stages.contract.errors import InputFault, nearest
from stages.contract.parsing import Unreadable, parsing, shown
from stages.download_shards.sources.column_types import join, with_plain_types
from stages.download_shards.sources.columns import FAULT, Wanted, refuse_repeated, with_texts
from stages.download_shards.sources.delimited import read_delimited, read_header
from stages.download_shards.sources.json_lists import as_table, read_json, read_json_lines
from stages.download_shards.sources.parquet_lists import ParquetRows
from stages.download_shards.sources.text_files import open_text, read_lines
from stages.storage.filesystems import is_remote

Result = TypeVar("Result")
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_LINE_BY_LINE = {"jsonl", "txt"}
"""Formats in which a line of another encoding costs that line alone."""
_COMMENT = "#"


def read_table(file: str, file_format: str, wanted: Wanted, parquet: ParquetRows) -> pa.Table:
    """Read a file of the given format: addresses and captions as texts, lost rows with a column FAULT."""

    def read() -> pa.Table:
        if file_format == "parquet":
            return join(list(parquet.tables(file, wanted)), wanted.caption)
        return with_plain_types(with_texts(_table(file, file_format, wanted), wanted), wanted.texts)

    return _reading(file, file_format, read)


def read_first(file: str, file_format: str, wanted: Wanted, parquet: ParquetRows, *, count: int) -> list[str | None]:
    """Return so many addresses from the beginning of a file, or fewer; none of a remote parquet file."""

    def read() -> pa.Table:
        if file_format != "parquet":
            return with_texts(_table(file, file_format, wanted, count + 1), wanted)
        groups = iter(()) if is_remote(file) else parquet.tables(file, wanted)
        return next(groups, pa.table({wanted.address: pa.nulls(0, pa.string())}))

    found: list[str | None] = _reading(file, file_format, read)[wanted.address].slice(0, count).to_pylist()
    return found


def require_columns(source: Any, keys: Iterable[str], file: str, found: Sequence[str]) -> None:
    """Refuse a file that lacks a column which the source's section names under one of the keys."""
    for key in keys:
        name = getattr(source, key)
        if name is not None and name not in found:
            columns = ", ".join(shown(column, 40) for column in found) or "none"
            raise InputFault(
                f"download_shards.source.{key}: {file} has no column {name!r}{nearest(name, found)}: "
                f"its columns are {columns}: set download_shards.source.{key} to one of them"
            )


def read_columns(file: str, file_format: str, wanted: Wanted, parquet: ParquetRows) -> list[str]:
    """Read the names of a file's columns, from its header where the format has one."""
    return _reading(file, file_format, lambda: _columns(file, file_format, wanted, parquet))


def _reading(file: str, file_format: str, read: Callable[[], Result]) -> Result:
    def fault(reason: str, remedy: str = "") -> InputFault:
        usual = "mend the file or set download_shards.source.format to what it is"
        return InputFault(
            f"download_shards.source.path: {shown(file)} cannot be read as {file_format} ({reason}): {remedy or usual}"
        )

    with parsing(fault):
        try:
            return read()
        except Unreadable as error:
            raise fault(str(error), error.remedy) from error


def _table(file: str, file_format: str, wanted: Wanted, most_lines: int | None = None) -> pa.Table:
    """Read a file, or its first lines where the format has some."""
    with open_text(file, wanted.encoding, keep_undecoded=file_format in _LINE_BY_LINE) as text:
        first = itertools.islice(read_lines(text), most_lines)
        match file_format:
            case "csv" | "tsv":
                return read_delimited(first, _DELIMITERS[file_format], wanted)
            case "json":
                return read_json(text, wanted)
            case "jsonl":
                return read_json_lines(text if most_lines is None else io.StringIO("".join(first)), wanted)
            case _:
                lines = ((number, line.strip()) for number, line in enumerate(first, 1))
                listed = [(number, {"url": line}) for number, line in lines if line and not line.startswith(_COMMENT)]
                return as_table(listed, wanted, "line") if listed else pa.table({"url": pa.nulls(0, pa.string())})


def _columns(file: str, file_format: str, wanted: Wanted, parquet: ParquetRows) -> list[str]:
    match file_format:
        case "parquet":
            return parquet.names(file)
        case "csv" | "tsv":
            with open_text(file, wanted.encoding) as text:
                names = read_header(read_lines(text), _DELIMITERS[file_format], wanted)
                refuse_repeated(names)
                return names
        case "txt":
            return ["url"]
        case _:
            return [name for name in _table(file, file_format, wanted).column_names if name != FAULT]
