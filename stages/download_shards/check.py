"""Check that the source is there and has the configured columns."""

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.sources.registry import make_source


def check(config: DownloadShardsConfig) -> None:
    """Check the source."""
    make_source(config).check()
