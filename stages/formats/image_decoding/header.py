"""What is known of an image before it is decoded, the limits on it, and the faults that refuse it."""

import struct
from dataclasses import dataclass

from stages.contract.errors import FailureCause, ItemFault

MAX_METADATA = 8_000_000  # bytes of texts and other data beside the pixels, compressed and not
MAX_PROFILE = 4_000_000  # bytes of a colour profile; a larger one is ignored
MAX_PARTS = 100_000  # chunks, segments, blocks, strips and tiles of a file
_ORIENTATION = 0x0112
_INTEGERS = {1: 1, 3: 2, 4: 4}  # bytes of TIFF's BYTE, SHORT and LONG


@dataclass(frozen=True)
class Header:
    """What the reader of a format found in an image's bytes."""

    width: int
    """As stored, before the image is turned upright."""
    height: int
    content: bytes
    """What the decoder is given: the file without what it does not need."""
    orientation: int = 1
    """EXIF's: 1 to 8."""
    profile: bytes | None = None
    """The colour profile (ICC), as found."""
    is_single: bool = True
    """Whether the file holds no further frames."""
    depth: int = 8
    """Bits of a sample."""
    is_truncated: bool = False
    """Whether the file ends before its pixels do."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image as it is shown."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def corrupt(detail: str = "") -> ItemFault:
    """Return the fault of damaged bytes."""
    return _fault(FailureCause.CORRUPT_IMAGE, detail)


def truncated() -> ItemFault:
    """Return the fault of bytes that end too early."""
    return _fault(FailureCause.TRUNCATED_IMAGE)


def unsupported(name: str) -> ItemFault:
    """Return the fault of a format, or of a form of one, that is not read."""
    return _fault(FailureCause.UNSUPPORTED_FORMAT, name)


def over_limit(detail: str) -> ItemFault:
    """Return the fault of an image that needs more than is allowed."""
    return _fault(FailureCause.DECODER_LIMIT, detail)


def too_large(width: int, height: int) -> ItemFault:
    """Return the fault of an image of too many pixels."""
    return _fault(FailureCause.IMAGE_TOO_LARGE, f"{width} x {height} pixels")


def _fault(cause: FailureCause, detail: str = "") -> ItemFault:
    return ItemFault(cause, f"{cause.messages[0]}: {detail}" if detail else "")


def orientation_in(exif: bytes | None) -> int:
    """Return the orientation that EXIF data name; 1 where there is none, or none that has a meaning."""
    tiff = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, min(start + 2 + 12 * count, len(tiff) - 11), 12):
            tag, kind, _ = struct.unpack_from(f"{order}HHI", tiff, entry)
            if tag == _ORIENTATION and kind in _INTEGERS:
                value = tiff[entry + 8 : entry + 8 + _INTEGERS[kind]]
                return clean_orientation(int.from_bytes(value, "little" if order == "<" else "big"))
    except struct.error:  # it ends too early
        pass
    return 1


def clean_orientation(value: object) -> int:
    """Return an orientation if it is one, or else 1."""
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
