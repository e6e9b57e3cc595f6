"""Read the sizes that an AVIF declares in its boxes, and those that its images are coded with, which must agree.

Where they do not, the decoder would scale: a few bytes become a large image, or a large one is decoded for a small.
"""

import struct
from collections.abc import Iterator

from stages.formats.image_decoding.av1 import coded_size
from stages.formats.image_decoding.header import MAX_PARTS, Header, corrupt, over_limit, truncated

_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # of the boxes that hold boxes: bytes before these
_FRAMES = b"moov"
_GRID = b"grid"


def read_avif(content: bytes) -> Header:
    """Return the largest of the sizes that the images in the file declare, or are coded with."""
    boxes = list(_boxes(content, 0, len(content)))
    declared = {struct.unpack_from(">II", content, start + 4) for kind, start, _ in boxes if kind == b"ispe"}
    if not declared:
        raise corrupt("an AVIF without its size")
    width, height = max(declared, key=_area)
    starts = [start for kind, box, _ in boxes if kind == b"iloc" for start in _item_starts(content, box)]
    coded = {size for start in starts if (size := coded_size(content, start)) is not None}
    is_grid = any(kind == b"iinf" and _GRID in content[start:end] for kind, start, end in boxes)
    is_single = _FRAMES not in {kind for kind, _, _ in boxes}
    if coded - declared or (coded and not is_grid and (width, height) not in coded):
        if _area(max(coded, key=_area)) <= _area((width, height)):
            raise corrupt("its size is not the one that it declares")
        width, height = max(coded, key=_area)
    return Header(width, height, content, is_single=is_single)


def _area(size: tuple[int, ...]) -> int:
    return size[0] * size[1]


def _boxes(content: bytes, position: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, where its data begin and end, and the boxes in it."""
    for _ in range(MAX_PARTS):
        if position + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", content, position)
        start = position + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, start)
            start += 8
        last = end if size == 0 else position + size
        if last > end:
            raise truncated()
        if last < start:
            raise corrupt("a box of an AVIF that ends before it begins")
        yield kind, start, last
        if kind in _CONTAINERS:
            yield from _boxes(content, start + _CONTAINERS[kind], last)
        position = last
    raise over_limit(f"an AVIF of more than {MAX_PARTS} boxes")


def _item_starts(content: bytes, box: int) -> Iterator[int]:
    """Yield where the data of each item begin in the file, by the box of their locations."""
    version, sizes = content[box], int.from_bytes(content[box + 4 : box + 6], "big")
    offset_size, length_size, base_size, index_size = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    wide = 4 if version >= 2 else 2
    position = box + 6

    def number(size: int) -> int:
        nonlocal position
        position += size
        if position > len(content):
            raise truncated()
        return int.from_bytes(content[position - size : position], "big")

    for _ in range(min(number(wide), MAX_PARTS)):
        number(wide)
        method = number(2) & 15 if version >= 1 else 0
        number(2)
        base = number(base_size)
        for extent in range(number(2)):
            if version >= 1:
                number(index_size)
            start = base + number(offset_size)
            number(length_size)
            if extent == 0 and method == 0:
                yield start
