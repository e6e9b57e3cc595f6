"""Read the first directory of a TIFF: size, form of the samples, and how many pieces the image lies in."""

import struct
from dataclasses import dataclass
from typing import Any

from stages.formats.image_decoding.header import (
    MAX_PARTS,
    MAX_PROFILE,
    Header,
    clean_orientation,
    corrupt,
    over_limit,
    unsupported,
)

_KINDS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 16: "Q"}  # TIFF's types of integers and bytes
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILES = 273, 274, 277, 284, 322, 323, 324
_EXTRA, _FORMAT, _SUBSAMPLING, _PROFILE, _DNG = 338, 339, 530, 34675, 50706
_NUMBERS = (
    _SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES, _PLANAR, _TILE_WIDTH,
    _TILE_HEIGHT, _EXTRA, _FORMAT, _SUBSAMPLING,
)  # fmt: skip
_MOST_VALUES = 64
_MOST_ENTRIES = 4096
UNSIGNED = 1
WHITE_IS_ZERO, YCBCR = 0, 6
_RAW, _APART = 1, 2
_DEPTH_OF_PLANES = 8  # no decoder at hand reads deeper samples that lie apart


@dataclass(frozen=True)
class TiffHeader(Header):
    """What a TIFF's first directory says."""

    sample_format: int = UNSIGNED
    photometric: int = 1
    extra: tuple[int, ...] = ()
    """The meaning of samples beyond the colours: 1 and 2 are transparency."""
    is_subsampled: bool = False
    """Whether it is stored in YCbCr with fewer values for the colours, uncompressed."""


def read_tiff(content: bytes) -> TiffHeader:
    """Return what the first directory says; pages after the first are not read."""
    found = _Directory(content)
    width, height = found.first(_WIDTH, 0), found.first(_HEIGHT, 0)
    if width <= 0 or height <= 0:
        raise corrupt("a TIFF without its size")
    if _DNG in found.counts or found.first(_SUBFILE, 0) & 1:
        raise unsupported("camera raw (TIFF whose first page is a preview)")
    if max(found.counts.get(_STRIPS, 0), found.counts.get(_TILES, 0)) > MAX_PARTS:
        raise over_limit(f"a TIFF of more than {MAX_PARTS} strips or tiles")
    if found.first(_TILE_WIDTH, 1) * found.first(_TILE_HEIGHT, 1) > 4 * max(width * height, 1 << 20):
        raise over_limit("a TIFF of tiles much larger than itself")
    depth, photometric = max(found.all(_BITS, (1,))), found.first(_PHOTOMETRIC, 1)
    if depth > _DEPTH_OF_PLANES and found.first(_SAMPLES, 1) > 1 and found.first(_PLANAR, 1) == _APART:
        raise unsupported(f"TIFF whose samples of {depth} bits lie in planes of their own")
    is_raw_ycbcr = photometric == YCBCR and found.first(_COMPRESSION, _RAW) == _RAW
    return TiffHeader(
        width,
        height,
        content,
        clean_orientation(found.first(_ORIENTATION, 1)),
        found.profile,
        is_single=found.is_last,
        depth=depth,
        sample_format=max(found.all(_FORMAT, (UNSIGNED,))),
        photometric=photometric,
        extra=found.all(_EXTRA, ()),
        is_subsampled=is_raw_ycbcr and found.all(_SUBSAMPLING, (2, 2)) != (1, 1),
    )


class _Directory:
    """The first directory: the values of the tags that matter, and how many values each tag has."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._order = "<" if content[:2] == b"II" else ">"
        is_big = content[2:4] in (b"+\0", b"\0+")
        entry, count, self._offset = ("HHQ", "Q", "Q") if is_big else ("HHI", "H", "I")
        (start,) = self._unpack(self._offset, 8 if is_big else 4)
        (number,) = self._unpack(count, start)
        if number > _MOST_ENTRIES:
            raise over_limit(f"a TIFF of more than {_MOST_ENTRIES} tags")
        first, room = start + struct.calcsize("<" + count), struct.calcsize("<" + entry + self._offset)
        self._found, self.counts = dict[int, tuple[int, ...]](), dict[int, int]()
        self.profile: bytes | None = None
        for at in range(first, first + number * room, room):
            tag, kind, values = self._unpack(entry, at)
            self.counts.setdefault(tag, values)
            self._read(tag, kind, values, at + struct.calcsize("<" + entry))
        next_directory = content[first + number * room :][: struct.calcsize("<" + self._offset)]
        self.is_last = not any(next_directory)

    def first(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return self.all(tag, (default,))[0]

    def all(self, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """Return the first values of a tag."""
        return self._found.get(tag, default)

    def _read(self, tag: int, kind: int, number: int, at: int) -> None:
        """Keep the values of an entry that matters, as far as they matter."""
        form = _KINDS.get(kind)
        if form is None or tag not in (*_NUMBERS, _PROFILE) or number == 0:
            return
        num_bytes = number * struct.calcsize("<" + form)
        start = at if num_bytes <= struct.calcsize("<" + self._offset) else self._unpack(self._offset, at)[0]
        if tag == _PROFILE:
            self.profile = self._content[start : start + number] if num_bytes <= MAX_PROFILE else None
        else:
            self._found.setdefault(tag, self._unpack(f"{min(number, _MOST_VALUES)}{form}", start))

    def _unpack(self, form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(self._order + form, self._content, at)
