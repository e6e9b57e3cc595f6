"""Read a source's list of addresses and captions; free of torch and ray."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from stages.contract.errors import InputFault, nearest
from stages.download_shards.config import FolderSource, HuggingfaceSource, Source, UrlListSource, WebdatasetSource
from stages.download_shards.rows import make_rows, on_disk
from stages.storage.filesystems import explaining, is_remote, open_address

ListFile = Path | IO[bytes]
"""A file on this machine by its path, which the readers may map into memory; a remote one as a stream."""

URL_SCHEMA = pa.schema([("url", pa.string())])
CAPTIONED_SCHEMA = pa.schema([("caption", pa.string()), ("url", pa.string())])
_FORMATS = ("parquet", "csv", "tsv", "json", "jsonl", "txt")


def check_source(source: Source) -> None:
    """Look whether a source can be read, by its headers alone.

    Raises:
        InputFault: a file is missing, of unknown format, unreadable, or without the named column.
    """
    if isinstance(source, UrlListSource):
        with explaining(source.path):
            for file in list_files(source):
                _require_columns(source, file, _read(file, list_format(source), _HEADER_READERS))
    elif isinstance(source, FolderSource):
        from stages.download_shards.folder import check_folder

        with explaining(source.path):
            check_folder(source)
    elif isinstance(source, WebdatasetSource):
        from stages.download_shards.webdataset import list_tars

        with explaining(source.path):
            list_tars(source)
    elif isinstance(source, HuggingfaceSource):
        from stages.download_shards.huggingface import check_dataset

        check_dataset(source)


def read_table(file: str, kind: str) -> pa.Table:
    """Read one file of the given format, here or at a remote address.

    Raises:
        InputFault: it is not of that format.
    """
    return _read(file, kind, _TABLE_READERS)


def read_url_list(source: UrlListSource) -> pa.Table:
    """Read the whole list as rows (see :mod:`stages.download_shards.rows`), one file in memory at a time.

    Raises:
        InputFault: as for :func:`check_source`, or the list is empty.
    """
    check_source(source)
    kind = list_format(source)
    tables = [on_disk(_as_rows(read_table(file, kind), source)) for file in list_files(source)]
    rows = pa.concat_tables(tables, promote_options="permissive")
    if rows.num_rows == 0:
        raise InputFault(f"download_shards.source.path: {source.path} lists no address: give a list with at least one")
    return rows


def list_files(source: UrlListSource) -> list[str]:
    """Return the files of the list, in order.

    Raises:
        InputFault: there is none.
    """
    fs, root = open_address(source.path)
    kind = _kind_of(source)
    if kind == "file":
        return [source.path]
    pattern = f"*.{list_format(source)}"
    if is_remote(source.path):
        found = [fs.unstrip_protocol(name) for name in fs.glob(f"{root}/{pattern}")]
    else:
        found = [str(file) for file in Path(root).glob(pattern)]
    if not found:
        what = f"no {pattern} file in it" if kind else "there is no such file or folder"
        raise InputFault(f"download_shards.source.path: {source.path}: {what}: give the file that lists the addresses")
    return sorted(found)


def list_format(source: UrlListSource) -> str:
    """Return the list's format, as configured or by suffix; a folder without a format is one of parquet files."""
    name = source.path.rstrip("/").rpartition("/")[2]
    suffix = Path(name).suffix.lstrip(".").lower()
    found = source.format or (
        suffix if suffix in _FORMATS else "parquet" if _kind_of(source) == "directory" else suffix
    )
    if found not in _FORMATS:
        raise InputFault(
            f"download_shards.source.path: {name} does not say its format: allowed are "
            f"{', '.join(_FORMATS)}: rename the file or set download_shards.source.format"
        )
    return found


