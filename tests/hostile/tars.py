"""Tars as strangers make them: any members in any order, headers that lie, and what no reader should follow."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

Member = tuple[str | bytes, bytes]
END = b"\0" * 1024


def png(red: int) -> bytes:
    """Return a small image of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def header(
    name: str | bytes, size: int = 0, *, kind: bytes = b"0", raw_size: bytes | None = None, linkname: str = ""
) -> bytes:
    """Return one header block; ``raw_size`` stands in the field of the size as it is."""
    info = tarfile.TarInfo("x")
    info.size, info.type, info.linkname = (0 if raw_size else size), kind, linkname
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    encoded = name.encode("utf-8", "surrogateescape") if isinstance(name, str) else name
    block[0:100] = encoded[:100].ljust(100, b"\0")
    if raw_size is not None:
        block[124:136] = raw_size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    """Return content as it stands in a tar."""
    return content + b"\0" * (-len(content) % 512)


def member(name: str | bytes, content: bytes) -> bytes:
    """Return a header and its content."""
    return header(name, len(content)) + padded(content)


def tar_of(members: Iterable[Member]) -> bytes:
    """Return a whole tar."""
    return b"".join(member(name, content) for name, content in members) + END


def pax(records: dict[str, str | bytes], *, kind: bytes = b"x") -> bytes:
    """Return an extended header of pax."""
    content = b""
    for key, value in records.items():
        body = b" " + key.encode() + b"=" + (value.encode() if isinstance(value, str) else value) + b"\n"
        length = len(body)
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        content += str(length).encode() + body
    return header("pax", len(content), kind=kind) + padded(content)


def long_name(name: str) -> bytes:
    """Return GNU's header of a long name."""
    content = name.encode() + b"\0"
    return header("././@LongLink", len(content), kind=b"L") + padded(content)


def write(folder: Path, **tars: bytes) -> Path:
    """Write tars into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in tars.items():
        (folder / f"{name}.tar").write_bytes(content)
    return folder
