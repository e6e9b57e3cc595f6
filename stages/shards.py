"""Read webdataset shards."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webdataset.tariterators import group_by_keys, tar_file_expander

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class ShardSample:
    """One sample as it lies in a shard: the encoded image if there is one, and its captions, of which there may be none.

    In the tar, ``key.txt`` holds the first caption; where there are several, ``key.json`` lists them all.
    """

    key: str
    image: bytes | None
    captions: tuple[str, ...]


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield the samples of one shard in their order."""
    with path.open("rb") as stream:
        for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
            image = next((sample[suffix] for suffix in _IMAGE_SUFFIXES if suffix in sample), None)
            yield ShardSample(sample["__key__"], image, _captions(sample))


def _captions(sample: Mapping[str, Any]) -> tuple[str, ...]:
    listed = json.loads(sample["json"]).get("captions") if "json" in sample else None
    first = sample["txt"].decode() if "txt" in sample else ""
    return tuple(listed) if listed else (first,) if first else ()
