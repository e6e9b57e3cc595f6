"""The one image dataset: images of shards by (shard, row), with their embeddings if they have any."""

import threading
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from cluster.rank_link import getting_on
from stages.contract.errors import FailureCause, InputFault
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import load_image_rows, load_keys, open_image_rows, shard_rows
from stages.formats.filtered import kept_rows
from stages.formats.images import RgbImage
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Artifact
from stages.training.images.shard_images import (
    KEPT_INDICES,
    ImageRows,
    Sample,
    ShardImages,
    UnreadableImages,
    sample_name,
)

EmbeddingRows = Float[np.ndarray, "rows embed"]
Indices = Int[np.ndarray, "rows 2"]  # (shard, row)
T = TypeVar("T")
CHUNK = 64


class ImageDataset:
    """Images by (shard, row); a row is an image's number among those of its shard that :meth:`shard_keys` lists."""

    def __init__(
        self,
        shards: Artifact,
        sizes: Mapping[str, int],
        *,
        resolution: int,
        cache_bytes: int,
        threads: int = 1,
        kept_indices: int | None = KEPT_INDICES,
    ) -> None:
        """Take the number of images of each shard; nothing is decoded yet."""
        self.names, self.sizes = list(sizes), list(sizes.values())
        self.images = ShardImages(
            shards, resolution=resolution, cache_bytes=cache_bytes, threads=threads, kept_indices=kept_indices
        )
        self._cache_bytes = cache_bytes
        self._lock = threading.RLock()  # validation and the loader's thread read side by side

    def shard_keys(self, shard: int) -> list[str]:
        """Return the keys of a shard's images: all of its tar."""
        keys = self.images.keys(self.names[shard])
        if len(keys) != self.sizes[shard]:
            raise InputFault(
                f"shard {self.names[shard]}: found {len(keys)} images in its tar: expected {self.sizes[shard]}, as its "
                "record says: run download_shards anew"
            )
        return keys

    def listed_keys(self, shard: int) -> list[str]:
        """Return the same keys, where those of all shards are asked for one after another."""
        return self.shard_keys(shard)

    @property
    def sample_bytes(self) -> int:
        """Memory of a sample."""
        return self.images.image_bytes

    @property
    def window_size(self) -> int:
        """Samples that fit into half the budget, so that the next window can be read beside the present one."""
        return max(1, int(self._cache_bytes // 2 // self.sample_bytes))

    def keys(self, indices: Indices) -> list[str]:
        """Return the keys of the images."""
        return [key for _, key in self.samples(indices)]

    def sample_names(self, indices: Indices) -> list[str]:
        """Return the names of the images in records."""
        return [sample_name(sample) for sample in self.samples(indices)]

    def squares(self, indices: Indices) -> ImageRows:
        """Return the images as squares, in their order."""
        with self._lock:
            return self.images.read(self.samples(indices))

    def read_as(self, function: Callable[[Image.Image], RgbImage], indices: Indices) -> ImageRows:
        """Return what a function, always the same one, makes of each whole image; what was made last is kept."""
        with self._lock:
            return np.stack(self.images.read_as(function, self.samples(indices), smallest_side=None))

    def apply(self, function: Callable[[Image.Image], T], indices: Indices) -> list[T]:
        """Return the function's value for each whole image; nothing is kept."""
        with self._lock:
            return self.images.apply(function, self.samples(indices))

    def unreadable(self, indices: Indices) -> dict[str, FailureCause]:
        """Decode the images and return the causes of those that cannot be, by name."""
        causes: dict[str, FailureCause] = {}
        for start in range(0, len(indices), CHUNK):
            try:
                self.apply(lambda image: None, indices[start : start + CHUNK])
            except UnreadableImages as error:
                causes |= error.causes
        return causes

    def samples(self, indices: Indices) -> list[Sample]:
        """Return shard and key of each image."""
        with self._lock:
            return [(self.names[shard], self.shard_keys(shard)[row]) for shard, row in indices.tolist()]


def downloaded_images(shards: Artifact) -> dict[str, int]:
    """Return how many images each downloaded shard has, without those that have none."""
    records = sorted(ShardRecord.done(shards).items())
    return {name: record.images for name, record in records if record.images}


class EmbeddedImages(ImageDataset):
    """The images that have an embedding, in the order of the embeddings' rows; joined by key."""

    def __init__(
        self, shards: Artifact, embeddings: Artifact, *, resolution: int, cache_bytes: int, threads: int = 1
    ) -> None:
        """Read the sizes of the shards; nothing is decoded yet."""
        super().__init__(
            shards, shard_rows(embeddings), resolution=resolution, cache_bytes=cache_bytes, threads=threads
        )
        self._embeddings = embeddings
        self._keys = lru_cache(maxsize=KEPT_INDICES)(lambda shard: load_keys(embeddings, self.names[shard]))
        self._rows = lru_cache(maxsize=KEPT_INDICES)(self._open_rows)
        self.embed_dim = read_clips(embeddings).embed_dim

    def shard_keys(self, shard: int) -> list[str]:
        """Return the keys of a shard's embedded images."""
        return self._keys(shard)

    def listed_keys(self, shard: int) -> list[str]:
        """Return the same keys, without keeping them."""
        return load_keys(self._embeddings, self.names[shard])

    @property
    def sample_bytes(self) -> int:
        """Memory of an image and its embedding."""
        return self.images.image_bytes + 4 * self.embed_dim

    def rows(self, indices: Indices) -> tuple[ImageRows, EmbeddingRows]:
        """Return the images and embeddings, in their order."""
        return self.squares(indices), self.embeddings(indices)

    def embeddings(self, indices: Indices) -> EmbeddingRows:
        """Return the embeddings alone."""
        embeddings = np.empty((len(indices), self.embed_dim), dtype=np.float32)
        with self._lock:
            for shard in np.unique(indices[:, 0]):
                here = np.flatnonzero(indices[:, 0] == shard)
                rows, kept = self._rows(int(shard))
                embeddings[here] = rows[indices[here, 1] if kept is None else kept[indices[here, 1]]]
        return embeddings

    def statistics(self) -> tuple[Float[np.ndarray, "embed"], Float[np.ndarray, "embed"]]:
        """Return mean and standard deviation of all embeddings, by dimension, in one pass over the files."""
        count, total, squares = 0, np.zeros(self.embed_dim), np.zeros(self.embed_dim)
        for name in getting_on(self.names):
            rows = load_image_rows(self._embeddings, name).astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))

    def _open_rows(self, shard: int) -> tuple[EmbeddingRows, Int[np.ndarray, " rows"] | None]:
        name = self.names[shard]
        return open_image_rows(self._embeddings, name), kept_rows(self._embeddings, name)
