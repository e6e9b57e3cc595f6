"""Read the header of a BMP."""

import struct

from stages.formats.image_decoding.header import Header

_OLD_HEADER = 12


def read_bmp(content: bytes) -> Header:
    """Return the size; a negative height means that the rows come from the top."""
    if struct.unpack_from("<I", content, 14)[0] == _OLD_HEADER:
        width, height = struct.unpack_from("<HH", content, 18)
    else:
        width, height = struct.unpack_from("<ii", content, 18)
    return Header(width, abs(height), content)
