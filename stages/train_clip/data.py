"""Captioned images by (shard, row): held in memory are keys, captions, and where each image lies in its shard."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cluster.rank_link import getting_on
from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, choose_captions, select_captioned
from stages.formats.pseudo_captions import read_pseudo_captions_of
from stages.formats.shards import ShardRecord, read_captions, require_units, shard_tar
from stages.formats.splits import SplitConfig, SplitRecord
from stages.storage.artifact import Artifact
from stages.training.images.dataset import ImageDataset, Indices
from stages.training.split_rows import SplitRows

_LEAST = 2  # images with human captions to validate on


class _Captions(NamedTuple):
    """The captions of an image, human ones first."""

    texts: tuple[str, ...]
    num_human: int


class CaptionedImages(ImageDataset):
    """The images of all shards whose captions may be used, by shard in the order of their keys.

    Of an image's human captions the first one is used, and all of its pseudo-captions. ``in_shards`` counts all images
    of the shards that have human captions.
    """

    def __init__(
        self,
        inputs: Mapping[str, Artifact],
        usable: CaptionsConfig,
        *,
        image_size: int,
        cache_bytes: int = 0,
        threads: int = 1,
    ) -> None:
        shards, pseudo = inputs["download_shards"], inputs.get("caption_images")
        names = getting_on(sorted(ShardRecord.done(shards)))
        captioned = {name: read_captions(shard_tar(shards, name)) for name in names}
        self.in_shards = sum(map(len, captioned.values()))
        if pseudo is not None:
            require_units(pseudo.stage, pseudo.unit_names(), captioned)
        found = {
            name: _join(
                _select(captions, usable), {} if pseudo is None else read_pseudo_captions_of(shards, name, pseudo)
            )
            for name, captions in captioned.items()
        }
        found = {name: captions for name, captions in found.items() if captions}
        sizes = {name: len(captions) for name, captions in found.items()}
        # Where images lie is kept of all: an epoch is one window over all shards.
        super().__init__(
            shards, sizes, resolution=image_size, cache_bytes=cache_bytes, threads=threads, kept_indices=None
        )
        self._keys = [list(captions) for captions in found.values()]
        self._captions = [list(captions.values()) for captions in found.values()]
        self._human_fraction = usable.human_fraction
        self.num_human = sum(one.num_human > 0 for shard in self._captions for one in shard)
        self.num_pseudo = sum(len(one.texts) > one.num_human for shard in self._captions for one in shard)
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

    def captions(self, indices: Indices, choice: Float[np.ndarray, " images"] | None = None) -> list[str]:
        """Return a caption of each image: the one that a number in [0, 1) chooses, or else the first."""
        found = [self._captions[shard][row] for shard, row in indices.tolist()]
        if choice is None:
            return [one.texts[0] for one in found]
        human = np.array([one.num_human for one in found], dtype=np.int64)
        count = np.array([len(one.texts) for one in found], dtype=np.int64)
        numbers = choose_captions(choice, human, count - human, self._human_fraction)
        return [one.texts[number] for one, number in zip(found, numbers.tolist(), strict=True)]

    def all_captions(self, indices: Indices) -> list[str]:
        """Return all captions of the images that training may choose."""
        found = [self._captions[shard][row] for shard, row in indices.tolist()]
        return [text for one in found for text in one.texts[0 if self._human_fraction else one.num_human :]]

    def listed_keys(self, shard: int) -> list[str]:
        """Return the same keys."""
        return self._keys[shard]

    def split(self, config: SplitConfig) -> tuple[Indices, Indices, SplitRecord]:
        """Return training and held-out images of the experiment's split, and what was found.

        Held out are images with human captions alone, where two of these are in that part.
        """
        splits = SplitRows(self._keys)
        record = splits.divide(config)
        rows = [np.stack([np.full(size, n), np.arange(size)], axis=1) for n, size in enumerate(splits.train_sizes)]
        train, held_out = splits.train(np.concatenate(rows)), splits.validation
        if self.num_pseudo and self._human_fraction == 0:
            train = train[[self._has_pseudo(shard, row) for shard, row in train.tolist()]]
        human = held_out[self.are_human(held_out)]
        return train, human if len(human) >= _LEAST else held_out, record

    def are_human(self, indices: Indices) -> np.ndarray:
        """Tell of each image whether it has a human caption."""
        return np.array([self._captions[shard][row].num_human > 0 for shard, row in indices.tolist()], dtype=bool)

    def _has_pseudo(self, shard: int, row: int) -> bool:
        found = self._captions[shard][row]
        return len(found.texts) > found.num_human


def _join(human: Mapping[str, str], pseudo: Mapping[str, list[str]]) -> dict[str, _Captions]:
    """Return the captions of each image that has any, by key, sorted."""
    texts = {key: (*([human[key]] if key in human else []), *pseudo.get(key, ())) for key in {*human, *pseudo}}
    return {key: _Captions(texts[key], int(key in human)) for key in sorted(texts)}


def _select(captions: Mapping[str, str], usable: CaptionsConfig) -> dict[str, str]:
    chosen = select_captioned(list(captions), usable)
    return {key: caption for (key, caption), is_usable in zip(captions.items(), chosen, strict=True) if is_usable}
