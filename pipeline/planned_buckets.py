"""How many images each bucket of a planned decoder has, from the tables of the shards that are there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.decoders.buckets import size_name
from pipeline.plan import Plan
from pipeline.store import Store
from stages.contract.findings import evenly
from stages.formats.buckets import listed_image_sizes
from stages.formats.shards import ShardRecord
from stages.train_decoder.base_config import DecoderConfig

MOST_SHARDS = 64
"""Shards whose tables are read, evenly spread; a table has a row for each image."""


@dataclass(frozen=True)
class PlannedBuckets:
    """Downloaded images by the bucket that they would be in; those to validate on are among them."""

    images: Mapping[str, int]
    """By size, such as 96x64, from the narrowest to the widest."""
    cropped_fraction: float
    """Mean of the fraction of an image's area that does not fit into its bucket; 0 without images."""
    shards_read: int
    shards: int
    """That are there so far."""

    def describe(self) -> str:
        """Return it for people."""
        if not self.shards:
            return f"buckets: {', '.join(self.images)}; how many images each has is known once shards are downloaded"
        counted = ", ".join(f"{size} {count:,}" for size, count in self.images.items())
        of = "" if self.shards_read == self.shards else f" (of {self.shards_read:,} of {self.shards:,} shards)"
        return (
            f"buckets: {counted} images{of}; {self.cropped_fraction:.1%} of an image's area is cropped away on average"
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**vars(self), "images": dict(self.images)}


def planned_buckets(plan: Plan, store: Store) -> PlannedBuckets | None:
    """Count the images of each bucket; None: no decoder of the plan has buckets."""
    decoder, download = plan.stages.get("train_decoder"), plan.stages.get("download_shards")
    config = None if decoder is None else decoder.config
    if not isinstance(config, DecoderConfig) or config.buckets is None:
        return None
    names: list[str] = []
    if download is not None:
        shards = store.artifact(download.name, download.fingerprint)
        names = sorted(name for name, record in ShardRecord.done(shards).items() if record.images)
    sizes = config.buckets.sizes(config.resolution)
    counts, cropped, read = np.zeros(len(sizes), dtype=np.int64), 0.0, evenly(names, MOST_SHARDS)
    for name in read:
        found = listed_image_sizes(shards, name)
        counts += np.bincount(found.buckets(sizes), minlength=len(sizes))
        cropped += found.cropped(sizes)
    images = {size_name(size): int(count) for size, count in zip(sizes, counts, strict=True)}
    return PlannedBuckets(images, cropped / max(int(counts.sum()), 1), len(read), len(names))
