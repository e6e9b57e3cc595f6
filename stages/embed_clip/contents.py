"""What each unit of embed_clip is made from."""

import functools
from collections.abc import Callable, Mapping

from stages.embed_clip.config import EmbedClipConfig
from stages.formats.pseudo_captions import pseudo_captions_content
from stages.formats.shards import shard_content
from stages.storage.artifact import Artifact
from stages.streaming.staleness import Contents, contents_of


def contents(config: EmbedClipConfig, inputs: Mapping[str, Artifact]) -> Contents:
    """Return what identifies the images and captions of each shard; of embeddings without shards, nothing."""
    shards = inputs.get("download_shards")
    return {} if shards is None else contents_of(shards, shards.unit_names(), content_of_unit(inputs))


def content_of_unit(inputs: Mapping[str, Artifact]) -> Callable[[Artifact, str], str | None]:
    """Return the function that finds it of one shard, with its pseudo-captions where there are any."""
    captioned = inputs.get("caption_images")
    return shard_content if captioned is None else functools.partial(_content_with_pseudo, captioned)


def _content_with_pseudo(captioned: Artifact, shards: Artifact, name: str) -> str | None:
    """Return what identifies a shard's images with their human captions and pseudo-captions."""
    found = shard_content(shards, name), pseudo_captions_content(captioned, name)
    return None if None in found else "+".join(map(str, found))
