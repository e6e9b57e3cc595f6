"""The size of an image in AV1, from its sequence header: decoders believe it, whatever the file around it declares.

Source: AV1 Bitstream & Decoding Process Specification, sections 5.3.2 (units), 5.5.1 (sequence header) and 4.10.5.
"""

_SEQUENCE_HEADER = 1
_MOST_UNITS = 16  # before the header, which is among the first


class _Bits:
    """Reads numbers of any number of bits, the highest first; beyond the end, zeros."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def read(self, count: int) -> int:
        """Return the next number."""
        value = 0
        for _ in range(count):
            byte = self._content[self._at >> 3] if self._at >> 3 < len(self._content) else 0
            value = value << 1 | byte >> (7 - self._at & 7) & 1
            self._at += 1
        return value


def coded_size(content: bytes, position: int) -> tuple[int, int] | None:
    """Return width and height that the units at a position of a file are coded with; None: no header is there."""
    for _ in range(_MOST_UNITS):
        if position >= len(content):
            return None
        head = content[position]
        position += 2 if head & 4 else 1
        size, position = _read_size(content, position) if head & 2 else (len(content) - position, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            return _size_in_header(_Bits(content[position : position + min(size, 256)]))
        position += size
    return None


def _read_size(content: bytes, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and the position after it."""
    size = 0
    for shift in range(0, 56, 7):
        size |= (content[position] & 127) << shift
        position += 1
        if not content[position - 1] & 128:
            break
    return size, position


def _size_in_header(bits: _Bits) -> tuple[int, int]:
    bits.read(4)  # profile, and whether it is a still image
    if bits.read(1):  # a header for still images alone
        bits.read(5)
    else:
        _skip_timing(bits)
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    return bits.read(width_bits) + 1, bits.read(height_bits) + 1


def _skip_timing(bits: _Bits) -> None:
    """Read what a header of videos has before the size."""
    delay_bits = 0
    if bits.read(1):  # timing
        bits.read(64)
        if bits.read(1):
            zeros = 0
            while zeros < 32 and not bits.read(1):
                zeros += 1
            bits.read(zeros)
        if bits.read(1):  # model of the decoder
            delay_bits = bits.read(5) + 1
            bits.read(42)
    has_delay = bits.read(1)
    for _ in range(bits.read(5) + 1):  # operating points
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if has_delay and bits.read(1):
            bits.read(4)
