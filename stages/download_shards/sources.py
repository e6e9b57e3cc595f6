"""One door to all sources: how a source is cut into shards, and how a worker reads its part."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from stages.download_shards.config import (
    DownloadShardsConfig,
    FolderSource,
    HuggingfaceSource,
    ScenesSource,
    WebdatasetSource,
)
from stages.download_shards.duplicates import mark_repeated
from stages.download_shards.entries import Entry
from stages.download_shards.rows import cut


@contextlib.contextmanager
def open_source(config: DownloadShardsConfig) -> Iterator[tuple[Sequence[Any], str]]:
    """Yield the parts of the source, one for each shard, and what stands before each address while downloading.

    Raises:
        InputFault: the source cannot be read.
    """
    source = config.source
    if isinstance(source, ScenesSource):
        from stages.download_shards.scene_server import serve_scenes

        with serve_scenes(source) as (rows, base_url):
            yield cut(rows, config.rows_per_shard), base_url
    elif isinstance(source, FolderSource):
        from stages.download_shards.folder import list_folder

        yield cut(list_folder(source), config.rows_per_shard), ""
    elif isinstance(source, WebdatasetSource):
        from stages.download_shards.webdataset import list_tars

        yield list_tars(source), ""
    elif isinstance(source, HuggingfaceSource):
        from stages.download_shards.huggingface import cut_dataset

        yield cut_dataset(source, config.rows_per_shard), ""
    else:
        from stages.download_shards.source import read_url_list

        rows = read_url_list(source)
        yield cut(mark_repeated(rows) if config.drop_duplicate_urls else rows, config.rows_per_shard), ""


def open_part(config: DownloadShardsConfig, part: Any, *, base_url: str) -> tuple[pa.Schema, Iterator[Entry]]:
    """Return the schema of the part's rows and its entries, read as they are asked for, in any order."""
    source = config.source
    if isinstance(source, FolderSource):
        from stages.download_shards.folder import read_entries

        return read_entries(part.rows(), source.path)
    if isinstance(source, WebdatasetSource):
        from stages.download_shards.webdataset import read_tar

        return read_tar(part)
    if isinstance(source, HuggingfaceSource):
        from stages.download_shards.huggingface import read_dataset

        return read_dataset(source, part)
    from stages.download_shards.download import download_entries

    return download_entries(part.rows(), config, base_url=base_url)
