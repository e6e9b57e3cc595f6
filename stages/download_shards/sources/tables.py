"""Tables in files of several formats, here or at a remote address: their rows, or only the names of their columns."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from pyarrow import json as arrow_json

from stages.contract.errors import InputFault
from stages.download_shards.config import ListFormat
from stages.storage.filesystems import is_remote, open_address

FORMATS: tuple[str, ...] = get_args(ListFormat)

_TableFile = Path | IO[bytes]
"""A file on this machine by its path, which the readers may map into memory; a remote one as a stream."""


def read_table(file: str, file_format: str) -> pa.Table:
    """Read a file of the given format."""
    return _read(file, file_format, _TABLE_READERS)


def read_columns(file: str, file_format: str) -> list[str]:
    """Read the names of a file's columns, from its header where the format has one."""
    names: list[str] = _read(file, file_format, _COLUMN_READERS)
    return names


def _read(file: str, file_format: str, readers: dict[str, Callable[[_TableFile], Any]]) -> Any:
    try:
        with _open(file) as opened:
            return readers[file_format](opened)
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


def _read_parquet(file: _TableFile) -> pa.Table:
    return pq.read_table(file, memory_map=isinstance(file, Path))


def _read_delimited(delimiter: str) -> Callable[[_TableFile], pa.Table]:
    def read(file: _TableFile) -> pa.Table:
        convert = csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
        return csv.read_csv(file, parse_options=_quoting(delimiter), convert_options=convert)

    return read


def _quoting(delimiter: str) -> csv.ParseOptions:
    return csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)


def _text(file: _TableFile) -> str:
    return file.read_text(encoding="utf-8") if isinstance(file, Path) else file.read().decode()


def _read_json(file: _TableFile) -> pa.Table:
    content = json.loads(_text(file))
    if isinstance(content, dict):  # {column: [values]}
        return pa.table(content)
    return pa.Table.from_pylist(content)


def _read_jsonl(file: _TableFile) -> pa.Table:
    return arrow_json.read_json(file)


def _read_txt(file: _TableFile) -> pa.Table:
    lines = (line.strip() for line in _text(file).splitlines())
    return pa.table({"url": pa.array([line for line in lines if line], pa.string())})


def _parquet_columns(file: _TableFile) -> list[str]:
    return list(pq.read_schema(file).names)


def _delimited_columns(delimiter: str) -> Callable[[_TableFile], list[str]]:
    def read(file: _TableFile) -> list[str]:
        with csv.open_csv(file, parse_options=_quoting(delimiter)) as reader:
            return list(reader.schema.names)

    return read


_TABLE_READERS: dict[str, Callable[[_TableFile], Any]] = {
    "parquet": _read_parquet,
    "csv": _read_delimited(","),
    "tsv": _read_delimited("\t"),
    "json": _read_json,
    "jsonl": _read_jsonl,
    "txt": _read_txt,
}
_COLUMN_READERS: dict[str, Callable[[_TableFile], Any]] = {
    "parquet": _parquet_columns,
    "csv": _delimited_columns(","),
    "tsv": _delimited_columns("\t"),
    "json": lambda file: _read_json(file).column_names,
    "jsonl": lambda file: _read_jsonl(file).column_names,
    "txt": lambda file: ["url"],
}
