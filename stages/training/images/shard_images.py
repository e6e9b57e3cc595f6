"""Images of shards by key: decoded when they are asked for, the squares last used kept within a memory budget.

What is held does not grow with the shards: an index of 16 bytes an image for the shards last used, and the budget.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from stages.contract.errors import FailureCause, ImageFault, InputFault
from stages.formats.images import RgbImage, decode_image, square
from stages.formats.shards import index_images, read_member, shard_tar
from stages.storage.artifact import Artifact

ImageRows = UInt8[np.ndarray, "rows height width 3"]
Sample = tuple[str, str]  # shard and key
T = TypeVar("T")
PROBED = 32
KEPT_INDICES = 256


class UnreadableImages(InputFault):
    """Some of the images that were read cannot be decoded; the message is the first one's."""

    def __init__(self, message: str, causes: Mapping[str, FailureCause]) -> None:
        super().__init__(message, causes)
        self.causes = causes

    def __str__(self) -> str:
        return str(self.args[0])


class ShardImages:
    """Images by (shard, key), as squares of one resolution, as a function makes them, or as they are."""

    def __init__(
        self,
        shards: Artifact,
        *,
        resolution: int,
        cache_bytes: int,
        threads: int = 1,
        kept_indices: int | None = KEPT_INDICES,
    ) -> None:
        """Decode by so many threads; nothing is read yet. ``kept_indices``: of how many shards; None: of all."""
        self._shards = shards
        self._resolution = resolution
        self._room, self._held_bytes = cache_bytes, 0
        self._held: OrderedDict[Sample, RgbImage] = OrderedDict()
        self._index = lru_cache(maxsize=kept_indices)(lambda shard: index_images(shard_tar(shards, shard)))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="corgi-decode")

    @property
    def image_bytes(self) -> int:
        """Memory of a decoded square."""
        return 3 * self._resolution**2

    def keys(self, shard: str) -> list[str]:
        """Return the keys of a shard's images, in the order in which they lie in it."""
        return list(self._index(shard))

    def read(self, samples: Sequence[Sample]) -> ImageRows:
        """Return the squares of the samples, in their order; not to be called by two threads at once."""
        rows = self.read_as(lambda image: square(image, self._resolution), samples, smallest_side=self._resolution)
        return np.stack(rows) if rows else np.empty((0, self._resolution, self._resolution, 3), dtype=np.uint8)

    def read_as(
        self, function: Callable[[Image.Image], RgbImage], samples: Sequence[Sample], *, smallest_side: int | None
    ) -> list[RgbImage]:
        """Return what a function, always the same for a sample, makes of each; what was made last is kept."""
        missing = [sample for sample in dict.fromkeys(samples) if sample not in self._held]
        fresh = dict(zip(missing, self.apply(function, missing, smallest_side=smallest_side), strict=True))
        rows = [fresh[sample] if sample in fresh else self._held[sample] for sample in samples]
        self._held |= fresh
        self._held_bytes += sum(row.nbytes for row in fresh.values())
        for sample in samples:
            self._held.move_to_end(sample)
        while self._held_bytes > self._room and len(self._held) > 1:
            self._held_bytes -= self._held.popitem(last=False)[1].nbytes
        return rows

    def apply(
        self, function: Callable[[Image.Image], T], samples: Sequence[Sample], *, smallest_side: int | None = None
    ) -> list[T]:
        """Return the value for each image; ``smallest_side``: JPEG may be decoded at a fraction of its size."""
        for shard in dict.fromkeys(shard for shard, _ in samples):
            self._index(shard)  # here, so that no two threads read the same one

        def one(sample: Sample) -> T | ImageFault:
            try:
                return function(self._decode(sample, smallest_side))
            except ImageFault as fault:
                return fault

        values = list(self._pool.map(one, samples))
        pairs = zip(samples, values, strict=True)
        faults = [(sample, value) for sample, value in pairs if isinstance(value, ImageFault)]
        if faults:
            raise UnreadableImages(str(faults[0][1]), {sample_name(sample): fault.cause for sample, fault in faults})
        return [value for value in values if not isinstance(value, ImageFault)]

    def require_resolution(self, shard: str, where: str) -> None:
        """Check that the first images of a shard are as large as they are to be trained on."""
        sides = sorted(side for key in self.keys(shard)[:PROBED] if (side := self._side((shard, key))) is not None)
        if sides and sides[len(sides) // 2] < self._resolution:
            raise InputFault(
                f"{where}: found {self._resolution}, but the images of shard {shard} have {sides[len(sides) // 2]} "
                "pixels on their shorter side (median of the first ones): allowed is at most that: lower it, or "
                "download larger images (download_shards.image_size)"
            )

    def _side(self, sample: Sample) -> int | None:
        try:
            return min(self._decode(sample, None).size)
        except ImageFault:  # reported, or counted, when training meets it
            return None

    def _decode(self, sample: Sample, smallest_side: int | None) -> Image.Image:
        shard, key = sample
        found = self._index(shard).get(key)
        if found is None:
            raise InputFault(
                f"shard {shard}: found no image of key {key!r} in its tar: expected every image that was embedded; "
                "run download_shards and embed_clip anew"
            )
        encoded = read_member(shard_tar(self._shards, shard), *found)
        return decode_image(encoded, where=f"shard {shard}, key {key!r}", smallest_side=smallest_side)


def sample_name(sample: Sample) -> str:
    """Return the name of a sample in records."""
    return "/".join(sample)
