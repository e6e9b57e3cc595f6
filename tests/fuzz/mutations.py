"""Mutations of bytes: what any file may suffer, whatever is in it."""

import struct
from collections.abc import Callable, Sequence
from random import Random

LONGEST = 300_000
"""Bytes of an input; longer ones are cut."""

Mutation = Callable[[Random, bytes], bytes]

TOKENS: tuple[bytes, ...] = (
    b"\0", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", "\u202e".encode(), b"\x1b[2J", b"\x1b]0;x\x07", b"\x9b",
    b"[bold red]", b"[/]", b"<script>", b"../", b"../../../../etc/passwd", b"/etc/passwd", b"/dev/zero", b"\\", b"~/",
    b"\n", b"\r", b"\r\n", b"\t", b",", b";", b":", b'"', b"'", b"=", b"&", b"#", b"?", b"%00", b"%s%n", b"{}", b"[]",
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"null", b"true", b"9" * 5000, b"-1", b"18446744073709551616",
    "e\u0301".encode(), "\u00e9".encode(), "\U0001f3a8".encode(), b"a" * 300, b"x" * 70_000, b"__class__",
    b"http://127.0.0.1/", b"http://user:secret@[::1]:99999/", b"file:///etc/passwd", b"s3://x", b"::", b"memory://x",
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63)


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Apply one mutation."""
    return rng.choice(_ANY)(rng, data)[:LONGEST]


def mutate_often(rng: Random, data: bytes, mutation: Mutation = mutate_bytes) -> bytes:
    """Apply one mutation most often, seldom several."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = mutation(rng, data)
    return data


def mutate_part(rng: Random, data: bytes, start: int, end: int) -> bytes:
    """Mutate a part of the bytes."""
    start, end = max(0, start), max(0, end)
    return data[:start] + mutate_bytes(rng, data[start:end]) + data[end:]


def _flip(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _set(rng: Random, data: bytes) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _delete(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 3, 50)) + data[end:]


def _swap(rng: Random, data: bytes) -> bytes:
    first, second, third = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:first] + data[second:third] + data[first:second] + data[third:]


def _insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(TOKENS) + data[at:]


def _overwrite(rng: Random, data: bytes) -> bytes:
    token, at = rng.choice(TOKENS)[:64], rng.randrange(len(data) + 1)
    return data[:at] + token + data[at + len(token) :]


def _number(rng: Random, data: bytes) -> bytes:
    """Put a number of 1, 2, 4 or 8 bytes somewhere."""
    kind = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(kind)
    packed = struct.pack(kind, rng.choice((*NUMBERS, len(data))) & (256**size - 1))
    at = rng.randrange(max(1, len(data) - size + 1))
    return data[:at] + packed + data[at + size :]


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 2, 4, 16, 256, 4096)))


_ANY: Sequence[Mutation] = (_flip, _set, _truncate, _delete, _repeat, _swap, _insert, _overwrite, _number)
