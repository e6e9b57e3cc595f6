"""A list of image addresses in a file, or in a folder of files of one format."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract.errors import InputFault
from stages.download_shards.config import DownloadShardsConfig, UrlListSource
from stages.download_shards.duplicates import mark_repeated
from stages.download_shards.sources.base import Entries
from stages.download_shards.sources.rows import RowPart, cut, make_rows, on_disk
from stages.download_shards.sources.tables import FORMATS, read_columns, read_table, require_columns
from stages.download_shards.sources.urls import fetch_entries
from stages.storage.filesystems import explaining, is_remote, kind_at, open_address


class UrlList:
    """Addresses of a list, fetched by the workers."""

    def __init__(self, source: UrlListSource, config: DownloadShardsConfig) -> None:
        self._source, self._config = source, config

    def check(self) -> None:
        """Check that the files are there, of a known format, and have the columns."""
        with explaining(self._source.path):
            for file in list_files(self._source):
                file_format = list_format(self._source)
                found = read_columns(file, file_format)
                keys = () if file_format == "txt" else ("url_column", "caption_column")
                require_columns(self._source, keys, file.rpartition("/")[2], found)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Sequence[RowPart]]:
        """Yield the rows of each shard."""
        self.check()
        rows = read_url_list(self._source)
        if self._config.drop_duplicate_urls:
            rows = mark_repeated(rows)
        yield cut(rows, self._config.rows_per_shard)

    def read(self, part: RowPart) -> Entries:
        """Fetch the files."""
        return fetch_entries(part.rows(), self._config)


def read_url_list(source: UrlListSource) -> pa.Table:
    """Read the whole list as rows (see :mod:`stages.download_shards.sources.rows`), one file in memory at a time."""
    file_format = list_format(source)
    tables = [on_disk(_as_rows(read_table(file, file_format), source)) for file in list_files(source)]
    rows = pa.concat_tables(tables, promote_options="permissive")
    if rows.num_rows == 0:
        raise InputFault(f"download_shards.source.path: {source.path} lists no address: give a list with at least one")
    return rows


def list_files(source: UrlListSource) -> list[str]:
    """Return the files of the list, in order."""
    fs, root = open_address(source.path)
    kind = kind_at(fs, root)
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
    if source.format or suffix in FORMATS:
        return source.format or suffix
    if kind_at(*open_address(source.path)) == "directory":
        return "parquet"
    raise InputFault(
        f"download_shards.source.path: the format of {name} is unknown: allowed are {', '.join(FORMATS)}: "
        "rename the file or set download_shards.source.format"
    )


def _as_rows(table: pa.Table, source: UrlListSource) -> pa.Table:
    url_column = "url" if list_format(source) == "txt" else source.url_column
    urls = pc.utf8_trim_whitespace(table[url_column].cast(pa.string()))
    captions = table[source.caption_column] if source.caption_column is not None else None
    named = {url_column, source.caption_column}
    return make_rows(urls, captions, table.select([name for name in table.column_names if name not in named]))
