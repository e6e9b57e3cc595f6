"""The one base of all tasks that train on images of shards: decoders, upsamplers, autoencoders and CLIP."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image

from cluster.rank_link import getting_on
from stages.contract.errors import FailureCause, InputFault
from stages.formats.image_grids import to_png
from stages.formats.splits import SplitConfig, SplitRecord
from stages.storage.artifact import Artifact
from stages.training.config import TrainStageConfig
from stages.training.images.augmentation import augmented_bytes
from stages.training.images.augmentation_config import ImageAugmentation
from stages.training.images.dataset import ImageDataset, Indices
from stages.training.images.shard_images import ImageRows, UnreadableImages
from stages.training.order import SampleOrder
from stages.training.split_rows import SplitRows
from stages.training.task import Batch, BatchPart, RankInfo

VALIDATION_BATCH = 64
Positions = Int[np.ndarray, " positions"]


@dataclass
class ImageTask(ABC):
    """Trains on all images but those held out, in the order of the seed.

    A task opens its dataset (:meth:`open_data`) and makes batches of samples (:meth:`batch`).
    """

    skips_unreadable: ClassVar[bool] = False
    """Whether images that cannot be decoded are left out and counted, or an error."""

    config: TrainStageConfig
    inputs: Mapping[str, Artifact]
    rank_info: RankInfo = field(default_factory=lambda: RankInfo(0, 1, torch.device("cpu")))
    left_out: dict[str, FailureCause] = field(default_factory=dict, init=False)
    split_record: SplitRecord = field(init=False, repr=False, compare=False)

    @abstractmethod
    def open_data(self) -> ImageDataset:
        """Open the images."""

    @abstractmethod
    def batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Read the samples, and add the random numbers of the part."""

    def setup(self, rank_info: RankInfo) -> None:
        """Open the data and fix the order of samples."""
        self.rank_info = rank_info
        self.data = self.open_data()
        self.split()
        self.check_data()

    def has_direction(self, metric: str, step: int) -> bool:
        """Tell whether weights may be compared by the metric of a validation, as the section says."""
        return self.config.has_direction(metric, step)

    @property
    def num_held_out(self) -> int:
        """How many images are held out at most."""
        return 64

    @property
    def split_config(self) -> SplitConfig:
        """The split of the experiment."""
        split: SplitConfig = self.config.split  # type: ignore[attr-defined]
        return split

    def split(self) -> None:
        """Hold out what the experiment's split does, and fix the order of the others.

        Of the validation part at most ``num_held_out`` are used: those with the lowest numbers by hash.
        """
        self._splits = SplitRows(self.keys_of(shard) for shard in getting_on(range(len(self.sizes()))))
        self.split_record = self._splits.divide(self.split_config)
        self._held_out = self.rows_at(self._splits.validation[: self.num_held_out])
        self._order = SampleOrder(self._splits.train_sizes, self.data.window_size, self.config.seed)

    def keys_of(self, shard: int) -> list[str]:
        """Return the keys of a shard's images, held-out ones among them, in the order in which they are counted."""
        indices = np.stack([np.full(size := self.sizes()[shard], shard), np.arange(size)], axis=1)
        keys = self.data.listed_keys(shard)
        return [keys[row] for _, row in self.rows_at(indices).tolist()]

    def sizes(self) -> list[int]:
        """Return how many images of each shard are trained on, held-out ones among them."""
        return self.data.sizes

    def rows_at(self, indices: Indices) -> Indices:
        """Return the indices of images that are counted among those trained on: the same, if all are."""
        return indices

    def check_data(self) -> None:
        """Check that the images of the first shard are large enough."""
        self.data.images.require_resolution(self.data.names[0], f"{self.config.stage}.resolution")

    def samples_at(self, positions: Positions) -> Indices:
        """Return the samples at these positions of the endless sequence of training samples."""
        return self.rows_at(self._splits.train(self._order.at(positions)))

    def samples_behind(self, positions: Positions, shifts: Positions) -> Indices:
        """Return the samples that stand so far behind these positions, among those that one batch can hold."""
        return self.samples_at(positions + shifts)

    def training_batch(self, indices: Indices, part: BatchPart) -> Batch:
        """Make a batch to train on, before it is augmented."""
        return self.batch(indices, part)

    def prepare(self, part: BatchPart) -> Batch:
        """Make the batch of the part; a sample that is left out is replaced by the next in the order."""
        positions, shifts = np.array(part.positions), np.zeros(part.count, dtype=np.int64)
        while True:
            indices = self.samples_behind(positions, shifts)
            skipped = self._are_left_out(indices)
            if not skipped.any():
                try:
                    return self.augment(self.training_batch(indices, part), part)
                except UnreadableImages as error:
                    if not self.skips_unreadable:
                        raise
                    self.left_out |= error.causes
                    skipped = self._are_left_out(indices)
            shifts[skipped] += 1
            if shifts.max() > 2 * self._order.epoch_size:
                raise self._none_readable("training")

    def augment(self, batch: Batch, part: BatchPart) -> Batch:
        """Change the images of a batch at random, where the section asks for it."""
        config = getattr(self.config, "augmentation", None)
        if not isinstance(config, ImageAugmentation) or not config.changes:
            return batch
        return {**batch, "images": augmented_bytes(batch["images"], part, config, self.config.seed)}

    @cached_property
    def held_out(self) -> Indices:
        """The held-out samples, without those that are left out."""
        indices = self._held_out
        if self.skips_unreadable:
            self.left_out |= self.data.unreadable(indices)
            indices = indices[~self._are_left_out(indices)]
        if not len(indices):
            raise self._none_readable("held-out")
        return indices

    def held_out_batches(self, *, step: int = 0, sample: int = 0) -> Iterator[Batch]:
        """Yield the batches of the held-out samples as ``step`` sees them, on the training device.

        Their random numbers are those of ``sample`` and the same at any step: validations that differ in their noise
        could not be compared, and the best of them would be the luckiest.
        """
        first, groups = 0, self.together(self.held_out)
        for indices in (
            group[at : at + VALIDATION_BATCH] for group in groups for at in range(0, len(group), VALIDATION_BATCH)
        ):
            part = BatchPart(step, first, len(indices), len(self.held_out), skipped=sample - step)
            batch = self.batch(indices, part)
            first += len(indices)
            yield {name: tensor.to(self.rank_info.device) for name, tensor in batch.items()}

    def together(self, indices: Indices) -> list[Indices]:
        """Return the samples in groups that a batch can hold: all of them."""
        return [indices]

    def _are_left_out(self, indices: Indices) -> np.ndarray:
        if not self.left_out:
            return np.zeros(len(indices), dtype=bool)
        return np.array([name in self.left_out for name in self.data.sample_names(indices)])

    def _none_readable(self, which: str) -> InputFault:
        return InputFault(
            f"{self.config.stage}: found no {which} image that can be decoded: expected some: check the images with "
            "`corgi inspect`, and run download_shards anew"
        )


def stacked_rows(*rows: UInt8[np.ndarray, "rows height width 3"] | ImageRows) -> bytes:
    """Return a PNG of rows of images, one below the other."""
    return to_png(Image.fromarray(np.concatenate([np.concatenate(list(row), axis=1) for row in rows])))
