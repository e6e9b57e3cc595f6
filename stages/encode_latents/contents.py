"""What each unit of encode_latents is made from."""

from collections.abc import Mapping
from typing import Any

from stages.storage.artifact import Artifact
from stages.streaming.staleness import Contents, contents_of


def contents(config: Any, inputs: Mapping[str, Artifact]) -> Contents:
    """Return what identifies the images and captions of each shard."""
    shards = inputs["download_shards"]
    return contents_of(shards, shards.unit_names())
