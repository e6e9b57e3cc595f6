"""A list of image addresses in a file, or in a folder of files of one format."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.contract.errors import FailureCause, InputFault, ItemFault
from stages.download_shards import img2dataset_engine
from stages.download_shards.ambiguous_urls import IS_AMBIGUOUS, mark_ambiguous_urls, name_of_ambiguous_url
from stages.download_shards.config import DownloadShardsConfig, UrlListSource
from stages.download_shards.duplicates import IS_DUPLICATE, mark_repeated
from stages.download_shards.growth import MOST_ENTRIES
from stages.download_shards.http.fetch import Fetcher, recorded_url
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog
from stages.download_shards.http.worker_pool import fetch_all
from stages.download_shards.list_config import FOLDER_FORMAT, FORMATS, format_of
from stages.download_shards.row_digests import growth_of
from stages.download_shards.sources.base import Entries, Entry, Parts
from stages.download_shards.sources.column_types import join
from stages.download_shards.sources.columns import FAULT, Wanted, count_faults, fault_of
from stages.download_shards.sources.delimited import with_numbers
from stages.download_shards.sources.first_addresses import FIRST, refuse_private
from stages.download_shards.sources.parquet_lists import ParquetRows
from stages.download_shards.sources.rows import RESERVED, RowPart, cut, make_rows, on_disk
from stages.download_shards.sources.tables import read_columns, read_first, read_table, require_columns
from stages.formats.source_records import Counted, Counter, SourceRecord, in_words
from stages.storage.filesystems import explaining, is_local, is_remote, kind_at, open_address
from stages.storage.walking import is_inside

_NO_ADDRESS = ItemFault(FailureCause.INVALID_URL, "no host given")
_DUPLICATE = ItemFault(FailureCause.DUPLICATE_URL)
_OWN_SERVER = "127.0.0.1/32"
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class UrlList:
    """Addresses of a list, fetched by the workers."""

    def __init__(self, source: UrlListSource, config: DownloadShardsConfig) -> None:
        self._source, self._config = source, config

    def check(self) -> None:
        """Check that the files are there, of a known format, and have the columns."""
        with explaining(self._source.path):
            files, _ = list_files(self._source)
            with ParquetRows() as parquet:
                _check_columns(self._source, files, parquet)
                file_format, wanted = list_format(self._source), wanted_of(self._source)
                first = read_first(files[0], file_format, wanted, parquet, count=FIRST)
        refuse_private([url for url in first if url], self._config)

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the rows of each shard; every row is an entry."""
        with explaining(self._source.path):
            files, skips = list_files(self._source)
            with ParquetRows() as parquet:
                _check_columns(self._source, files, parquet)
                rows = _read(self._source, files, parquet)
        skipped = sum(one.count for one in skips.values())
        record = SourceRecord(found=rows.num_rows + skipped, skips=skips, failures=count_faults(rows))
        rows = mark_ambiguous_urls(rows)
        if self._config.drop_duplicate_urls:
            rows = mark_repeated(rows)
        growth = None
        if rows.num_rows <= MOST_ENTRIES:
            growth = growth_of(rows, self._config.rows_per_shard)
        yield Parts(cut(rows, self._config.rows_per_shard), record, growth=growth)

    def read(self, part: RowPart) -> Entries:
        """Fetch the files."""
        return fetch_entries(part.rows(), self._config)


def read_url_list(source: UrlListSource) -> pa.Table:
    """Read the whole list as rows (see :mod:`stages.download_shards.sources.rows`), one file in memory at a time."""
    with ParquetRows() as parquet:
        return _read(source, list_files(source)[0], parquet)


def _read(source: UrlListSource, files: Sequence[str], parquet: ParquetRows) -> pa.Table:
    file_format, wanted = list_format(source), wanted_of(source)
    tables = [on_disk(_as_rows(read_table(file, file_format, wanted, parquet), wanted)) for file in files]
    if file_format in {"csv", "tsv"}:
        tables = [on_disk(table) for table in with_numbers(tables, RESERVED)]
    rows = join(tables)
    if rows.num_rows == 0:
        raise InputFault(f"download_shards.source.path: {source.path} lists no address: give a list with at least one")
    return rows


def wanted_of(source: UrlListSource) -> Wanted:
    """Return what is to be read of the list as texts."""
    address = "url" if list_format(source) == "txt" else source.url_column
    return Wanted(address, source.caption_column, _ADDRESS, source.encoding)


def _check_columns(source: UrlListSource, files: Sequence[str], parquet: ParquetRows) -> None:
    """Check that each file has addresses and one of them captions: where the others have none, there are none."""
    file_format, wanted = list_format(source), wanted_of(source)
    names = {file: read_columns(file, file_format, wanted, parquet) for file in files}
    if file_format == "txt":
        return
    for file, found in names.items():
        require_columns(source, ["url_column"], file.rpartition("/")[2], found)
    if not any(source.caption_column in found for found in names.values()):
        file = files[0]
        require_columns(source, ["caption_column"], file.rpartition("/")[2], names[file])


