"""Resize and encode one image for a shard with img2dataset's resizer, within limits."""

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.config import DownloadShardsConfig
from stages.download_shards.img2dataset_import import import_resizer

_END_OF_JPEG = b"\xff\xd9"
_TRAILER = 64  # bytes that may follow the end of a whole JPEG before its data are decoded to see


@dataclass(frozen=True)
class Resized:
    """An image as it is stored in a shard; sizes in pixels."""

    content: bytes
    width: int
    height: int
    original_width: int
    original_height: int
    sha256: str
    """Of the encoded image as it came."""


def make_resizer(config: DownloadShardsConfig) -> Callable[[bytes], Resized]:
    """Return the function from an encoded image to the one in a shard; it raises ItemFault."""
    resizer = import_resizer().Resizer(
        image_size=config.image_size,
        resize_mode=config.resize_mode,
        resize_only_if_bigger=config.resize_only_if_bigger,
        encode_quality=config.quality,
        encode_format=config.encode_format,
        skip_reencode=config.skip_reencode,
    )

    def resize(content: bytes) -> Resized:
        _check_image(content, config.max_pixels)
        image, width, height, original_width, original_height, error = resizer(io.BytesIO(content))
        if error is not None:
            raise ItemFault(FailureCause.CORRUPT_IMAGE, str(error))
        if min(original_width, original_height) < config.min_image_size:
            raise ItemFault(FailureCause.IMAGE_TOO_SMALL)
        digest = hashlib.sha256(content).hexdigest()
        return Resized(image, width, height, original_width, original_height, digest)

    return resize


def _check_image(content: bytes, max_pixels: int) -> None:
    """Refuse what OpenCV must not decode.

    A small file may be an image larger than the memory; OpenCV fills the missing part of a truncated JPEG with grey;
    and of a format that Pillow does not know, the size is not known beforehand.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                if image.width * image.height > max_pixels:
                    raise ItemFault(FailureCause.IMAGE_TOO_LARGE)
                if image.format in ("JPEG", "MPO") and _END_OF_JPEG not in content[-_TRAILER:]:
                    _check_end(content)
    except Image.DecompressionBombError:
        raise ItemFault(FailureCause.IMAGE_TOO_LARGE) from None
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError, MemoryError):  # what Pillow raises on damage
        raise ItemFault(FailureCause.CORRUPT_IMAGE) from None


class _Stream(io.BytesIO):
    """A file in memory that knows whether more was asked of it than there is."""

    is_exhausted = False

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        found = super().read(size)
        self.is_exhausted = not found
        return found


def _check_end(jpeg: bytes) -> None:
    """Refuse a JPEG that cannot be decoded to its end."""
    stream = _Stream(jpeg)
    with Image.open(stream) as image:
        image.draft("RGB", (1, 1))  # the smallest scale: only the end of the data matters
        stream.is_exhausted = False
        try:
            image.load()
        except OSError:
            cause = FailureCause.TRUNCATED_IMAGE if stream.is_exhausted else FailureCause.CORRUPT_IMAGE
            raise ItemFault(cause) from None
