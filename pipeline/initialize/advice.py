"""The values of a first experiment, each with the reason for it."""

from dataclasses import dataclass

from models.decoders.buckets import BucketSettings
from pipeline.initialize.survey import Survey

_FEWEST_PAIRS = 200
"""Captioned images from which a CLIP is trained on them at all."""
_EPOCHS = 60
_MOST_STEPS = 20_000
_CLIP_BATCH = 128
RESOLUTION = 64
"""Side of the decoder's squares in pixels."""
BUCKETS = BucketSettings(step=16)
"""For a network whose sides are multiples of 16 pixels."""
_MOST_CROPPED = 0.15
"""Mean fraction of an image's area that may be cut off to make it a square."""
_WORTH = 0.75
"""Of that, so much may be cut off with buckets; else they are not worth a size more."""


@dataclass(frozen=True)
class Advice:
    """Values, and why: a sentence for each."""

    rows_per_shard: int
    image_size: int
    validation: float
    trains_clip: bool
    vocab_size: int
    flip: float
    num_gaussians: int
    prior_steps: int
    clip_steps: int
    decoder_steps: int
    has_buckets: bool
    why: dict[str, str]


def advise(found: Survey) -> Advice:
    """Return values for images like these, on a machine without a GPU."""
    images, pairs = max(found.entries, 1), found.estimated_captioned
    validation = min(0.2, max(0.01, round(400 / max(pairs or images, 1), 3)))
    trains_clip = pairs >= _FEWEST_PAIRS
    sides = found.with_sides / max(found.captions, 1)
    side = found.small_side
    image_size = next((size for size in (256, 128) if side is None or side >= size), 64)
    square, bucketed = found.cropped([(1, 1)]), found.cropped(BUCKETS.sizes(RESOLUTION))
    has_buckets = square > _MOST_CROPPED and bucketed < _WORTH * square
    flip = 0.0 if sides > 0.01 else 0.5
    why = {
        "rows_per_shard": "small shards, so that few are made again when images are added",
        "image_size": "no size is known before the images are fetched" if side is None
        else f"nine in ten of the images looked at have {side:,} pixels at least on their shorter side",
        "validation": f"about {round(validation * (pairs or images)):,} captioned images to validate on",
        "clip": f"{pairs:,} captioned images are enough to train a small CLIP on" if trains_clip
        else f"{pairs:,} captioned images are too few to train a CLIP on ({_FEWEST_PAIRS} are the least)",
        "flip": f"{sides:.1%} of the captions name left or right: mirrored images would not be as they say" if not flip
        else "no caption looked at names left or right; set 0 where lettering counts",
        "buckets": f"a square loses {square:.0%} of an image's area on average, the nearest of these {bucketed:.0%}",
        "steps": f"{_EPOCHS} visits of each image; 500 to {_MOST_STEPS:,} steps; raise it to go on",
    }  # fmt: skip
    return Advice(
        rows_per_shard=min(1000, max(50, images // 100)),
        image_size=image_size,
        validation=validation,
        trains_clip=trains_clip,
        vocab_size=min(8192, max(512, 2 ** (pairs // 4).bit_length())),
        flip=flip,
        num_gaussians=min(256, max(1, 2 ** max((images // 100).bit_length() - 1, 0))),
        prior_steps=_steps(pairs, 128),
        clip_steps=_steps(pairs, _CLIP_BATCH),
        decoder_steps=_steps(images, 32),
        has_buckets=has_buckets,
        why=why,
    )


def _steps(images: int, batch: int) -> int:
    return min(_MOST_STEPS, max(500, 100 * round(images * _EPOCHS / batch / 100)))
