"""From the bytes of any image to one in a shard: our decoder, then img2dataset's resizer and encoder.

Both run in a child process with limits (``isolate_decoding``), so that the worst image costs itself alone; the child
imports them, and this process neither. The resizer gets the decoded image as a BMP, which costs it a copy; or a plain
JPEG as it is, without what applications keep in it.
"""

import functools
import hashlib
import io
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.errors import ItemLimit
from cluster.isolated_child import Handler, Limits
from cluster.isolation import Isolated, Reply
from stages.contract.errors import FailureCause, ItemFault
from stages.contract.parsing import parsing, shown

if TYPE_CHECKING:  # the child needs neither
    from PIL import Image

    from stages.download_shards.config import DownloadShardsConfig

ResizeEach = Callable[[Iterable[bytes]], Iterator["Resized | ItemFault"]]
"""From encoded images to those in a shard, or why there is none, in the same order; images are read a few ahead."""

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WebP"}
_LONGEST_SIDES = {"jpg": 65_500, "png": 1_000_000, "webp": 16_383}  # in pixels, of what OpenCV writes
_BY_LONGER_SIDE = ("border", "keep_ratio_largest")
_ENOUGH = 4  # a large JPEG is decoded at a fraction of its size, but at so many times the size that it will have
_WAITING = 6  # times the limit of a processor's time that may pass by the clock, on a busy machine
_BMP = struct.Struct("<2sIHHIIiiHHIIiiII")


@dataclass(frozen=True)
class Resized:
    """An image as it is stored in a shard; sizes in pixels."""

    content: bytes
    width: int
    height: int
    original_width: int
    """Of the upright original."""
    original_height: int
    sha256: str
    """Of the encoded image as it came."""


