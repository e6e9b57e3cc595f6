"""A list of image addresses in a file, or in a folder of files of one format."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards.config import DownloadShardsConfig, UrlListSource
from stages.download_shards.duplicates import IS_DUPLICATE, mark_repeated
from stages.download_shards.http.fetch import Fetcher, recorded_url
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog
from stages.download_shards.http.worker_pool import fetch_all
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.rows import RowPart, cut, make_rows, on_disk
from stages.download_shards.sources.tables import FORMATS, read_columns, read_table, require_columns
from stages.formats.source_records import SourceRecord
from stages.storage.filesystems import explaining, is_remote, kind_at, open_address

_NO_ADDRESS = ItemFault(FailureCause.INVALID_URL, "no host given")
_DUPLICATE = ItemFault(FailureCause.DUPLICATE_URL)
_OWN_SERVER = "127.0.0.1/32"


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
    def parts(self) -> Iterator[Parts]:
        """Yield the rows of each shard; every row is an entry."""
        self.check()
        rows = read_url_list(self._source)
        if self._config.drop_duplicate_urls:
            rows = mark_repeated(rows)
        yield Parts(cut(rows, self._config.rows_per_shard), SourceRecord(found=rows.num_rows))

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


def fetch_entries(rows: pa.Table, config: DownloadShardsConfig, *, base_url: str = "") -> Entries:
    """Return the entries of rows with addresses; these lose their credentials.

    ``base_url`` is that of a server of our own on this machine: it is put before each address, and is not recorded.
    """
    dropped = rows[IS_DUPLICATE].to_pylist() if IS_DUPLICATE in rows.column_names else [False] * rows.num_rows
    kept = rows.drop_columns([IS_DUPLICATE]) if IS_DUPLICATE in rows.column_names else rows
    return Entries(kept.schema, _entries(kept, dropped, config, base_url), lambda: rows.num_rows)


def _entries(rows: pa.Table, dropped: list[bool], config: DownloadShardsConfig, base_url: str) -> Iterator[Entry]:
    table = rows.to_pylist()
    listed = [row["url"] for row in table]
    for row in table:
        row["url"] = None if row["url"] is None else recorded_url(row["url"])
    fetched = []
    for index, (row, url) in enumerate(zip(table, listed, strict=True)):
        if not url or dropped[index]:
            yield Entry(index, row, _DUPLICATE if dropped[index] else _NO_ADDRESS)
        else:
            fetched.append(index)
    allowed = [*config.allowed_networks, *([_OWN_SERVER] if base_url else [])]
    pool = config.model_copy(update={"per_host": config.threads}) if base_url else config
    with Watchdog() as watchdog:
        fetch = Fetcher(config, AddressPolicy(allowed), watchdog)
        urls = [base_url + listed[index] for index in fetched]
        for position, content in fetch_all(fetch, urls, pool):
            yield Entry(fetched[position], table[fetched[position]], content)
