"""The image dataset whose images have the sizes of their buckets."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from cluster.rank_link import getting_on
from models.decoders.buckets import Size
from stages.formats.buckets import ImageSizes, read_image_sizes
from stages.formats.images import MIDDLE, RgbImage, covering, covering_size, crop_corner, cropped
from stages.storage.artifact import Artifact
from stages.training.images.dataset import EmbeddedImages, Indices
from stages.training.images.shard_images import KEPT_INDICES, ImageRows

CropPositions = Float[np.ndarray, "rows 2"]
BucketNumbers = Int[np.ndarray, " rows"]
NumbersOf = Callable[[str, Sequence[str]], BucketNumbers]
"""From a shard's name and keys to the number of each image's bucket."""


class BucketedImages(EmbeddedImages):
    """Embedded images, of which a batch has to be of one bucket; the number of each one's bucket is held (1 byte)."""

    def __init__(
        self,
        shards: Artifact,
        embeddings: Artifact,
        sizes: Sequence[Size],
        *,
        resolution: int,
        cache_bytes: int,
        threads: int = 1,
        keeps_margin: bool = False,
        numbers_of: NumbersOf | None = None,
    ) -> None:
        """Find each image's bucket; ``numbers_of`` knows them where they are recorded already.

        ``keeps_margin``: what is cropped away is kept in memory, as another part will be at the next visit.
        """
        super().__init__(shards, embeddings, resolution=resolution, cache_bytes=cache_bytes, threads=threads)
        self.bucket_sizes, self._shards, self._keeps_margin = tuple(sizes), shards, keeps_margin
        self._sizes_of = lru_cache(maxsize=KEPT_INDICES)(self._read_sizes)
        self._numbers = [self._find(shard, numbers_of) for shard in getting_on(range(len(self.names)))]

    def buckets(self, indices: Indices) -> BucketNumbers:
        """Return the number of each image's bucket."""
        numbers = np.empty(len(indices), dtype=np.int64)
        for shard in np.unique(indices[:, 0]):
            here = indices[:, 0] == shard
            numbers[here] = self._numbers[shard][indices[here, 1]]
        return numbers

    def size_of(self, indices: Indices) -> Size:
        """Return the size of the one bucket that all the images are in."""
        found = set(self.buckets(indices).tolist())
        if len(found) != 1:
            raise ValueError(f"BucketedImages: found images of {len(found)} buckets: expected those of one")
        return self.bucket_sizes[found.pop()]

    def squares(self, indices: Indices) -> ImageRows:
        """Return the images, in the middle of which their bucket is cut out."""
        return self.crops(indices, np.tile(MIDDLE, (len(indices), 1)))

    def crops(self, indices: Indices, positions: CropPositions) -> ImageRows:
        """Return the images, cropped to their bucket at these positions (left to right, top to bottom, in [0, 1))."""
        size = self.size_of(indices)
        make = partial(_covering if self._keeps_margin else _middle, size)
        with self._lock:
            rows = self.images.read_as(make, self.samples(indices), smallest_side=max(size))
        pairs = zip(rows, positions.tolist(), strict=True)
        return np.stack([cropped(row, size, (left, top)) for row, (left, top) in pairs])

    def size_numbers(self, indices: Indices, positions: CropPositions | None = None) -> Float[np.ndarray, "rows 6"]:
        """Return what :mod:`models.decoders.size_conditioning` makes features of, for crops at these positions."""
        size = self.size_of(indices)
        found = []
        for row, (shard, number) in enumerate(indices.tolist()):
            sizes = self._sizes_of(shard)
            width, height = sizes.stored[number].tolist()
            position = MIDDLE if positions is None else (float(positions[row, 0]), float(positions[row, 1]))
            left, top = crop_corner(covering_size((width, height), size), size, position)
            original = sizes.original[number].tolist()
            found.append([original[1], original[0], top, left, size[1], size[0]])
        return np.array(found, dtype=np.float32)

    def cropped_area(self, indices: Indices) -> float:
        """Return the mean fraction of the images' areas that is cropped away; they are read shard by shard."""
        total = 0.0
        for shard in np.unique(indices[:, 0]):
            rows, sizes = indices[indices[:, 0] == shard, 1], self._sizes_of(int(shard))
            total += ImageSizes(sizes.stored[rows], sizes.original[rows]).cropped(self.bucket_sizes)
        return total / max(len(indices), 1)

    def _find(self, shard: int, numbers_of: NumbersOf | None) -> np.ndarray:
        if numbers_of is None:
            return self._read_sizes(shard).buckets(self.bucket_sizes).astype(np.uint8)
        return numbers_of(self.names[shard], self.listed_keys(shard)).astype(np.uint8)

    def _read_sizes(self, shard: int) -> ImageSizes:
        return read_image_sizes(self._shards, self.names[shard], self.listed_keys(shard))


def _covering(size: Size, image: Image.Image) -> RgbImage:
    return covering(image, size)


def _middle(size: Size, image: Image.Image) -> RgbImage:
    return cropped(covering(image, size), size).copy()  # a view would hold the whole