def _kind_of(source: UrlListSource) -> Literal["file", "directory"] | None:
    """Return what is at the path; fsspec's own isfile and isdir would take an error for a no."""
    fs, root = open_address(source.path)
    try:
        found: Literal["file", "directory"] = fs.info(root)["type"]
    except FileNotFoundError:
        return None
    return found


@contextlib.contextmanager
def open_list_file(file: str) -> Iterator[ListFile]:
    """Give a file to a reader."""
    if is_remote(file):
        fs, path = open_address(file)
        with fs.open(path, "rb") as stream:
            yield stream
    else:
        yield Path(file)


def _read(file: str, kind: str, readers: dict[str, Callable[[ListFile], Any]]) -> Any:
    try:
        with open_list_file(file) as opened:
            return readers[kind](opened)
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputFault(
            f"download_shards.source.path: {file} cannot be read as {kind} ({reason}): "
            "mend the file or set download_shards.source.format to what it is"
        ) from error


def _require_columns(source: UrlListSource, file: str, found: list[str]) -> None:
    file_name = file.rpartition("/")[2]
    wanted = {"url_column": source.url_column, "caption_column": source.caption_column}
    if list_format(source) == "txt":
        return
    for key, name in wanted.items():
        if name is not None and name not in found:
            raise InputFault(
                f"download_shards.source.{key}: {file_name} has no column {name!r}{nearest(name, found)}: "
                f"its columns are {', '.join(found) or 'none'}: set download_shards.source.{key} to one of them"
            )


def _as_rows(table: pa.Table, source: UrlListSource) -> pa.Table:
    import pyarrow.compute as pc

    url_column = "url" if list_format(source) == "txt" else source.url_column
    urls = pc.utf8_trim_whitespace(table[url_column].cast(pa.string()))
    captions = table[source.caption_column] if source.caption_column is not None else None
    named = {url_column, source.caption_column}
    return make_rows(urls, captions, table.select([name for name in table.column_names if name not in named]))


def _read_parquet(file: ListFile) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.read_table(file, memory_map=isinstance(file, Path))


def _read_delimited(delimiter: str) -> Callable[[ListFile], pa.Table]:
    def read(file: ListFile) -> pa.Table:
        from pyarrow import csv

        convert = csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
        quoting = csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        return csv.read_csv(file, parse_options=quoting, convert_options=convert)

    return read


def _text(file: ListFile) -> str:
    return file.read_text(encoding="utf-8") if isinstance(file, Path) else file.read().decode()


def _read_json(file: ListFile) -> pa.Table:
    content = json.loads(_text(file))
    if isinstance(content, dict):  # {column: [values]}
        return pa.table(content)
    return pa.Table.from_pylist(content)


def _read_jsonl(file: ListFile) -> pa.Table:
    from pyarrow import json as arrow_json

    return arrow_json.read_json(file)


def _read_txt(file: ListFile) -> pa.Table:
    lines = (line.strip() for line in _text(file).splitlines())
    return pa.table({"url": [line for line in lines if line]}, schema=URL_SCHEMA)


def _parquet_columns(file: ListFile) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(file).names)


def _delimited_columns(delimiter: str) -> Callable[[ListFile], list[str]]:
    def read(file: ListFile) -> list[str]:
        from pyarrow import csv

        with csv.open_csv(file, parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)) as reader:
            return list(reader.schema.names)

    return read


_TABLE_READERS: dict[str, Callable[[ListFile], Any]] = {
    "parquet": _read_parquet,
    "csv": _read_delimited(","),
    "tsv": _read_delimited("\t"),
    "json": _read_json,
    "jsonl": _read_jsonl,
    "txt": _read_txt,
}
_HEADER_READERS: dict[str, Callable[[ListFile], Any]] = {
    "parquet": _parquet_columns,
    "csv": _delimited_columns(","),
    "tsv": _delimited_columns("\t"),
    "json": lambda file: _read_json(file).column_names,
    "jsonl": lambda file: _read_jsonl(file).column_names,
    "txt": lambda file: ["url"],
}
