"""The entries of a list of addresses, downloaded."""

from collections.abc import Iterator

import pyarrow as pa

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.duplicates import DUPLICATE_URL, IS_DUPLICATE
from stages.download_shards.entries import Entry
from stages.download_shards.fetch import Fetcher, FetchLimits, without_credentials
from stages.download_shards.ssrf_filter import AddressPolicy
from stages.download_shards.watchdog import Watchdog
from stages.download_shards.worker_pool import PoolLimits, fetch_all

_NO_ADDRESS = "no host given"
_OWN_SERVER = "127.0.0.1/32"


def download_entries(
    rows: pa.Table, config: DownloadShardsConfig, *, base_url: str
) -> tuple[pa.Schema, Iterator[Entry]]:
    """Return the schema of the rows and their entries in the order of arrival; addresses lose their credentials."""
    dropped = rows[IS_DUPLICATE].to_pylist() if IS_DUPLICATE in rows.column_names else [False] * rows.num_rows
    kept = rows.drop_columns([IS_DUPLICATE]) if IS_DUPLICATE in rows.column_names else rows
    return kept.schema, _entries(kept, dropped, config, base_url=base_url)


def _entries(rows: pa.Table, dropped: list[bool], config: DownloadShardsConfig, *, base_url: str) -> Iterator[Entry]:
    table = rows.to_pylist()
    listed = [row["url"] for row in table]
    for row in table:
        row["url"] = None if row["url"] is None else without_credentials(row["url"])
    numbers = []
    for index, (row, url) in enumerate(zip(table, listed, strict=True)):
        if not url or dropped[index]:
            yield Entry(index, row, None, DUPLICATE_URL if dropped[index] else _NO_ADDRESS)
        else:
            numbers.append(index)
    allowed = [*config.allowed_networks, *([_OWN_SERVER] if base_url else [])]
    with Watchdog() as watchdog:
        fetch = Fetcher(_fetch_limits(config), AddressPolicy(allowed), watchdog)
        urls = [base_url + listed[number] for number in numbers]
        for position, content, error in fetch_all(fetch, urls, _pool_limits(config, is_own=bool(base_url))):
            yield Entry(numbers[position], table[numbers[position]], content, error)


def _fetch_limits(config: DownloadShardsConfig) -> FetchLimits:
    return FetchLimits(
        timeout=config.timeout,
        max_seconds=config.max_seconds,
        max_bytes=config.max_bytes,
        max_redirects=config.max_redirects,
        respect_opt_out=config.respect_opt_out,
    )


def _pool_limits(config: DownloadShardsConfig, *, is_own: bool) -> PoolLimits:
    return PoolLimits(
        threads=config.threads,
        per_host=config.threads if is_own else config.per_host,
        retries=config.retries,
        retry_wait=config.retry_wait,
        max_seconds=config.max_seconds,
    )
