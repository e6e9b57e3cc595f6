"""Read webdataset shards; the library is imported where it reads, as it brings torch along."""

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class ShardSample:
    """One sample as it lies in a shard: the encoded image if there is one, and its captions, if any.

    In the tar, ``key.txt`` holds the first caption; where there are several, ``key.json`` lists them all.
    """

    key: str
    image: bytes | None
    captions: tuple[str, ...]


def read_shard(path: Path, *, with_captions: bool = True) -> Iterator[ShardSample]:
    """Yield the samples of one shard in their order; without captions, nothing of theirs is looked into."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with path.open("rb") as stream:
        for sample in group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])):
            image = next((sample[suffix] for suffix in _IMAGE_SUFFIXES if suffix in sample), None)
            yield ShardSample(sample["__key__"], image, _captions(sample) if with_captions else ())


def index_images(path: Path) -> dict[str, tuple[int, int]]:
    """Return where each image of a shard lies in its tar, offset and size in bytes, by key, in their order."""
    from webdataset.tariterators import base_plus_ext

    found: dict[str, dict[str, tuple[int, int]]] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, suffix = base_plus_ext(member.name)
            if member.isfile() and key is not None and suffix.lower() in _IMAGE_SUFFIXES:
                found.setdefault(key, {})[suffix.lower()] = (member.offset_data, member.size)
    return {key: next(files[s] for s in _IMAGE_SUFFIXES if s in files) for key, files in found.items()}


def read_member(path: Path, offset: int, size: int) -> bytes:
    """Return the bytes of a tar's member."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _captions(sample: Mapping[str, Any]) -> tuple[str, ...]:
    listed = json.loads(sample["json"]).get("captions") if "json" in sample else None
    first = sample["txt"].decode() if "txt" in sample else ""
    return tuple(listed) if listed else (first,) if first else ()