@dataclass(frozen=True)
class ResizeSettings:
    """What the child is given of the stage's config."""

    image_size: int
    resize_mode: str
    resize_only_if_bigger: bool
    encode_format: str
    quality: int
    skip_reencode: bool
    min_image_size: int
    max_pixels: int

    @classmethod
    def of(cls, config: "DownloadShardsConfig") -> "ResizeSettings":
        """Return those of a config."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    def needs_resizing(self, width: int, height: int) -> bool:
        """Return whether img2dataset's resizer would change the size of such an image."""
        if self.resize_mode == "no":
            return False
        side = max(width, height) if self.resize_mode in _BY_LONGER_SIDE else min(width, height)
        return not self.resize_only_if_bigger or side > self.image_size

    def resized_size(self, width: int, height: int) -> tuple[int, int]:
        """Return the size to which an image of this one is scaled, before it is cropped or has borders added."""
        if not self.needs_resizing(width, height):
            return width, height
        side = max(width, height) if self.resize_mode in _BY_LONGER_SIDE else min(width, height)
        return max(1, width * self.image_size // side), max(1, height * self.image_size // side)


def make_resizer(config: "DownloadShardsConfig", *, start: bool = False) -> ResizeEach:
    """Return the function that resizes images one after another.

    With ``start``, what it needs is imported now, as the first image would wait for it.
    """
    settings = ResizeSettings.of(config)
    if not config.isolate_decoding:
        return functools.partial(map, functools.partial(_resize_or_fault, ImageResizer(settings)))
    limits = Limits(config.memory_of_decoder, config.decoder_seconds, _WAITING * config.decoder_seconds)
    isolated = Isolated(make_handler, limits, asdict(settings))
    if start:
        isolated.start()

    def resize_each(contents: Iterable[bytes]) -> Iterator[Resized | ItemFault]:
        sent, sending = itertools.tee(contents)  # an image that is kept as it is does not come back
        for content, outcome in zip(sent, isolated.map(sending), strict=True):
            yield _parse_outcome(content, outcome)

    return resize_each


def _resize_or_fault(resize: Callable[[bytes], Resized], content: bytes) -> Resized | ItemFault:
    try:
        return resize(content)
    except ItemFault as fault:
        return fault


def _parse_outcome(content: bytes, outcome: Reply | ItemLimit) -> Resized | ItemFault:
    """Return what a child has made of an image, or why it has not."""
    if isinstance(outcome, ItemLimit):
        cause = FailureCause.DECODER_LIMIT
        return ItemFault(cause, f"{cause.messages[0]}: the image {outcome}")
    head, image = outcome
    try:
        with parsing(FailureCause.DECODER_LIMIT):  # a child that the image has taken over may reply anything
            if "cause" in head:
                return ItemFault(FailureCause(head["cause"]), shown(head["message"]))
            sizes = {name: int(head[name]) for name in ("width", "height", "original_width", "original_height")}
            return Resized(image or content, **sizes, sha256=shown(head["sha256"]))
    except ItemFault as fault:
        return fault


def make_handler(**settings: Any) -> Handler:
    """Return what the child process does with each image; an image whose bytes stay as they are is not sent back."""
    resizer = ImageResizer(ResizeSettings(**settings))

    def handle(content: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            made = resizer(content)
        except ItemFault as fault:
            return {"cause": fault.cause.value, "message": str(fault)}, b""
        head = asdict(made)
        image = head.pop("content")
        return head, b"" if image is content else image

    return handle


class ImageResizer:
    """Decodes, resizes and encodes in this process; it raises ItemFault."""

    def __init__(self, settings: ResizeSettings) -> None:
        from stages.download_shards.img2dataset_import import import_resizer
        from stages.formats.image_decoding.decoding import Shrink, check

        self._settings, self._check = settings, check
        self._resize = import_resizer().Resizer(
            image_size=settings.image_size,
            resize_mode=settings.resize_mode,
            resize_only_if_bigger=settings.resize_only_if_bigger,
            encode_quality=settings.quality,
            encode_format=settings.encode_format,
        )
        self._shrink = None
        if settings.resize_mode != "no":
            self._shrink = Shrink(_ENOUGH * settings.image_size, settings.resize_mode in _BY_LONGER_SIDE)

    def __call__(self, content: bytes) -> Resized:
        """Return the image as a shard holds it; its bytes as they came where nothing is to be changed."""
        settings, found = self._settings, self._check(content, max_pixels=self._settings.max_pixels)
        width, height = original = found.header.upright_size  # of an AVIF before it is turned, which its decoder knows
        if min(original) < settings.min_image_size:
            raise ItemFault(FailureCause.IMAGE_TOO_SMALL)
        digest = hashlib.sha256(content).hexdigest()
        needs_resizing = settings.needs_resizing(width, height)
        if found.is_plain_jpeg and needs_resizing and not self._may_shrink(width, height):
            source = found.header.content  # the resizer decodes it to the same pixels, and saves a copy
        else:
            decoded = found.decode(self._shrink)
            original = decoded.width, decoded.height
            is_kept = settings.skip_reencode and decoded.is_plain and found.form == _FORMATS[settings.encode_format]
            if is_kept and not needs_resizing:
                return Resized(content, *original, *original, digest)
            source = _as_bmp(decoded.image)
        image, width, height, _, _, error = self._resize(io.BytesIO(source))
        if error is not None:
            raise self._fault_of(error, *original)
        return Resized(image, width, height, *original, digest)

    def _fault_of(self, error: str, width: int, height: int) -> ItemFault:
        """Return why an image of such a size could not be resized: a narrow one may become one of too many pixels."""
        settings = self._settings
        made = settings.resized_size(width, height)
        if max(made) > _LONGEST_SIDES[settings.encode_format] or made[0] * made[1] > settings.max_pixels:
            cause = FailureCause.IMAGE_TOO_LARGE
            return ItemFault(cause, f"{cause.messages[0]}: resized, it would have {made[0]} x {made[1]} pixels")
        return ItemFault(FailureCause.CORRUPT_IMAGE, f"{FailureCause.CORRUPT_IMAGE.messages[0]}: {error}")

    def _may_shrink(self, width: int, height: int) -> bool:
        """Return whether a JPEG of such a size is decoded at a fraction of it."""
        return self._shrink is not None and self._shrink.least_size(width, height)[0] * 2 <= width


def _as_bmp(image: "Image.Image") -> bytes:
    """Return an RGB image as an uncompressed BMP whose rows come from the top."""
    stride = -(-3 * image.width // 4) * 4
    size, width, height = stride * image.height, image.width, -image.height
    start = _BMP.size
    header = _BMP.pack(b"BM", start + size, 0, 0, start, start - 14, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    return b"".join((header, image.tobytes("raw", "BGR", stride, 1)))
