"""Read the segments of a JPEG: size, orientation, colour profile, and how many scans its decoder has to make."""

import re
from dataclasses import dataclass

from stages.formats.image_decoding.header import (
    MAX_PARTS,
    MAX_PROFILE,
    Header,
    corrupt,
    orientation_in,
    over_limit,
    truncated,
    unsupported,
)

MAX_SCANS = 64  # of one image: progressive files have about ten
MAX_SCANNED = 1_600_000_000  # pixels of an image times its scans
_EXIF, _PROFILE, _ADOBE, _JFIF = b"Exif\0\0", b"ICC_PROFILE\0", b"Adobe", b"JFIF\0"
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset((0xC2, 0xC6, 0xCA, 0xCE))
_LOSSLESS = frozenset((0xC3, 0xC7, 0xCB, 0xCF))
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD8)))
_TRAILER = 64  # bytes that may follow the end of an image
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_SCAN, _END = 0xDA, 0xD9


@dataclass(frozen=True)
class JpegHeader(Header):
    """What the segments of a JPEG say."""

    components: int = 3
    is_ended: bool = True
    """Whether the file ends as a whole JPEG does."""


def read_jpeg(content: bytes) -> JpegHeader:
    """Return what the segments before the pixels say; what the decoder gets has none but those it needs."""
    kept, frame, exif, parts = [b"\xff\xd8"], b"", b"", list[bytes]()
    position, is_whole, is_progressive = 2, True, False
    for _ in range(MAX_PARTS):
        marker, start, end = _next_segment(content, position)
        body = content[start:end]
        if marker == _SCAN:
            break
        if marker in _FRAMES and not frame:
            frame, is_progressive = body, marker in _PROGRESSIVE
            if marker in _LOSSLESS or body[2] != 8:
                raise unsupported(f"JPEG of {'lossless form' if marker in _LOSSLESS else f'{body[2]} bits'}")
        if marker == 0xE1 and body[2:].startswith(_EXIF) and not exif:
            exif = body[2:]
        elif marker == 0xE2 and body[2:].startswith(_PROFILE):
            parts.append(body[2 + len(_PROFILE) :])
        if _is_needed(marker, body):
            kept.append(content[start - 2 : end])
        else:
            is_whole = False
        position = end
    else:
        raise over_limit(f"a JPEG of more than {MAX_PARTS} segments")
    if not frame:
        raise corrupt("a JPEG without a frame")
    height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
    if is_progressive or body[2] < frame[7]:  # a scan of all components is the only one that is decoded
        _check_scans(content, start - 2, width * height)
    reduced = content if is_whole else b"".join((*kept, memoryview(content)[start - 2 :]))
    is_ended = b"\xff\xd9" in content[-_TRAILER:]
    return JpegHeader(
        width, height, reduced, orientation_in(exif), _assemble(parts), components=frame[7], is_ended=is_ended
    )


def _next_segment(content: bytes, position: int) -> tuple[int, int, int]:
    """Return the marker of the next segment, and where its length begins and its data end."""
    while True:
        position = content.find(b"\xff", position)
        if position < 0 or position + 4 > len(content):
            raise truncated()
        marker = content[position + 1]
        if marker == _END:
            raise corrupt("a JPEG without pixels")
        if marker in (0x00, 0xFF) or marker in _WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if end > len(content):
            raise truncated()
        return marker, position + 2, max(end, position + 4)


def _is_needed(marker: int, body: bytes) -> bool:
    """Return whether the decoder needs a segment: all but comments and what applications keep in the file."""
    if marker == 0xE0:
        return body[2:].startswith(_JFIF)
    if marker == 0xEE:
        return body[2:].startswith(_ADOBE)
    return not 0xE0 <= marker <= 0xEF and marker != 0xFE


def _assemble(parts: list[bytes]) -> bytes | None:
    """Return the profile of its parts, each with its number and the number of all before it."""
    if not parts or sum(map(len, parts)) > MAX_PROFILE:
        return None
    return b"".join(part[2:] for part in sorted(parts, key=lambda part: part[:1]))


def _check_scans(content: bytes, position: int, pixels: int) -> None:
    """Refuse a file whose decoder would go over the pixels too many times."""
    most = min(MAX_SCANS, max(MAX_SCANNED // max(pixels, 1), 1))
    if content.count(b"\xff\xda", position) <= most:  # a quick upper bound: other data may look like a scan
        return
    scans = 0
    while (found := _NEXT_MARKER.search(content, position)) and found[0][1] != _END:
        scans += found[0][1] == _SCAN
        if scans > most:
            raise over_limit(f"a JPEG of more than {most} scans")
        length = int.from_bytes(content[found.end() : found.end() + 2], "big")
        position = found.end() + max(length, 2)
