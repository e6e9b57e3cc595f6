"""Scenes that the project renders itself, serves over loopback HTTP and downloads from there."""

import contextlib
from collections.abc import Iterator

from stages.download_shards.config import DownloadShardsConfig, ScenesSource
from stages.download_shards.sources.base import Entries, Parts
from stages.download_shards.sources.rows import RowPart, cut
from stages.download_shards.sources.url_list import fetch_entries
from stages.formats.source_records import SourceRecord

ScenePart = tuple[RowPart, str]
"""Rows, and the address of the server."""


class Scenes:
    """Scenes behind a server of the driver's."""

    def __init__(self, source: ScenesSource, config: DownloadShardsConfig) -> None:
        self._source, self._config = source, config

    def check(self) -> None:
        """Everything is made here: there is nothing to check."""

    @contextlib.contextmanager
    def parts(self) -> Iterator[Parts]:
        """Yield the rows of each shard while the server runs."""
        from stages.download_shards.sources.scene_server import serve_scenes  # imports torch

        with serve_scenes(self._source) as (rows, base_url):
            parts = [(part, base_url) for part in cut(rows, self._config.rows_per_shard)]
            yield Parts(parts, SourceRecord(found=rows.num_rows))

    def read(self, part: ScenePart) -> Entries:
        """Fetch the images."""
        return fetch_entries(part[0].rows(), self._config, base_url=part[1])
