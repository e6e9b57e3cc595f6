"""Decode the TIFFs that Pillow has no mode for, or reads wrongly, with OpenCV: mostly colours of many bits."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.formats.image_decoding.colour import to_srgb
from stages.formats.image_decoding.header import corrupt, unsupported
from stages.formats.image_decoding.samples import to_bytes, white_of
from stages.formats.image_decoding.tiff import WHITE_IS_ZERO, TiffHeader

_PREMULTIPLIED, _TRANSPARENCY = 1, 2


def read_by_opencv(header: TiffHeader) -> Image.Image:
    """Return the image as upright RGB of 8 bits, on white; OpenCV turns it by itself."""
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    values = cv2.imdecode(np.frombuffer(header.content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise unsupported(f"TIFF whose samples of {header.depth} bits are in an order that no decoder knows")
    if values.shape[:2] != header.upright_size[::-1]:
        raise corrupt("its size is not the one that it declares")
    return _on_white(values.reshape(*values.shape[:2], -1), header)


def _on_white(values: NDArray[np.generic], header: TiffHeader) -> Image.Image:
    """Return values in OpenCV's order of channels (blue first) as an image."""
    count = 3 if values.shape[2] >= 3 else 1
    white = white_of(values[..., :count], 8 * values.dtype.itemsize)
    inverted = header.photometric == WHITE_IS_ZERO and header.depth > 8
    colours = to_bytes(values[..., :count][..., ::-1], white, is_inverted=inverted)
    image = to_srgb(Image.fromarray(colours.squeeze(2) if count == 1 else colours), header.profile)
    if not header.extra or header.extra[0] not in (_PREMULTIPLIED, _TRANSPARENCY):
        return image
    if values.shape[2] == count:
        raise unsupported(f"TIFF of greys of {header.depth} bits with transparency")
    alpha = to_bytes(values[..., count], white)
    if header.extra[0] == _PREMULTIPLIED:
        return Image.fromarray((np.asarray(image).astype(int) + (255 - alpha)[..., None]).clip(0, 255).astype(np.uint8))
    laid = Image.new("RGB", image.size, "white")
    laid.paste(image, mask=Image.fromarray(alpha))
    return laid
