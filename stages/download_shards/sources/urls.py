"""Entries that are addresses: fetch the file behind each."""

from collections.abc import Iterator

import pyarrow as pa

from stages.contract.causes import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.duplicates import IS_DUPLICATE
from stages.download_shards.http.fetch import Fetcher, without_credentials
from stages.download_shards.http.ssrf_filter import AddressPolicy
from stages.download_shards.http.watchdog import Watchdog
from stages.download_shards.http.worker_pool import fetch_all
from stages.download_shards.sources.base import Entries, Entry

_NO_ADDRESS = ItemFault(FailureCause.INVALID_URL, "no host given")
_DUPLICATE = ItemFault(FailureCause.DUPLICATE_URL)
_OWN_SERVER = "127.0.0.1/32"


def fetch_entries(rows: pa.Table, config: DownloadShardsConfig, *, base_url: str = "") -> Entries:
    """Return the entries of rows with addresses; these lose their credentials.

    ``base_url`` is that of a server of our own on this machine: it is put before each address, and is not recorded.
    """
    dropped = rows[IS_DUPLICATE].to_pylist() if IS_DUPLICATE in rows.column_names else [False] * rows.num_rows
    kept = rows.drop_columns([IS_DUPLICATE]) if IS_DUPLICATE in rows.column_names else rows
    return kept.schema, _entries(kept, dropped, config, base_url)


def _entries(rows: pa.Table, dropped: list[bool], config: DownloadShardsConfig, base_url: str) -> Iterator[Entry]:
    table = rows.to_pylist()
    listed = [row["url"] for row in table]
    for row in table:
        row["url"] = None if row["url"] is None else without_credentials(row["url"])
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
