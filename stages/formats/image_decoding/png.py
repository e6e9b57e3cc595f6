"""Read the chunks of a PNG: the decoder gets those of the pixels alone."""

import struct
import zlib

from stages.formats.image_decoding.header import (
    MAX_METADATA,
    MAX_PARTS,
    MAX_PROFILE,
    Header,
    corrupt,
    orientation_in,
    over_limit,
)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by colour type
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ONE_PASS = ((0, 0, 1, 1),)
_PIECE = 1 << 20  # bytes of pixels that are counted at a time
_PIXELS = frozenset((b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"))


def read_png(content: bytes) -> Header:
    """Return what the chunks say; those beside the pixels are bounded, and kept from the decoder."""
    kept, found, metadata = [_SIGNATURE], dict[bytes, bytes](), 0
    position = len(_SIGNATURE)
    for _ in range(MAX_PARTS):
        if position + 12 > len(content):
            break
        length, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        if end > len(content):
            break
        if kind in _PIXELS:
            kept.append(content[position:end])
        elif b"IDAT" not in found or kind not in (b"fdAT", b"fcTL"):  # further frames are pixels, too
            metadata += length + _inflated(kind, content[position + 8 : end - 4])
            if metadata > MAX_METADATA:
                raise over_limit(f"a PNG with more than {MAX_METADATA} bytes of texts and other data")
        found.setdefault(kind, content[position + 8 : end - 4] if kind != b"IDAT" else b"")
        position = end
        if kind == b"IEND":
            break
    else:
        raise over_limit(f"a PNG of more than {MAX_PARTS} chunks")
    is_truncated = content[position + 4 : position + 8] == b"IDAT" or b"IDAT" not in found
    return _header(found, content if position == sum(map(len, kept)) else b"".join(kept), is_truncated)


def _header(found: dict[bytes, bytes], content: bytes, is_truncated: bool) -> Header:
    """Return what chunks say, by their names."""
    described = found.get(b"IHDR", b"")
    if len(described) != 13:
        raise corrupt("a PNG without a header")
    width, height, depth = struct.unpack_from(">IIB", described)
    return Header(
        width,
        height,
        content,
        orientation_in(found.get(b"eXIf")),
        _profile(found[b"iCCP"]) if b"iCCP" in found and b"sRGB" not in found else None,
        is_single=b"acTL" not in found,
        depth=depth,
        is_truncated=is_truncated,
    )


def ends_early(content: bytes) -> bool:
    """Return whether a PNG of allowed size has fewer pixels than it says; Pillow would leave the others black."""
    left, inflater = _bytes_of_pixels(content), zlib.decompressobj()
    position = len(_SIGNATURE)
    try:
        while left > 0 and not inflater.eof and position + 12 <= len(content):
            length, kind = struct.unpack_from(">I4s", content, position)
            rest = content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
            while rest and left > 0 and not inflater.eof:
                left -= len(inflater.decompress(rest, _PIECE))
                rest = inflater.unconsumed_tail
            position += 12 + length
    except zlib.error:
        return False  # the decoder says so
    return left > 0


def _bytes_of_pixels(content: bytes) -> int:
    """Return how many bytes the pixels take uncompressed (PNG specification, W3C, third edition, 7.2 and 8.1)."""
    width, height, depth, colour, _, _, interlace = struct.unpack_from(">IIBBBBB", content, len(_SIGNATURE) + 8)
    total = 0
    for left, top, right, down in _ADAM7 if interlace else _ONE_PASS:
        columns, rows = -(-max(0, width - left) // right), -(-max(0, height - top) // down)
        total += rows * (1 + -(-columns * depth * _SAMPLES.get(colour, 1) // 8)) if columns else 0
    return total


def _inflated(kind: bytes, data: bytes) -> int:
    """Return how large a compressed text is, up to a little more than is allowed."""
    if kind not in (b"zTXt", b"iTXt"):
        return 0
    start = data.find(b"\0") + 2  # after the keyword and a flag or method
    if kind == b"iTXt":
        if data[start - 1 : start] != b"\1":
            return 0
        start = data.find(b"\0", data.find(b"\0", start + 1) + 1) + 1  # after the method and two more texts
    return len(_inflate(data[start:], MAX_METADATA))


def _profile(data: bytes) -> bytes | None:
    """Return the colour profile; None where it is damaged or too large."""
    content = _inflate(data[data.find(b"\0") + 2 :], MAX_PROFILE)
    return content if 0 < len(content) <= MAX_PROFILE else None


def _inflate(data: bytes, most: int) -> bytes:
    """Return compressed data, as far as a byte more than the most; nothing where they are damaged."""
    inflater = zlib.decompressobj()
    try:
        content = inflater.decompress(data, most + 1)
    except zlib.error:
        return b""
    return content if inflater.eof or len(content) > most else b""
