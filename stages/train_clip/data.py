"""Captioned images by (shard, row): held in memory are keys, captions, and where each image lies in its shard."""

import numpy as np

from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.shards import ShardRecord, read_captions, shard_tar
from stages.storage.artifact import Artifact
from stages.training.images.dataset import ImageDataset, Indices


class CaptionedImages(ImageDataset):
    """The captioned images of all shards, those of a shard in the order of their keys, with their first captions."""

    def __init__(self, shards: Artifact, *, image_size: int, threads: int = 1) -> None:
        found = {name: read_captions(shard_tar(shards, name)) for name in sorted(ShardRecord.done(shards))}
        found = {name: captions for name, captions in found.items() if captions}
        sizes = {name: len(captions) for name, captions in found.items()}
        # No image is kept, and where they lie is kept of all: an epoch is one window over all shards.
        super().__init__(shards, sizes, resolution=image_size, cache_bytes=0, threads=threads, kept_indices=None)
        self._keys = [list(captions) for captions in found.values()]
        self._captions = [list(captions.values()) for captions in found.values()]
        if sum(self.sizes) < 2:
            raise InputFault(
                f"train_clip: the shards of download_shards hold {sum(self.sizes)} captioned images: training by "
                "contrast needs at least two: name the caption column (download_shards.source.caption_column)"
            )

    def shard_keys(self, shard: int) -> list[str]:
        """Return the keys of a shard's captioned images."""
        return self._keys[shard]

    def captions(self, indices: Indices) -> list[str]:
        """Return the captions of the images."""
        return [self._captions[shard][row] for shard, row in indices.tolist()]

    def split(self, fraction: float, seed: int) -> tuple[Indices, Indices]:
        """Return training and held-out images, chosen by the hash of their keys; both have at least one."""
        indices = np.array([(shard, row) for shard, size in enumerate(self.sizes) for row in range(size)])
        chosen = select_captioned(self.keys(indices), CaptionsConfig(fraction=fraction, seed=seed))
        if not chosen.any():
            chosen[-1] = True
        if chosen.all():
            chosen[0] = False
        return indices[~chosen], indices[chosen]
