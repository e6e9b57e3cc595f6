"""Read webdataset shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from webdataset.tariterators import group_by_keys, tar_file_expander

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class ShardSample:
    """One sample as it lies in a shard: the encoded image if there is one, the caption if there is one."""

    key: str
    image: bytes | None
    caption: str | None


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield the samples of one shard in their order."""
    with path.open("rb") as stream:
        for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
            image = next((sample[suffix] for suffix in _IMAGE_SUFFIXES if suffix in sample), None)
            caption = sample["txt"].decode() if "txt" in sample else None
            yield ShardSample(sample["__key__"], image, caption or None)
