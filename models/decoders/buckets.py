"""Aspect-ratio buckets: the sizes of about equal area that a decoder's images may have; neither torch nor numpy.

Reference: Podell et al., SDXL (arXiv 2307.01952), section 2.3 and appendix I, after NovelAI's improvements on Stable
Diffusion: a batch holds images of one bucket, and every bucket has about the area of a square image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from models.fields import Settings, require, require_positive

Size = tuple[int, int]  # width and height in pixels
MOST_BUCKETS = 255
_LEAST_STEPS = 4


@dataclass(frozen=True, kw_only=True)
class BucketSettings(Settings):
    """Which sizes there are beside the square."""

    step: int
    """Both sides are multiples of so many pixels, at most a quarter of the resolution: areas differ from the square's
    by step / (2 resolution) at most."""
    max_aspect_ratio: float = 2.0
    """Largest ratio of the longer to the shorter side; images beyond are cropped to it."""

    def __post_init__(self) -> None:
        require_positive(self, "step")
        ratio = self.max_aspect_ratio
        require(self, "max_aspect_ratio", 1.0 < ratio <= 16.0, "above 1 up to 16")

    def of_loss(self) -> dict[str, Any]:
        """Return all: images of other sizes are other images."""
        return self.to_dict()

    def sizes(self, resolution: int) -> tuple[Size, ...]:
        """Return the buckets from the narrowest to the widest, the square among them.

        With r the resolution and s a shorter side, the longer one is the multiple of the step that is nearest to r²/s.
        By |longer - r²/s| <= step / 2 and s <= r, the area is within step r / 2 of r².
        """
        wide = []
        for short in range(resolution, 0, -self.step):
            long = self.step * math.floor(resolution**2 / short / self.step + 0.5)
            if long > short and long <= self.max_aspect_ratio * short:
                wide.append((long, short))
        tall = [(short, long) for long, short in reversed(wide)]
        return (*tall, (resolution, resolution), *wide)

    def require_fit(self, resolution: int, cell: int = 1) -> None:
        """Refuse a step that does not give several buckets whose sides are multiples of a network's cell.

        Raises:
            ValueError: it does not.
        """
        least = _LEAST_STEPS * self.step
        fits = self.step % cell == 0 and resolution % self.step == 0 and resolution >= least
        allowed = f"a multiple of {cell} (the network's), which divides the resolution, {resolution}, 4 times or more"
        require(self, "step", fits, allowed)
        found = len(self.sizes(resolution))
        require(self, "max_aspect_ratio", found > 1, f"one that gives another size than {resolution} x {resolution}")
        require(self, "step", found <= MOST_BUCKETS, f"one that gives at most {MOST_BUCKETS} sizes")


@dataclass(frozen=True, kw_only=True)
class DecoderBuckets(BucketSettings):
    """The buckets of a decoder."""

    size_conditioning: bool = False
    """Whether the network knows an image's original size, where it was cropped, and the bucket (SDXL, section 2.2)."""

    def shared(self) -> BucketSettings:
        """Return what encoded images depend on."""
        return BucketSettings(**{item.name: getattr(self, item.name) for item in fields(BucketSettings)})


def size_name(size: Size) -> str:
    """Return a size as people write it: width x height."""
    return f"{size[0]}x{size[1]}"


def parse_size(name: str) -> Size:
    """Return the size that :func:`size_name` gives such a name; ValueError: it is none."""
    width, cross, height = name.partition("x")
    sides = [int(side) if side.isascii() and side.isdecimal() and len(side) < 6 else 0 for side in (width, height)]
    if not cross or min(sides) < 1:
        raise ValueError(f"size: found {name[:40]!r}: expected width and height in pixels, such as 96x64")
    return sides[0], sides[1]


def chosen_size(name: str | None, sizes: Sequence[Size]) -> Size:
    """Return the size of a name, which has to be among those; without a name, the square, which always is.

    Raises:
        ValueError: it is not.
    """
    if name is None:
        return next((width, height) for width, height in sizes if width == height)
    size = parse_size(name)
    if size not in sizes:
        raise ValueError(
            f"size: found {size_name(size)}: allowed are those that the decoder was trained on: "
            f"{', '.join(map(size_name, sizes))}"
        )
    return size
