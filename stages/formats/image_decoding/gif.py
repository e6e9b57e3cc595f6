"""Read a GIF up to the end of its first frame, which is all that the decoder gets."""

import struct

from stages.formats.image_decoding.header import MAX_PARTS, Header, corrupt, over_limit, truncated

_EXTENSION, _IMAGE, _END = 0x21, 0x2C, 0x3B
_CONTROL = 0xF9
_TABLE = 0x80


def read_gif(content: bytes) -> Header:
    """Return the size that screen and first frame need together, and the first frame alone."""
    screen_width, screen_height, flags = struct.unpack_from("<HHB", content, 6)
    position = 13 + _table_bytes(flags)
    kept = [content[:position]]
    for _ in range(MAX_PARTS):
        start = position
        if position >= len(content):
            raise truncated()
        if content[position] == _EXTENSION:
            position = _after_blocks(content, position + 2)
            if content[start + 1] == _CONTROL:
                kept.append(content[start:position])
        elif content[position] == _IMAGE:
            left, top, width, height, flags = struct.unpack_from("<HHHHB", content, position + 1)
            position = _after_blocks(content, position + 10 + _table_bytes(flags) + 1)
            kept += [content[start:position], bytes([_END])]
            is_single = content[position : position + 1] in (b"", bytes([_END]))
            size = max(screen_width, left + width), max(screen_height, top + height)
            return Header(*size, b"".join(kept), is_single=is_single)
        else:
            raise corrupt("a GIF without a frame")
    raise over_limit(f"a GIF of more than {MAX_PARTS} extensions")


def _table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & _TABLE else 0


def _after_blocks(content: bytes, position: int) -> int:
    """Return the position after a chain of blocks, each of which begins with its length."""
    while True:
        if position >= len(content):
            raise truncated()
        length = content[position]
        position += 1 + length
        if length == 0:
            return position
