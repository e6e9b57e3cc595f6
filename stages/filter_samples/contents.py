"""What each unit of filter_samples is made from."""

import hashlib
from collections.abc import Mapping

from stages.filter_samples.config import FilterSamplesConfig
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import shard_rows
from stages.storage.artifact import Artifact
from stages.storage.takeover import contents_of_units
from stages.streaming.staleness import Contents


def contents(config: FilterSamplesConfig, inputs: Mapping[str, Artifact]) -> Contents:
    """Return what each shard's result depends on, where that is known: its embeddings.

    Where near-duplicates of all images are looked for, also those of all shards before it, in their order.
    """
    embeddings = inputs["embed_clip"]
    known, found = contents_of_units(embeddings), {}
    first = so_far = str(read_clips(embeddings).block_dims)
    for name in shard_rows(embeddings):
        if name not in known:
            if config.compares_all:
                break
            continue
        before = so_far if config.compares_all else first
        found[name] = so_far = hashlib.sha256(f"{before} {known[name]}".encode()).hexdigest()[:32]
    return found
