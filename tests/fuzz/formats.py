"""Mutations that keep a binary format's structure, so that they reach what a checksum would keep from them."""

import bz2
import gzip
import lzma
import re
import struct
import zlib
from random import Random

from tests.fuzz.mutations import LONGEST, NUMBERS, mutate_bytes, mutate_part
from tests.fuzz.structures import mutate_json

# ---- tar

_BLOCK = 512


def mutate_tar(rng: Random, data: bytes) -> bytes:
    """Change a member's header with a right checksum, the members' order, or put strange members in between."""
    kind = rng.random()
    if kind < 0.15:
        return mutate_bytes(rng, data)
    if kind < 0.22:
        return rng.choice((gzip.compress, bz2.compress, lzma.compress))(data)
    members = _members(data)
    if not members:
        return mutate_bytes(rng, data)
    at = rng.randrange(len(members))
    if kind < 0.7:
        members[at] = _change_member(rng, members[at])
    elif kind < 0.8:
        members.insert(at, rng.choice(members))
    elif kind < 0.87:
        rng.shuffle(members)
    else:
        members.insert(at, _pax(rng) + members.pop(at))
    return b"".join(members)[:LONGEST] + bytes(2 * _BLOCK) * rng.choice((0, 1, 1, 1))


def _members(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 0
    while at + _BLOCK <= len(data) and data[at : at + 1] != b"\0" and len(found) < 500:
        try:
            size = int(data[at + 124 : at + 135].strip(b"\0 ") or b"0", 8)
        except ValueError:
            break
        end = at + _BLOCK + -(-size // _BLOCK) * _BLOCK
        found.append(data[at:end])
        at = end
    return found


#: Offset and length of a header's fields.
_FIELDS = {
    "name": (0, 100), "mode": (100, 8), "uid": (108, 8), "size": (124, 12), "mtime": (136, 12), "type": (156, 1),
    "link": (157, 100), "magic": (257, 8), "prefix": (345, 155), "sparse": (386, 97),
}  # fmt: skip


def _change_member(rng: Random, member: bytes) -> bytes:
    header, name = bytearray(member[:_BLOCK].ljust(_BLOCK, b"\0")), rng.choice([*_FIELDS, "name", "size", "type"])
    start, length = _FIELDS[name]
    if name == "type":
        header[start] = rng.choice(b"0\x001234567LKSgxXVMDN\xff")
    elif name in ("size", "mtime", "uid", "mode"):
        number = rng.choice((*NUMBERS, 8 * 10**9, 7))
        octal = b"%0*o" % (length - 1, number)
        based = b"\x80" + number.to_bytes(length - 1, "big", signed=False) if number < 256 ** (length - 1) else octal
        header[start : start + length] = rng.choice((octal, based, b"\xff" * length, b"-1", b"x"))[:length].ljust(
            length
        )
    else:
        old = bytes(header[start : start + length]).rstrip(b"\0")
        new = rng.choice(
            (mutate_bytes(rng, old), b"a.b.c.jpg", b"../x.jpg", b"/abs.jpg", b"d/0.TXT", b".jpg", b"\xff.jpg")
        )
        header[start : start + length] = new[:length].ljust(length, b"\0")
    return _sealed(header) + member[_BLOCK:]


def _sealed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def _pax(rng: Random) -> bytes:
    """Return an extended header for the next member, or for all."""
    records = {
        b"path": rng.choice((b"x" * 5000 + b".jpg", b"\xff\xfe.jpg", b"a\0b.jpg", b"../../x.jpg", b"0000.txt")),
        b"size": rng.choice((b"0", b"-1", b"99999999999999", b"x", b"1e9")),
        b"hdrcharset": rng.choice((b"BINARY", b"nonsense")),
        b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"99999999999",
        b"GNU.sparse.map": b"0,1,99999999,1", b"mtime": b"nan", b"uid": b"\xff", b"SCHILY.xattr.user.x": b"y" * 3000,
    }  # fmt: skip
    body = b"".join(_record(rng, key, records[key]) for key in rng.sample(sorted(records), rng.randint(1, 5)))
    header = bytearray(_BLOCK)
    header[:9], header[257:265] = b"PaxHeader", b"ustar\00000"
    header[124:136], header[156] = b"%011o\0" % len(body), rng.choice(b"xxxgXLK")
    return _sealed(header) + body.ljust(-(-len(body) // _BLOCK) * _BLOCK, b"\0")


def _record(rng: Random, key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    length += len(str(length)) - len(str(len(body)))
    return str(length if rng.random() < 0.85 else rng.choice((0, 3, 10**9))).encode() + body


# ---- PNG

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def mutate_png(rng: Random, data: bytes) -> bytes:
    """Change a chunk with a right checksum, the chunks' order, or put strange ones in between."""
    chunks = png_chunks(data)
    if not chunks or rng.random() < 0.15:
        return mutate_bytes(rng, data)
    at, kind = rng.randrange(len(chunks)), rng.random()
    name, body = chunks[at]
    if kind < 0.2:
        width, height = rng.choice(NUMBERS[:17]), rng.choice(NUMBERS[:17])
        depth, color = rng.choice(((8, 2), (16, 0), (16, 6), (1, 3), (4, 3), (8, 4), (3, 9)))
        mode = rng.choice((0, 1, 2))
        chunks[0] = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, mode))
    elif kind < 0.6:
        chunks[at] = (name, mutate_bytes(rng, body))
    elif kind < 0.7:
        chunks.insert(at, chunks[rng.randrange(len(chunks))])
    else:
        chunks.insert(min(at, 1), rng.choice(_CHUNKS))
    return join_png(chunks)[:LONGEST]


_ZEROS = zlib.compress(bytes(4_000_000))
_CHUNKS = (
    (b"tEXt", b"recipe\0{}"), (b"zTXt", b"recipe\0\0" + _ZEROS), (b"iTXt", b"recipe\0\1\0\0\0" + _ZEROS),
    (b"iCCP", b"x\0\0" + _ZEROS), (b"iCCP", b"x\0\0" + zlib.compress(b"no profile")), (b"eXIf", b"MM\0*" + bytes(40)),
    (b"tRNS", bytes(6)), (b"PLTE", bytes(9)), (b"acTL", struct.pack(">II", 2**31, 0)), (b"gAMA", bytes(4)),
    (b"fcTL", bytes(26)), (b"fdAT", bytes(8)), (b"pHYs", bytes(9)), (b"cHRM", bytes(32)), (b"sRGB", b"\xff"),
)  # fmt: skip


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return name and content of each chunk; none: it is no PNG."""
    found: list[tuple[bytes, bytes]] = []
    at = len(_SIGNATURE)
    while data.startswith(_SIGNATURE) and at + 12 <= len(data) and len(found) < 200:
        length = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return the PNG of chunks."""
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return _SIGNATURE + b"".join(parts)


# ---- columns: Parquet and Arrow


def mutate_columns(rng: Random, data: bytes) -> bytes:
    """Change the metadata at the end of a Parquet file, or of an Arrow file, rather than its values."""
    kind = rng.random()
    if kind < 0.2 or len(data) < 64:
        return mutate_bytes(rng, data)
    if data[-4:] == b"PAR1" and kind < 0.8:
        length = int.from_bytes(data[-8:-4], "little")
        body = mutate_bytes(rng, data[-8 - length : -8])
        return data[: -8 - length] + body + len(body).to_bytes(4, "little") + b"PAR1"
    at = rng.randrange(len(data))
    return mutate_part(rng, data, at, at + 64)


# ---- arrays


def mutate_npy(rng: Random, data: bytes) -> bytes:
    """Change the header of an array."""
    if rng.random() < 0.3 or not data.startswith(b"\x93NUMPY"):
        return mutate_bytes(rng, data)
    length = int.from_bytes(data[8:10], "little")
    header = data[10 : 10 + length].decode("latin-1")
    shape = rng.choice(("()", "(0,)", "(-1, 4)", "(10**9, 4)", f"({10**9}, 4)", f"({2**62}, 4)", "(3, 4, 1)", "(4, 3)"))
    dtype = rng.choice(("'|O'", "'<f8'", "'|V0'", "'<U9999'", "[('a', '<f4')]", "'>f4'"))
    header = rng.choice(
        (
            re.sub(r"\([^)]*\)", shape, header, count=1),
            re.sub(r"'[<>|=][a-z]\d*'", dtype, header, count=1),
            header.replace("False", rng.choice(("True", "None", "1"))),
            mutate_bytes(rng, header.encode()).decode("latin-1"),
            "(" * rng.choice((50, 500, 9000)),
        )
    )
    encoded = header.encode("latin-1", "replace")[:65_000]
    return data[:8] + len(encoded).to_bytes(2, "little") + encoded + data[10 + length :]


def mutate_safetensors(rng: Random, data: bytes) -> bytes:
    """Change the header of tensors."""
    length = int.from_bytes(data[:8], "little")
    if rng.random() < 0.2 or length > len(data):
        return mutate_bytes(rng, data)
    header = mutate_json(rng, data[8 : 8 + length])
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


# ---- JPEG


def mutate_jpeg(rng: Random, data: bytes) -> bytes:
    """Change sizes, repeat scans, or put segments in, with right lengths."""
    kind = rng.random()
    start = data.find(b"\xff\xc0") if b"\xff\xc0" in data else data.find(b"\xff\xc2")
    if kind < 0.3 and start > 0:
        size = struct.pack(">HH", rng.choice((0, 1, 8, 65535)), rng.choice((0, 1, 8, 65535)))
        return data[: start + 5] + size + data[start + 9 :]
    if kind < 0.4 and (scan := data.find(b"\xff\xda")) > 0:
        return (data[:scan] + data[scan:-2] * rng.choice((2, 20, 200)) + data[-2:])[:LONGEST]
    if kind < 0.6:
        body = rng.choice(
            (
                b"Exif\0\0MM\0*" + bytes(30),
                b"Exif\0\0II*\0\xff\xff\xff\xff",
                b"ICC_PROFILE\0\1\1x",
                b"Adobe\0d\0\0\0\0\2",
                b"http://ns.adobe.com/xap/1.0/\0<x/>",
                b"MPF\0II*\0" + bytes(20),
            )
        )
        body = mutate_bytes(rng, body)[:60_000]
        return (
            data[:2]
            + b"\xff"
            + rng.choice((b"\xe1", b"\xe2", b"\xee", b"\xfe"))
            + struct.pack(">H", len(body) + 2)
            + body
            + data[2:]
        )
    return mutate_bytes(rng, data)


def mutate_image(rng: Random, data: bytes) -> bytes:
    """Change an image as its format allows."""
    if data.startswith(_SIGNATURE):
        return mutate_png(rng, data)
    if data.startswith(b"\xff\xd8"):
        return mutate_jpeg(rng, data)
    at = rng.randrange(min(200, len(data) + 1))
    return mutate_part(rng, data, at, at + 32) if rng.random() < 0.6 else mutate_bytes(rng, data)