def list_files(source: UrlListSource) -> tuple[list[str], dict[str, Counted]]:
    """Return the files of the list, in order, and what else its folder holds."""
    fs, root = open_address(source.path)
    kind = kind_at(fs, root)
    if kind == "file":
        return [source.path], {}
    file_format, skips, found = list_format(source), Counter(), []
    listed = fs.ls(root, detail=True) if kind == "directory" else []
    for info in sorted(listed, key=lambda info: str(info["name"])):
        path = str(info["name"]).rstrip("/")
        name = path.rpartition("/")[2]
        if (cause := _not_of_list(name, path, info["type"], file_format, root if is_local(fs) else None)) is not None:
            skips.add(cause, name, PurePosixPath(name).suffix.lower() if info["type"] == "file" else "folder")
        else:
            found.append(fs.unstrip_protocol(path) if is_remote(source.path) else path)
    if not found:
        what = "there is no such file or folder" if kind is None else "it is no regular file"
        what = f"no *.{file_format} file in it" if kind == "directory" else what
        besides = f" (besides {in_words(skips.counted)})" if skips.counted else ""
        raise InputFault(
            f"download_shards.source.path: {source.path}: {what}{besides}: give the file that lists the addresses"
        )
    return found, skips.counted


def _not_of_list(name: str, path: str, kind: str, file_format: str, local_root: str | None) -> FailureCause | None:
    """Return why something in a folder is not one of the list's files; none: it is one."""
    if name.startswith("."):
        return FailureCause.HIDDEN_FILE
    if not name.lower().endswith(f".{file_format}") or kind == "directory":
        return FailureCause.NO_IMAGE_FILE
    if local_root is not None and not is_inside(path, local_root):
        return FailureCause.OUTSIDE_FOLDER
    return None if kind == "file" else FailureCause.NOT_A_FILE


def list_format(source: UrlListSource) -> str:
    """Return the list's format, as configured or by suffix; a folder of which nothing says it holds parquet files."""
    if (named := format_of(source.path, source.format)) is not None:
        return named
    if kind_at(*open_address(source.path)) == "directory":
        return FOLDER_FORMAT
    name = source.path.rstrip("/").rpartition("/")[2]
    raise InputFault(
        f"download_shards.source.path: the format of {name} is unknown: allowed are {', '.join(FORMATS)}: "
        "rename the file or set download_shards.source.format"
    )


def _as_rows(table: pa.Table, wanted: Wanted) -> pa.Table:
    urls = pc.utf8_trim_whitespace(table[wanted.address])
    captions = None
    if wanted.caption is not None:
        is_there = wanted.caption in table.column_names
        captions = table[wanted.caption] if is_there else pa.chunked_array([pa.nulls(len(table), pa.string())])
    return make_rows(urls, captions, table.select([name for name in table.column_names if name not in wanted.texts]))


def fetch_entries(rows: pa.Table, config: DownloadShardsConfig, *, base_url: str = "") -> Entries:
    """Return the entries of rows with addresses; these lose their credentials.

    ``base_url`` is that of a server of our own on this machine: it is put before each address, and is not recorded.
    """
    own = [name for name in (IS_DUPLICATE, IS_AMBIGUOUS, FAULT) if name in rows.column_names]
    kept = rows.drop_columns(own)
    lost = list(_lost(rows.select([name for name in ("url", *own)]).to_pylist()))
    names = _names(rows)
    return Entries(kept.schema, _entries(kept, lost, names, config, base_url), lambda: rows.num_rows)


def _names(rows: pa.Table) -> list[str | None]:
    """Return the names of samples whose addresses are recorded alike; of others, that is their name."""
    if IS_AMBIGUOUS not in rows.column_names:
        return [None] * rows.num_rows
    pairs = zip(rows["url"].to_pylist(), rows[IS_AMBIGUOUS].to_pylist(), strict=True)
    return [name_of_ambiguous_url(url) if is_ambiguous else None for url, is_ambiguous in pairs]


def _lost(rows: Sequence[Mapping[str, Any]]) -> Iterator[ItemFault | None]:
    """Yield for each row why it is not fetched, or None."""
    for row in rows:
        if row.get(IS_DUPLICATE):
            yield _DUPLICATE
        else:
            yield fault_of(row.get(FAULT)) or (None if row["url"] else _NO_ADDRESS)


def _entries(
    rows: pa.Table,
    lost: Sequence[ItemFault | None],
    names: Sequence[str | None],
    config: DownloadShardsConfig,
    base_url: str,
) -> Iterator[Entry]:
    table = rows.to_pylist()
    listed = [row["url"] for row in table]
    for row in table:
        row["url"] = None if row["url"] is None else recorded_url(row["url"])
    fetched = []
    for index, (row, fault) in enumerate(zip(table, lost, strict=True)):
        if fault is not None:
            yield Entry(index, row, fault, names[index])
        else:
            fetched.append(index)
    allowed = [*config.allowed_networks, *([_OWN_SERVER] if base_url else [])]
    pool = config.model_copy(update={"per_host": config.threads}) if base_url else config
    urls = [base_url + listed[index] for index in fetched]
    with Watchdog() as watchdog:
        if config.engine == "img2dataset":
            found = img2dataset_engine.fetch_all(urls, config)
        else:
            found = fetch_all(Fetcher(config, AddressPolicy(allowed), watchdog), urls, pool)
        for position, content in found:
            index = fetched[position]
            yield Entry(index, table[index], content, names[index])
