"""Decode bytes within limits: the format by content, the header checked before its decoder sees anything."""

import contextlib
import dataclasses
import io
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import parsing
from stages.formats.image_decoding.avif import read_avif
from stages.formats.image_decoding.bmp import read_bmp
from stages.formats.image_decoding.colour import is_srgb
from stages.formats.image_decoding.gif import read_gif
from stages.formats.image_decoding.header import (
    Header,
    corrupt,
    orientation_in,
    over_limit,
    too_large,
    truncated,
    unsupported,
)
from stages.formats.image_decoding.jpeg import JpegHeader, read_jpeg
from stages.formats.image_decoding.pixels import to_rgb, upright
from stages.formats.image_decoding.png import ends_early, read_png
from stages.formats.image_decoding.recognition import DECODED, recognise
from stages.formats.image_decoding.tiff import TiffHeader, read_tiff
from stages.formats.image_decoding.tiff_samples import read_by_opencv
from stages.formats.image_decoding.webp import read_webp

PLAIN_FORMATS = ("JPEG", "PNG", "WebP")
_READERS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": read_jpeg,
    "PNG": read_png,
    "WebP": read_webp,
    "GIF": read_gif,
    "BMP": read_bmp,
    "TIFF": read_tiff,
    "AVIF": read_avif,
}
_DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "AVIF": AvifImageFile,
}


@dataclass(frozen=True)
class Shrink:
    """Lets a JPEG be decoded at a half, a quarter or an eighth of its size, while a side keeps so many pixels."""

    pixels: int
    is_longer_side: bool = False

    def least_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the smallest size that is allowed for an image of this size."""
        side = max(width, height) if self.is_longer_side else min(width, height)
        return max(1, width * self.pixels // side), max(1, height * self.pixels // side)


@dataclass(frozen=True)
class Decoded:
    """An image as RGB of 8 bits in sRGB, upright, and what it was."""

    image: Image.Image
    form: str
    """The name of the format."""
    width: int
    """Of the upright original."""
    height: int
    is_plain: bool
    """Whether every reader sees the same in the original bytes: one image of 8 bits, upright, opaque, in sRGB."""


@dataclass(frozen=True)
class Checked:
    """An image that may be decoded, by what its header says."""

    form: str
    header: Header

    @property
    def is_plain_jpeg(self) -> bool:
        """Whether it is a JPEG of three colours, upright and in sRGB, that ends as a whole one does.

        OpenCV decodes such a one to the same pixels as we do, by the same library.
        """
        header = self.header
        if not isinstance(header, JpegHeader) or header.components != 3 or header.orientation != 1:
            return False
        return header.is_ended and (header.profile is None or is_srgb(header.profile, "RGB"))

    def decode(self, shrink: Shrink | None = None) -> Decoded:
        """Decode the image, or raise ItemFault."""
        with _parsing(self.form):
            try:
                return _decode(self.form, self.header, shrink)
            except MemoryError:
                raise over_limit("more memory than there is") from None


def check(content: bytes, *, max_pixels: int) -> Checked:
    """Recognise an image and check its header.

    Raises:
        ItemFault: it is of no format that is read, is cut off, or exceeds a limit.
    """
    form = recognise(content)
    if form not in DECODED:
        raise unsupported(form) if form else corrupt("" if content else "the file is empty")
    with _parsing(form):
        try:
            header = _READERS[form](content)
        except (struct.error, IndexError):  # a field lies beyond the end
            raise truncated() from None
        if header.width * header.height > max_pixels:
            raise too_large(header.width, header.height)
        if header.is_truncated or (form == "PNG" and ends_early(header.content)):
            raise truncated()
        return Checked(form, header)


@contextlib.contextmanager
def _parsing(form: str) -> Iterator[None]:
    """Raise what a decoder raises as an ItemFault; what ends too early is a cause of its own for JPEG alone."""
    try:
        with parsing(FailureCause.CORRUPT_IMAGE):
            yield
    except ItemFault as fault:
        if fault.cause is FailureCause.TRUNCATED_IMAGE and form != "JPEG":
            raise corrupt("the file ends too early") from None
        raise


def decode(content: bytes, *, max_pixels: int, shrink: Shrink | None = None) -> Decoded:
    """Decode an image.

    Raises:
        ItemFault: the bytes are no whole image of a format that is read, or exceed a limit.
    """
    return check(content, max_pixels=max_pixels).decode(shrink)


class _Stream(io.BytesIO):
    """A file in memory that knows whether more was asked of it than there is."""

    is_exhausted = False

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        found = super().read(size)
        self.is_exhausted |= not found
        return found


def _decode(form: str, header: Header, shrink: Shrink | None) -> Decoded:
    if isinstance(header, TiffHeader):
        return Decoded(_decode_tiff(header), form, *header.upright_size, is_plain=False)
    image = _load(_DECODERS[form], header, shrink)
    if form == "AVIF":
        profile, orientation = image.info.get("icc_profile"), orientation_in(image.info.get("exif"))
        header = dataclasses.replace(header, profile=profile, orientation=orientation)
    is_plain = form in PLAIN_FORMATS and _is_plain(image, header)
    made = upright(to_rgb(image, header), header.orientation)
    return Decoded(made, form, *header.upright_size, is_plain=is_plain)


def _load(decoder: type[ImageFile.ImageFile], header: Header, shrink: Shrink | None = None) -> Image.Image:
    """Return the image with its pixels read."""
    stream = _Stream(header.content)
    try:
        image = decoder(stream)
        if image.size != (header.width, header.height):
            raise corrupt("its size is not the one that it declares")
        if shrink is not None and isinstance(image, JpegImageFile):
            image.draft(None, shrink.least_size(*image.size))
        image.load()
    except (ItemFault, MemoryError):
        raise
    except Exception:
        if stream.is_exhausted:
            raise truncated() from None
        raise
    return image


def _decode_tiff(header: TiffHeader) -> Image.Image:
    """Return the image upright, as both decoders of TIFF turn it by themselves."""
    stream = _Stream(header.content)
    with warnings.catch_warnings():  # of strange tags, one for each
        warnings.simplefilter("ignore")
        if header.is_subsampled:  # which Pillow takes for whole values
            return read_by_opencv(header)
        try:
            image = TiffImageFile(stream)
        except SyntaxError:  # it has no mode for the samples
            return read_by_opencv(header)
        if image.size != header.upright_size:
            raise corrupt("its size is not the one that it declares")
        try:
            image.load()
        except OSError:
            if stream.is_exhausted:
                raise truncated() from None
            raise
    return to_rgb(image, header)


def _is_plain(image: Image.Image, header: Header) -> bool:
    """Return whether the original bytes show the same to every reader."""
    if not header.is_single or header.orientation != 1 or header.depth != 8 or image.has_transparency_data:
        return False
    if image.mode not in ("L", "RGB", "P"):
        return False
    return header.profile is None or is_srgb(header.profile, "L" if image.mode == "L" else "RGB")
