"""Images of shards by key: decoded when they are asked for, the last used ones kept within a memory budget.

What is held does not grow with the shards: an index of 16 bytes an image for the shards last used, and the budget.
"""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stages.contract.errors import InputFault
from stages.formats.images import decode_image, square
from stages.formats.shards import index_images, read_member, shard_tar
from stages.storage.artifact import Artifact

ImageRows = UInt8[np.ndarray, "rows height width 3"]
PROBED = 32
KEPT_INDICES = 256


class ShardImages:
    """Square images of one resolution by (shard, key)."""

    def __init__(self, shards: Artifact, *, resolution: int, cache_bytes: int, threads: int = 1) -> None:
        """Decode by so many threads; nothing is read yet."""
        self._shards = shards
        self._resolution = resolution
        self._room = max(1, cache_bytes // self.image_bytes)
        self._held: OrderedDict[tuple[str, str], ImageRows] = OrderedDict()
        self._index = lru_cache(maxsize=KEPT_INDICES)(self._read_index)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="corgi-decode")

    @property
    def image_bytes(self) -> int:
        """Memory of a decoded image."""
        return 3 * self._resolution**2

    def keys(self, shard: str) -> list[str]:
        """Return the keys of a shard's images, in the order in which they lie in it."""
        return list(self._index(shard))

    def read(self, samples: Sequence[tuple[str, str]]) -> ImageRows:
        """Return the images at the given (shard, key), in their order; not to be called by two threads at once.

        Raises:
            InputFault: an image is not there, or cannot be decoded.
        """
        missing = [sample for sample in dict.fromkeys(samples) if sample not in self._held]
        for shard in dict.fromkeys(shard for shard, _ in missing):
            self._index(shard)  # here, so that no two threads read the same one
        fresh = dict(zip(missing, self._pool.map(self._decode, missing), strict=True))
        rows = [fresh[sample] if sample in fresh else self._held[sample] for sample in samples]
        for sample, image in fresh.items():
            self._held[sample] = image
        for sample in samples:
            self._held.move_to_end(sample)
        while len(self._held) > self._room:
            self._held.popitem(last=False)
        return np.stack(rows) if rows else np.empty((0, self._resolution, self._resolution, 3), dtype=np.uint8)

    def require_resolution(self, shard: str, where: str) -> None:
        """Look at the first images of a shard: are they as large as they are to be trained on?

        Raises:
            InputFault: half of them or more are smaller.
        """
        keys = self.keys(shard)[:PROBED]
        sides = sorted(min(self._image(shard, key).size) for key in keys)
        if sides and sides[len(sides) // 2] < self._resolution:
            raise InputFault(
                f"{where}: found {self._resolution}, but the images of shard {shard} have {sides[len(sides) // 2]} "
                "pixels on their shorter side (median of the first ones): allowed is at most that: lower it, or "
                "download larger images (download_shards.image_size)"
            )

    def _read_index(self, shard: str) -> dict[str, tuple[int, int]]:
        return index_images(shard_tar(self._shards, shard))

    def _decode(self, sample: tuple[str, str]) -> ImageRows:
        return square(self._image(*sample, smallest_side=self._resolution), self._resolution)

    def _image(self, shard: str, key: str, smallest_side: int | None = None) -> Image.Image:
        found = self._index(shard).get(key)
        if found is None:
            raise InputFault(
                f"shard {shard}: found no image of key {key!r} in its tar: expected every image that was embedded; "
                "run download_shards and embed_clip anew"
            )
        encoded = read_member(shard_tar(self._shards, shard), *found)
        return decode_image(encoded, where=f"shard {shard}, key {key!r}", smallest_side=smallest_side)
