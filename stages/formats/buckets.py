"""The sizes of a shard's images, by which they are put into buckets, and the record of what was in each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from jaxtyping import Int

from models.decoders.bucket_fit import cropped_fraction, nearest_buckets
from models.decoders.buckets import Size
from stages.contract.documents import Document
from stages.contract.errors import InputFault
from stages.formats.shards import EntryStatus, read_table
from stages.storage.artifact import Artifact

_COLUMNS = ("width", "height", "original_width", "original_height")


@dataclass(frozen=True)
class ImageSizes:
    """Widths and heights in pixels: of images as a shard holds them, and as they were found."""

    stored: Int[np.ndarray, "images 2"]
    original: Int[np.ndarray, "images 2"]

    def buckets(self, sizes: Sequence[Size]) -> Int[np.ndarray, " images"]:
        """Return the number of each image's bucket."""
        return nearest_buckets(self.stored[:, 0], self.stored[:, 1], sizes)

    def cropped(self, sizes: Sequence[Size]) -> float:
        """Return the sum of the fractions of the images' areas that do not fit into their buckets."""
        own = np.asarray(sizes)[self.buckets(sizes)].reshape(-1, 2)
        return float(cropped_fraction(self.stored[:, 0], self.stored[:, 1], own).sum())


def read_image_sizes(shards: Artifact, name: str, keys: Sequence[str]) -> ImageSizes:
    """Return the sizes of a shard's images of these keys, in their order, from its table; no image is read."""
    table = read_table(shards, name, ["key", "status", *_COLUMNS])
    table = table.filter(pc.equal(table["status"], EntryStatus.SUCCESS.value))
    row_of = {key: row for row, key in enumerate(table["key"].to_pylist())}
    missing = [key for key in keys if key not in row_of]
    if missing or any(table[column].null_count for column in _COLUMNS):
        raise InputFault(
            f"shard {name}: its table gives no size of the image of key {missing[0] if missing else '?'!r}: expected "
            f"{', '.join(_COLUMNS)} of every image, to put it into a bucket: run download_shards anew"
        )
    rows = np.array([row_of[key] for key in keys], dtype=np.int64)
    found = np.stack([table[column].to_numpy() for column in _COLUMNS], axis=1).astype(np.int64)[rows]
    return ImageSizes(found[:, :2], found[:, 2:])


def listed_image_sizes(shards: Artifact, name: str) -> ImageSizes:
    """Return the sizes of all images of a shard whose table gives them; no image is read."""
    table = read_table(shards, name, ["status", *_COLUMNS])
    table = table.filter(pc.equal(table["status"], EntryStatus.SUCCESS.value)).select(_COLUMNS).drop_null()
    found = np.stack([table[column].to_numpy() for column in _COLUMNS], axis=1).astype(np.int64)
    return ImageSizes(found[:, :2], found[:, 2:])


class BucketsRecord(Document):
    """Which images a decoder learned from, by bucket."""

    file = "buckets.json"

    images: Mapping[str, int]
    """How many there are of each size, such as 96x64; those to validate on are not counted."""
    cropped_fraction: float
    """Mean of the fraction of an image's area that does not fit into its bucket."""

    def describe(self) -> str:
        """Return it for people."""
        counted = ", ".join(f"{size} {count:,}" for size, count in self.images.items())
        return f"{counted}; {self.cropped_fraction:.1%} of an image's area is cropped away on average"
