"""All images beside their embeddings: rows of embed_clip joined to the shards' pictures by key."""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int, UInt8
from PIL import Image

from stages.artifacts import Artifact
from stages.embeddings import clip_identity, load_image_rows, shard_rows
from stages.errors import InputFault
from stages.shards import read_shard

EmbeddingRows = Float[np.ndarray, "rows embed"]
PictureRows = UInt8[np.ndarray, "rows height width 3"]


@dataclass(frozen=True)
class ShardData:
    """One shard, decoded."""

    images: PictureRows
    embeddings: EmbeddingRows

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.images.nbytes + self.embeddings.nbytes


class DecoderData:
    """Pictures and embeddings by (shard, row), with the shards last used kept decoded within a budget."""

    def __init__(self, shards: Artifact, embeddings: Artifact, *, resolution: int, cache_bytes: int) -> None:
        """Look at the sizes of the shards; nothing is decoded yet."""
        self._shards = shards
        self._embeddings = embeddings
        self._resolution = resolution
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[int, ShardData] = OrderedDict()
        self._lock = threading.Lock()  # validation and the loader's thread read side by side
        rows = shard_rows(embeddings)
        self.names, self.sizes = list(rows), list(rows.values())
        self.embed_dim = sum(int(clip["embed_dim"]) for clip in clip_identity(embeddings))

    @property
    def window_size(self) -> int:
        """Images whose shards fit into half the budget, so that the next window can be read beside the present one."""
        return max(1, int(self._cache_bytes // 2 // (3 * self._resolution**2 + 4 * self.embed_dim)))

    def rows(self, places: Int[np.ndarray, "rows 2"]) -> tuple[PictureRows, EmbeddingRows]:
        """Return the pictures and embeddings at the (shard, row) places, in their order."""
        images = np.empty((len(places), self._resolution, self._resolution, 3), dtype=np.uint8)
        embeddings = np.empty((len(places), self.embed_dim), dtype=np.float32)
        for shard in np.unique(places[:, 0]):
            here = np.flatnonzero(places[:, 0] == shard)
            data, rows = self._shard(int(shard)), places[here, 1]
            images[here], embeddings[here] = data.images[rows], data.embeddings[rows]
        return images, embeddings

    def statistics(self) -> tuple[Float[np.ndarray, "embed"], Float[np.ndarray, "embed"]]:
        """Return mean and deviation of all embeddings, by dimension, in one pass over the files."""
        count, total, squares = 0, np.zeros(self.embed_dim), np.zeros(self.embed_dim)
        for name in self.names:
            rows = load_image_rows(self._embeddings, name).astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        mean = total / count
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))

    def _shard(self, index: int) -> ShardData:
        with self._lock:
            if index not in self._cache:
                self._make_room()
                self._cache[index] = self._read(self.names[index])
            self._cache.move_to_end(index)
            return self._cache[index]

    def _make_room(self) -> None:
        """Drop the shards longest unused, so that one as large as the largest held fits in the budget."""
        held = [data.num_bytes for data in self._cache.values()]
        while held and sum(held) + max(held) > self._cache_bytes:
            _, dropped = self._cache.popitem(last=False)
            held.remove(dropped.num_bytes)

    def _read(self, name: str) -> ShardData:
        keys = pq.read_table(self._embeddings.local(f"metadata/metadata_{name}.parquet"), columns=["key"])
        row_of = {key: row for row, key in enumerate(keys.column("key").to_pylist())}
        images = np.empty((len(row_of), self._resolution, self._resolution, 3), dtype=np.uint8)
        for sample in read_shard(self._shards.local(f"shards/{name}.tar")):
            row = row_of.pop(sample.key, None)
            if row is not None and sample.image is not None:
                images[row] = decode_image(sample.image, self._resolution)
        _check_all_found(row_of, name)
        return ShardData(images, load_image_rows(self._embeddings, name))


def decode_image(encoded: bytes, resolution: int) -> UInt8[np.ndarray, "height width 3"]:
    """Decode a picture, crop its middle square and scale it to the resolution."""
    with Image.open(io.BytesIO(encoded)) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    if side == resolution:
        return np.asarray(square)
    return np.asarray(square.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=2.0))


def _check_all_found(missing: Iterable[str], name: str) -> None:
    keys = list(missing)
    if keys:
        raise InputFault(
            f"train_decoder: shard {name} has embeddings of {len(keys)} images that its tar does not hold "
            f"(the first key is {keys[0]!r}): expected every embedded image; run download_shards and embed_clip anew"
        )
