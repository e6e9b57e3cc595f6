"""All images beside their embeddings: rows of embed_clip joined to the shards' images by key."""

import threading
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

from stages.formats.embeddings import clip_identity, kept_rows, load_image_rows, load_keys, open_npy_reader, shard_rows
from stages.storage.artifact import Artifact
from stages.training.images.shard_images import KEPT_INDICES, ImageRows, ShardImages

EmbeddingRows = Float[np.ndarray, "rows embed"]


class DecoderData:
    """Images and embeddings by (shard, row), with the images last used kept decoded within a budget."""

    def __init__(
        self, shards: Artifact, embeddings: Artifact, *, resolution: int, cache_bytes: int, threads: int = 1
    ) -> None:
        """Look at the sizes of the shards; nothing is decoded yet."""
        self.images = ShardImages(shards, resolution=resolution, cache_bytes=cache_bytes, threads=threads)
        self._embeddings = embeddings
        self._cache_bytes = cache_bytes
        self._lock = threading.Lock()  # validation and the loader's thread read side by side
        self._keys = lru_cache(maxsize=KEPT_INDICES)(self._read_keys)
        self._rows = lru_cache(maxsize=KEPT_INDICES)(self._open_rows)
        rows = shard_rows(embeddings)
        self.names, self.sizes = list(rows), list(rows.values())
        self.embed_dim = sum(int(clip["embed_dim"]) for clip in clip_identity(embeddings))

    @property
    def window_size(self) -> int:
        """Images that fit into half the budget, so that the next window can be read beside the present one."""
        return max(1, int(self._cache_bytes // 2 // (self.images.image_bytes + 4 * self.embed_dim)))

    def rows(self, indices: Int[np.ndarray, "rows 2"]) -> tuple[ImageRows, EmbeddingRows]:
        """Return the images and embeddings at the (shard, row) indices, in their order.

        Raises:
            InputFault: an embedded image is not in its shard, or cannot be decoded.
        """
        with self._lock:
            named = [(self.names[shard], self._keys(int(shard))[row]) for shard, row in indices]
            return self.images.read(named), self._embeddings_at(indices)

    def embeddings(self, indices: Int[np.ndarray, "rows 2"]) -> EmbeddingRows:
        """Return the embeddings alone."""
        with self._lock:
            return self._embeddings_at(indices)

    def keys(self, indices: Int[np.ndarray, "rows 2"]) -> list[str]:
        """Return the keys of the images."""
        with self._lock:
            return [self._keys(int(shard))[row] for shard, row in indices]

    def statistics(self) -> tuple[Float[np.ndarray, "embed"], Float[np.ndarray, "embed"]]:
        """Return mean and deviation of all embeddings, by dimension, in one pass over the files.

        Raises:
            InputFault: an embedding holds a number that is not finite.
        """
        count, total, squares = 0, np.zeros(self.embed_dim), np.zeros(self.embed_dim)
        for name in self.names:
            rows = load_image_rows(self._embeddings, name).astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))

    def _embeddings_at(self, indices: Int[np.ndarray, "rows 2"]) -> EmbeddingRows:
        embeddings = np.empty((len(indices), self.embed_dim), dtype=np.float32)
        for shard in np.unique(indices[:, 0]):
            here = np.flatnonzero(indices[:, 0] == shard)
            rows, kept = self._rows(int(shard))
            embeddings[here] = rows[indices[here, 1] if kept is None else kept[indices[here, 1]]]
        return embeddings

    def _read_keys(self, shard: int) -> list[str]:
        return load_keys(self._embeddings, self.names[shard])

    def _open_rows(self, shard: int) -> tuple[EmbeddingRows, Int[np.ndarray, " rows"] | None]:
        name = self.names[shard]
        return open_npy_reader(self._embeddings, name), kept_rows(self._embeddings, name)
