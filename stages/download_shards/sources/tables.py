"""Tables in files of several formats, here or at a remote address: their rows, or only the names of their columns."""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pyarrow import json as arrow_json

from stages.contract.errors import InputFault, nearest
from stages.download_shards.config import ListFormat
from stages.storage.filesystems import is_remote, open_address

Result = TypeVar("Result")
FORMATS: tuple[str, ...] = get_args(ListFormat)

_TableFile = Path | IO[bytes]
"""A file on this machine by its path, which the readers may map into memory; a remote one as a stream."""


def read_table(file: str, file_format: str) -> pa.Table:
    """Read a file of the given format."""
    return _reading(file, file_format, _table)


def require_columns(source: Any, keys: Iterable[str], file: str, found: Sequence[str]) -> None:
    """Refuse a file that lacks a column which the source's section names under one of the keys."""
    for key in keys:
        name = getattr(source, key)
        if name is not None and name not in found:
            raise InputFault(
                f"download_shards.source.{key}: {file} has no column {name!r}{nearest(name, found)}: "
                f"its columns are {', '.join(found) or 'none'}: set download_shards.source.{key} to one of them"
            )


def read_columns(file: str, file_format: str) -> list[str]:
    """Read the names of a file's columns, from its header where the format has one."""
    return _reading(file, file_format, _columns)


def _reading(file: str, file_format: str, read: Callable[[_TableFile, str], Result]) -> Result:
    try:
        with _open(file) as opened:
            return read(opened, file_format)
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputFault(
            f"download_shards.source.path: {file} cannot be read as {file_format} ({reason}): "
            "mend the file or set download_shards.source.format to what it is"
        ) from error


@contextlib.contextmanager
def _open(file: str) -> Iterator[_TableFile]:
    if is_remote(file):
        fs, path = open_address(file)
        with fs.open(path, "rb") as stream:
            yield stream
    else:
        yield Path(file)


def _table(file: _TableFile, file_format: str) -> pa.Table:
    match file_format:
        case "parquet":
            return pq.read_table(file, memory_map=isinstance(file, Path))
        case "csv" | "tsv":
            convert = csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
            return csv.read_csv(file, parse_options=_quoting(file_format), convert_options=convert)
        case "json":
            content = json.loads(_text(file))  # {column: [values]}, or rows
            return pa.table(content) if isinstance(content, dict) else pa.Table.from_pylist(content)
        case "jsonl":
            return arrow_json.read_json(file)
        case _:
            lines = (line.strip() for line in _text(file).splitlines())
            return pa.table({"url": pa.array([line for line in lines if line], pa.string())})


def _columns(file: _TableFile, file_format: str) -> list[str]:
    match file_format:
        case "parquet":
            return list(pq.read_schema(file).names)
        case "csv" | "tsv":
            with csv.open_csv(file, parse_options=_quoting(file_format)) as reader:
                return list(reader.schema.names)
        case "txt":
            return ["url"]
        case _:
            return list(_table(file, file_format).column_names)


def _quoting(file_format: str) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter="," if file_format == "csv" else "\t", newlines_in_values=True)


def _text(file: _TableFile) -> str:
    return file.read_text(encoding="utf-8") if isinstance(file, Path) else file.read().decode()
