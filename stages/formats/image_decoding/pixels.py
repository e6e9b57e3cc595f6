"""From an opened image to RGB of 8 bits in sRGB, upright, on white."""

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from stages.formats.image_decoding.colour import to_srgb
from stages.formats.image_decoding.header import Header, corrupt
from stages.formats.image_decoding.samples import to_bytes, white_of
from stages.formats.image_decoding.tiff import UNSIGNED, WHITE_IS_ZERO, TiffHeader

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_MANY_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
_WITH_ALPHA = {"LA": "L", "RGBA": "RGB"}
_BEFORE_ALPHA = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn and mirror an image by its orientation."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def to_rgb(image: Image.Image, header: Header) -> Image.Image:
    """Return an image of any mode as RGB, with its transparency on white."""
    if image.mode in _MANY_BITS:
        image = _of_many_bits(image, header)
    elif image.mode == "1":
        image = image.convert("L")
    if "transparency" in image.info:
        image = _with_alpha(image, header)
    image = image.convert(_BEFORE_ALPHA[image.mode]) if image.mode in _BEFORE_ALPHA else image
    if image.mode not in _WITH_ALPHA:
        return to_srgb(_plain(image), header.profile)
    alpha = image.getchannel("A")
    colours = to_srgb(image.convert(_WITH_ALPHA[image.mode]), header.profile)
    laid = Image.new("RGB", image.size, "white")
    laid.paste(colours, mask=alpha)
    return laid


def _plain(image: Image.Image) -> Image.Image:
    """Return an image without transparency in one of the modes that profiles are for."""
    if image.mode in ("L", "RGB", "CMYK"):
        return image
    if image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A"):
        raise corrupt("a palette of another form than the image's")
    return image.convert("RGB")


def _of_many_bits(image: Image.Image, header: Header) -> Image.Image:
    """Scale greys down to bytes; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image)
    is_inverted = False
    if isinstance(header, TiffHeader):
        is_inverted = header.photometric == WHITE_IS_ZERO
        if image.mode == "I" and header.depth == 32 and header.sample_format == UNSIGNED:
            values = values.view(np.uint32)
    depth = header.depth if image.mode != "F" else 32
    made = Image.fromarray(to_bytes(values, white_of(values, depth), is_inverted=is_inverted))
    if "transparency" in image.info:
        made.putalpha(Image.fromarray(np.where(values == image.info["transparency"], 0, 255).astype(np.uint8)))
    return made


def _with_alpha(image: Image.Image, header: Header) -> Image.Image:
    """Return an image with one transparent colour, or a palette with some, in a mode with an alpha channel."""
    transparency = image.info["transparency"]
    if image.mode == "L" and isinstance(transparency, int) and header.depth < 8:
        image.info["transparency"] = transparency * 255 // (2**header.depth - 1)  # as Pillow scales the pixels
    elif image.mode == "RGB" and header.depth == 16 and isinstance(transparency, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparency)
    return image.convert("LA" if image.mode == "L" else "RGBA")
