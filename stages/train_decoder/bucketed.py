"""Train a decoder on images of several aspect ratios: each batch is of one bucket (SDXL, arXiv 2307.01952, 2.3).

Every image is trained on equally often (:mod:`stages.training.bucket_order`), and each counts in the loss of its batch
by 1 / batch size, so that the mean over all steps is that over all images, whatever the buckets' sizes.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from models.decoders.base import to_bytes
from models.decoders.buckets import size_name
from models.decoders.sampling import DecoderSampling
from models.decoders.spec import BucketedSpec
from models.noise import SeededNoise
from stages.contract.errors import InputFault
from stages.formats.buckets import BucketsRecord
from stages.storage.artifact import Output
from stages.train_decoder.base_config import DecoderConfig
from stages.training.bucket_order import BucketOrder
from stages.training.images.bucketed import BucketedImages
from stages.training.images.dataset import EmbeddedImages, Indices
from stages.training.images.image_task import Positions, stacked_rows
from stages.training.images.shard_images import ImageRows
from stages.training.images.task import DecoderTask
from stages.training.randomness import make_random_inputs, sample_seeds, sample_uniform
from stages.training.task import Batch, BatchPart

KEPT = 1024  # lists of the images of a shard's bucket


@dataclass
class BucketedTask(DecoderTask):
    """Trains on squares, or with ``buckets`` on images of several sizes."""

    config: DecoderConfig
    _bucket_order: BucketOrder = field(init=False, repr=False, compare=False)

    @property
    def crops_at_random(self) -> bool:
        """Whether an image is cropped to its bucket at another position at each visit."""
        return self.config.augmentation is not None and self.config.augmentation.crop > 0

    def open_data(self) -> EmbeddedImages:
        """Open images and embeddings, and find the images' buckets."""
        if self.config.buckets is None:
            return super().open_data()
        return BucketedImages(
            self.inputs["download_shards"],
            self.inputs["embed_clip"],
            self.config.buckets.sizes(self.config.resolution),
            resolution=self.config.resolution,
            cache_bytes=int(self.config.cache_gigabytes * 1e9),
            threads=torch.get_num_threads(),
            keeps_margin=self.crops_at_random,
            numbers_of=self.numbers_of(),
        )

    @property
    def bucketed(self) -> BucketedImages:
        """The images by buckets."""
        if not isinstance(self.data, BucketedImages):
            raise TypeError("train_decoder: the images have no buckets")
        return self.data

    def split(self) -> None:
        """Hold out what the experiment's split does, and fix the order of the others, bucket by bucket."""
        super().split()
        if self.config.buckets is None:
            return
        shards = range(len(self._splits.train_sizes))
        self._train_buckets = [
            self.bucketed.buckets(self._train_rows(shard)).astype(np.uint8) for shard in shards
        ]  # of the images trained on, in their order
        self._of_bucket = lru_cache(maxsize=KEPT)(lambda s, b: np.flatnonzero(self._train_buckets[s] == b))
        num = len(self.bucketed.bucket_sizes)
        sizes = np.stack([np.bincount(found, minlength=num) for found in self._train_buckets], axis=1)
        self._require_ratios(sizes.sum(axis=1))
        self._bucket_order = BucketOrder(
            sizes, self.data.window_size, self.config.seed, batch_size=self.config.training.batch_size
        )

    def _train_rows(self, shard: int) -> Indices:
        numbers = np.arange(self._splits.train_sizes[shard])
        return self.rows_at(self._splits.train(np.stack([np.full_like(numbers, shard), numbers], axis=1)))

    def _require_ratios(self, counts: np.ndarray) -> None:
        sizes = self.bucketed.bucket_sizes
        found = [sizes[bucket] for bucket in np.flatnonzero(counts)]
        if found == [(self.config.resolution, self.config.resolution)]:
            raise InputFault(
                f"train_decoder.buckets: found {counts.sum():,} images, all of them square or nearly so: expected "
                "other aspect ratios, too: download them with resize_mode keep_ratio, which does not crop to squares, "
                "or leave buckets out"
            )

    def samples_behind(self, positions: Positions, shifts: Positions) -> Indices:
        """Return the samples that stand so far behind these positions in the sequence of their bucket."""
        if self.config.buckets is None:
            return super().samples_behind(positions, shifts)
        found, buckets = self._bucket_order.at(positions.tolist(), shifts.tolist())
        pairs = zip(found.tolist(), buckets.tolist(), strict=True)
        numbers = [[shard, self._of_bucket(shard, bucket)[number]] for (shard, number), bucket in pairs]
        return self.rows_at(self._splits.train(np.array(numbers, dtype=np.int64).reshape(-1, 2)))

    def together(self, indices: Indices) -> list[Indices]:
        """Return the samples by bucket."""
        if self.config.buckets is None:
            return super().together(indices)
        buckets = self.bucketed.buckets(indices)
        return [indices[buckets == bucket] for bucket in np.unique(buckets)]

    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Read samples of one bucket, and add random numbers of its shape, and sizes where they count."""
        if self.config.buckets is None:
            return super().batch(indices, part)
        wanted = self.bucketed_spec.random_inputs(self.bucketed.size_of(indices))
        stream = SeededNoise(sample_seeds(self.config.seed, part))
        batch = {**self.read(indices), **make_random_inputs(wanted, part, stream, self.config.seed)}
        if self.bucketed_spec.is_conditioned_on_size:
            batch["sizes"] = torch.from_numpy(self.bucketed.size_numbers(indices))
        return batch

    def training_batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Make a batch to train on; where images are cropped at random, the part of each is another at each visit."""
        batch = self.batch(indices, part)
        if self.config.buckets is None or not self.crops_at_random:
            return batch
        names = ("bucket_left", "bucket_top")
        positions = np.stack([sample_uniform(self.config.seed, part, name) for name in names], axis=1)
        changed = {"images": torch.from_numpy(self.bucketed.crops(indices, positions))}
        if "sizes" in batch:
            changed["sizes"] = torch.from_numpy(self.bucketed.size_numbers(indices, positions))
        return {**batch, **changed}

    @property
    def bucketed_spec(self) -> BucketedSpec:
        """The spec, which says the shape of a bucket's random numbers."""
        if not isinstance(self.spec, BucketedSpec):
            raise TypeError(f"train_decoder: kind {self.config.kind} has no buckets")
        return self.spec

    def sampling_of(self, indices: Indices) -> DecoderSampling:
        """Return how images are generated beside these: at the size of their bucket."""
        settings = super().sampling_of(indices)
        if self.config.buckets is None:
            return settings
        return replace(settings, size=size_name(self.bucketed.size_of(indices)))

    def sample_grid(self, model: nn.Module) -> bytes:
        """Return a PNG of true images above generated ones, by bucket, each on a field as large as the largest."""
        if self.config.buckets is None:
            return super().sample_grid(model)
        true: list[ImageRows] = []
        generated: list[ImageRows] = []
        for indices in self.together(self.held_out[: self.config.samples.num_images]):
            true.append(self.true_images(indices))
            generated.append(to_bytes(self.generate_samples(model, indices).cpu()).numpy())
        height, width = (max(rows.shape[axis] for rows in true) for axis in (1, 2))
        return stacked_rows(
            *(np.concatenate([_padded(rows, height, width) for rows in of]) for of in (true, generated))
        )

    def save(self, model: nn.Module, output: Output) -> None:
        """Write the decoder's folder, and which images were in which bucket."""
        super().save(model, output)
        if self.config.buckets is None:
            return
        counts = np.bincount(np.concatenate(self._train_buckets), minlength=len(self.bucketed.bucket_sizes))
        areas = [self.bucketed.cropped_area(self._train_rows(s)) * len(n) for s, n in enumerate(self._train_buckets)]
        BucketsRecord(
            images={size_name(size): int(n) for size, n in zip(self.bucketed.bucket_sizes, counts, strict=True)},
            cropped_fraction=round(sum(areas) / counts.sum(), 6),
        ).write(output)


def _padded(rows: ImageRows, height: int, width: int) -> ImageRows:
    """Return images in the middle of white fields."""
    top, left = (height - rows.shape[1]) // 2, (width - rows.shape[2]) // 2
    fields = np.full((len(rows), height, width, 3), 255, dtype=np.uint8)
    fields[:, top : top + rows.shape[1], left : left + rows.shape[2]] = rows
    return fields
