"""Read the sizes that an AVIF declares in its boxes; its decoder finds out where its coded images say otherwise."""

import struct
from collections.abc import Iterator

from stages.formats.image_decoding.header import MAX_PARTS, Header, corrupt, over_limit, truncated

_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # of the boxes that hold boxes: bytes before these
_FRAMES = b"moov"


def read_avif(content: bytes) -> Header:
    """Return the largest of the sizes that the images in the file declare."""
    boxes = list(_boxes(content, 0, len(content)))
    sizes = [struct.unpack_from(">II", content, start + 4) for kind, start in boxes if kind == b"ispe"]
    if not sizes:
        raise corrupt("an AVIF without its size")
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Header(width, height, content, is_single=_FRAMES not in {kind for kind, _ in boxes})


def _boxes(content: bytes, position: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield the kind of each box and where its data begin, with the boxes in it."""
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
        yield kind, start
        if kind in _CONTAINERS:
            yield from _boxes(content, start + _CONTAINERS[kind], last)
        position = last
    raise over_limit(f"an AVIF of more than {MAX_PARTS} boxes")
