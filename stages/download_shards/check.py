"""Check that the source is there and has the columns."""

from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.source import check_source


def check(config: DownloadShardsConfig) -> None:
    """Check the source.

    Raises:
        InputFault: the source is missing or cannot be used.
    """
    check_source(config.source)
