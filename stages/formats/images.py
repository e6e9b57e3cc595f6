"""From the bytes of any image to RGB pixels of a size: one place, so that every stage sees the same image.

Upright, on white, 8 bits, in sRGB, whatever the file holds (see :mod:`stages.formats.image_decoding`); then the middle
square cut out and scaled, or the image scaled to cover a bucket (models.decoders.buckets) and cropped to it.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from models.decoders.buckets import Size
from stages.contract.errors import FailureCause, ImageFault, ItemFault
from stages.formats.image_decoding.decoding import Shrink, decode

MAX_PIXELS = 170_000_000  # of an image that is decoded in this process; download_shards.max_pixels is at most that

RgbImage = UInt8[np.ndarray, "height width 3"]
MIDDLE = (0.5, 0.5)


def decode_image(encoded: bytes, *, where: str, smallest_side: int | None = None) -> Image.Image:
    """Decode an image to upright RGB; ``where`` says in messages which image it is.

    A ``smallest_side`` lets JPEG be decoded at a fraction of its size, but never below that side.

    Raises:
        ImageFault: the bytes are no whole image, or it is too large to be decoded safely.
    """
    shrink = None if smallest_side is None else Shrink(smallest_side)
    try:
        return decode(encoded, max_pixels=MAX_PIXELS, shrink=shrink).image
    except ItemFault as fault:
        raise ImageFault(fault.cause, f"{where}: {_explain(fault)}") from None


def _explain(fault: ItemFault) -> str:
    """Return what is wrong with an image and what to do, as a message says it after the image's name."""
    if fault.cause is FailureCause.IMAGE_TOO_LARGE:
        found = str(fault).rpartition(": ")[2]
        return (
            f"the image is too large ({found}): allowed are {MAX_PIXELS} pixels: shrink it, or let download_shards do "
            "so (image_size)"
        )
    return (
        f"the image cannot be decoded ({fault}): expected a whole JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF: remove it, "
        "convert it, or download it again"
    )


def square(image: Image.Image, resolution: int) -> RgbImage:
    """Crop the middle square and scale it to the resolution, up where it is smaller."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    if side == resolution:
        return np.asarray(middle)
    return np.asarray(middle.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=2.0))


def covering_size(image: Size, bucket: Size) -> Size:
    """Return the least size of an image's aspect ratio that covers the bucket, to whole pixels."""
    scale = max(bucket[0] / image[0], bucket[1] / image[1])
    return max(bucket[0], round(scale * image[0])), max(bucket[1], round(scale * image[1]))


def covering(image: Image.Image, bucket: Size) -> RgbImage:
    """Scale an image until it covers the bucket, whose width or height it then has."""
    size = covering_size(image.size, bucket)
    if size == image.size:
        return np.asarray(image)
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def crop_corner(size: Size, bucket: Size, position: tuple[float, float] = MIDDLE) -> tuple[int, int]:
    """Return left and top of the bucket in what covers it; ``position`` is from one end, 0, to the other, 1."""
    left, top = (int(at * (whole - part + 1)) for at, whole, part in zip(position, size, bucket, strict=True))
    return left, top


def cropped(image: RgbImage, bucket: Size, position: tuple[float, float] = MIDDLE) -> RgbImage:
    """Cut the bucket out of an image that covers it."""
    left, top = crop_corner((image.shape[1], image.shape[0]), bucket, position)
    return image[top : top + bucket[1], left : left + bucket[0]]
