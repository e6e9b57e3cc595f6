"""Run download_shards over what strangers made, and read what came of it."""

import io
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from stages.contract.stage import StageSummary
from stages.download_shards.check import check
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.stage import run
from stages.formats.shards import ShardSample, read_shard
from stages.formats.source_records import SourceRecord
from stages.storage.artifact import Output
from tests.factories import make_context


def download(source: dict[str, Any], out: Path, **options: Any) -> StageSummary:
    """Do all that a run does with the stage, its digest and its check included, in png so that pixels stay."""
    chosen = {"rows_per_shard": 4, "image_size": 64, "min_yield": 0.0, "encode_format": "png"} | options
    config = DownloadShardsConfig(source=source, **chosen)
    config.identity()
    check(config)
    return run(config, {}, Output(str(out), "download_shards", "test"), make_context())


def samples(out: Path) -> list[ShardSample]:
    """Return the samples in order."""
    return [sample for shard in sorted((out / "shards").glob("*.tar")) for sample in read_shard(shard)]


def rows(out: Path) -> pd.DataFrame:
    """Return the rows in order."""
    return pd.concat([pd.read_parquet(path) for path in sorted((out / "shards").glob("*.parquet"))], ignore_index=True)


def captions_by_url(out: Path) -> dict[str, tuple[str, ...]]:
    """Return the captions of each stored image by its address."""
    table = rows(out)
    stored = table[table["status"] == "success"]["url"].tolist()
    return {url: sample.captions for url, sample in zip(stored, samples(out), strict=True)}


def lost_by_url(out: Path) -> dict[str, str]:
    """Return the messages of lost entries by their addresses."""
    table = rows(out)
    lost = table[table["status"] != "success"]
    return {str(url): message for url, message in zip(lost["url"], lost["error_message"], strict=True)}


def red_of(sample: ShardSample) -> int:
    """Return the red of an image of one color."""
    assert sample.image is not None
    pixel = Image.open(io.BytesIO(sample.image)).convert("RGB").getpixel((5, 5))
    assert isinstance(pixel, tuple)
    return int(pixel[0])


def source_record(out: Path) -> SourceRecord:
    """Return what the driver found in the source."""
    return SourceRecord.of(Output(str(out), "download_shards", "test"))
