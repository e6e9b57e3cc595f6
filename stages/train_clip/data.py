"""Captioned images by (shard, row): held in memory are keys, captions, and where each image lies in its shard."""

from collections.abc import Mapping

import numpy as np

from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.shards import ShardRecord, read_captions, shard_tar
from stages.formats.splits import SplitConfig, SplitRecord
from stages.storage.artifact import Artifact
from stages.training.images.dataset import ImageDataset, Indices
from stages.training.split_rows import SplitRows


class CaptionedImages(ImageDataset):
    """The images of all shards whose captions may be used, by shard in the order of their keys, with their first ones.

    ``in_shards`` counts all captioned images of the shards.
    """

    def __init__(self, shards: Artifact, usable: CaptionsConfig, *, image_size: int, threads: int = 1) -> None:
        captioned = {name: read_captions(shard_tar(shards, name)) for name in sorted(ShardRecord.done(shards))}
        self.in_shards = sum(map(len, captioned.values()))
        found = {name: _select(captions, usable) for name, captions in captioned.items()}
        found = {name: captions for name, captions in found.items() if captions}
        sizes = {name: len(captions) for name, captions in found.items()}
        # No image is kept, and where they lie is kept of all: an epoch is one window over all shards.
        super().__init__(shards, sizes, resolution=image_size, cache_bytes=0, threads=threads, kept_indices=None)
        self._keys = [list(captions) for captions in found.values()]
        self._captions = [list(captions.values()) for captions in found.values()]
        if sum(self.sizes) < 2:
            raise InputFault(
                f"train_clip: the shards of download_shards hold {self.in_shards} captioned images, of which "
                f"{sum(self.sizes)} may be used (train_clip.captions.fraction {usable.fraction:g}): training "
                "by contrast needs at least two: name the caption column (download_shards.source.caption_column), or "
                "raise captions.fraction or train_clip.captions.fraction"
            )

    def shard_keys(self, shard: int) -> list[str]:
        """Return the keys of a shard's captioned images."""
        return self._keys[shard]

    def captions(self, indices: Indices) -> list[str]:
        """Return the captions of the images."""
        return [self._captions[shard][row] for shard, row in indices.tolist()]

    def listed_keys(self, shard: int) -> list[str]:
        """Return the same keys."""
        return self._keys[shard]

    def split(self, config: SplitConfig) -> tuple[Indices, Indices, SplitRecord]:
        """Return training and held-out images of the experiment's split, and what was found."""
        splits = SplitRows(self._keys)
        record = splits.divide(config)
        rows = [np.stack([np.full(size, n), np.arange(size)], axis=1) for n, size in enumerate(splits.train_sizes)]
        return splits.train(np.concatenate(rows)), splits.validation, record


def _select(captions: Mapping[str, str], usable: CaptionsConfig) -> dict[str, str]:
    chosen = select_captioned(list(captions), usable)
    return {key: caption for (key, caption), is_usable in zip(captions.items(), chosen, strict=True) if is_usable}
