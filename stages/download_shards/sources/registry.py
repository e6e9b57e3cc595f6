"""The kinds of sources: a new kind is a section in config.py, a module here, and a line below."""

from collections.abc import Callable
from typing import Any

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.sources.base import Source
from stages.download_shards.sources.drawings import Drawings
from stages.download_shards.sources.folder import Folder
from stages.download_shards.sources.huggingface import HuggingfaceDataset
from stages.download_shards.sources.scenes import Scenes
from stages.download_shards.sources.url_list import UrlList
from stages.download_shards.sources.webdataset import Webdataset

_SOURCES: dict[str, Callable[[Any, DownloadShardsConfig], Source]] = {
    "url_list": UrlList,
    "folder": Folder,
    "webdataset": Webdataset,
    "huggingface": HuggingfaceDataset,
    "scenes": Scenes,
    "drawings": Drawings,
}


def make_source(config: DownloadShardsConfig) -> Source:
    """Return the configured source."""
    return _SOURCES[config.source.kind](config.source, config)
