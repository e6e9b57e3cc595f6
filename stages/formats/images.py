"""From the bytes of any image to square RGB pixels: one place, so that every stage sees the same image.

Turned as its EXIF data says, transparency laid on white, greys of 16 bits scaled, CMYK converted, the middle square cut
out and scaled.
"""

import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from stages.contract.errors import FailureCause, ImageFault

SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_NOT_DECODED = (OSError, SyntaxError, ValueError, UnidentifiedImageError)  # PIL's own decoders raise all of them

RgbImage = UInt8[np.ndarray, "height width 3"]


def decode_image(encoded: bytes, *, where: str, smallest_side: int | None = None) -> Image.Image:
    """Decode an image to upright RGB; ``where`` says in messages which image it is.

    A ``smallest_side`` lets JPEG be decoded at a fraction of its size, but never below that side.

    Raises:
        ImageFault: the bytes are no whole image, or it is too large to be decoded safely.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if smallest_side is not None:
                image.draft(None, (smallest_side, smallest_side))
            return _as_rgb(ImageOps.exif_transpose(image), where)
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise ImageFault(
            FailureCause.CORRUPT_IMAGE,
            f"{where}: the image is too large ({error}): allowed are {most} pixels: shrink it, or let download_shards"
            " do so (image_size)",
        ) from error
    except _NOT_DECODED as error:
        raise ImageFault(
            FailureCause.CORRUPT_IMAGE,
            f"{where}: the image cannot be decoded ({error}): expected a whole JPEG, PNG, WebP or other image that "
            "Pillow reads: remove it, or download it again",
        ) from error


def square(image: Image.Image, resolution: int) -> RgbImage:
    """Crop the middle square and scale it to the resolution, up where it is smaller."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    middle = image.crop((left, top, left + side, top + side))
    if side == resolution:
        return np.asarray(middle)
    return np.asarray(middle.resize((resolution, resolution), Image.Resampling.BICUBIC, reducing_gap=2.0))


def _as_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":
        raise ImageFault(
            FailureCause.CORRUPT_IMAGE,
            f"{where}: the image's values are floating-point numbers, whose range is unknown: allowed are integers "
            "of 8 or 16 bits: convert it",
        )
    if image.mode in SIXTEEN_BITS:
        return _of_16_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _of_16_bits(image: Image.Image) -> Image.Image:
    """Scale greys from 0 to 65535 down to bytes; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.float32)
    return Image.fromarray((values / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
