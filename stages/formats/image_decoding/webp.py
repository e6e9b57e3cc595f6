"""Read the chunks of a WebP."""

import struct

from stages.formats.image_decoding.header import (
    MAX_PARTS,
    MAX_PROFILE,
    Header,
    corrupt,
    orientation_in,
    over_limit,
    truncated,
)

_MASK = 0x3FFF  # sizes have 14 bits


def read_webp(content: bytes) -> Header:
    """Return the size of the canvas and what else the chunks say."""
    found = _chunks(content)
    kind, body = next(iter(found.items()), (b"", b""))
    if kind == b"VP8X":
        width, height = (int.from_bytes(body[at : at + 3], "little") + 1 for at in (4, 7))
    elif kind == b"VP8L" and body[:1] == b"\x2f":
        (bits,) = struct.unpack_from("<I", body, 1)
        width, height = (bits & _MASK) + 1, (bits >> 14 & _MASK) + 1
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        width, height = (size & _MASK for size in struct.unpack_from("<HH", body, 6))
    else:
        raise corrupt("a WebP without its size")
    profile = found.get(b"ICCP")
    return Header(
        width,
        height,
        content,
        orientation_in(found.get(b"EXIF")),
        profile if profile and len(profile) <= MAX_PROFILE else None,
        is_single=b"ANIM" not in found,
    )


def _chunks(content: bytes) -> dict[bytes, bytes]:
    """Return the first chunk of each kind, by kind, in their order."""
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise truncated()
    found: dict[bytes, bytes] = {}
    position = 12
    for _ in range(MAX_PARTS):
        if position + 8 > end:
            return found
        kind, length = struct.unpack_from("<4sI", content, position)
        found.setdefault(kind, content[position + 8 : position + 8 + length])
        position += 8 + length + length % 2
    raise over_limit(f"a WebP of more than {MAX_PARTS} chunks")
