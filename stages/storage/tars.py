"""Walk the members of a plain tar by their headers, within limits: nothing is decompressed, expanded or extracted.

Of Python's tarfile only the parser of one header is used: its reader holds extended headers of any size in memory,
takes a damaged header in the middle for the end, and follows chains of extended headers by recursion.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from stages.contract.errors import FailureCause, ItemFault

LONGEST_NAME = 4096  # bytes, as a path of Linux
_BLOCK = tarfile.BLOCKSIZE
_LARGEST_EXTENDED_HEADER = 1 << 20  # bytes; those of real tars have some hundred
_SEARCHED_AFTER_END = 1 << 20  # bytes after the end mark in which more members are looked for

_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_WITHOUT_CONTENT = (
    tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
)  # fmt: skip
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_IGNORED = (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK)  # of the whole tar; the targets of links
_RECORD = re.compile(rb"([0-9]{1,9}) ")
_COMPRESSED = {
    b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """An entry of a tar that is no folder; ``fault`` says why it has no content to be read."""

    name: str
    """As it is in the tar; bytes that are not UTF-8 are lone surrogates."""
    offset: int
    size: int
    fault: FailureCause | None = None


def compression_of(head: bytes) -> str | None:
    """Return how a file is compressed, by its first bytes."""
    return next((name for mark, name in _COMPRESSED.items() if head.startswith(mark)), None)


def walk(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members of a seekable tar in their order.

    Raises:
        ItemFault: the tar is damaged from here on, or compressed; what was yielded before is whole.
    """
    file.seek(0)
    if (compression := compression_of(file.read(6))) is not None:
        raise _damaged(f"it is compressed by {compression}")
    return iter(_Walk(file))


@dataclass
class _Extended:
    """What extended headers say of the next member."""

    name: bytes | None = None
    size: int | None = None
    fault: FailureCause | None = None


class _Walk:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, file.seek(0, os.SEEK_END)
        self._position = 0
        self._extended = _Extended()

    def __iter__(self) -> Iterator[Member]:
        while (block := self._header_block()) is not None:
            info = _parse_header(block)
            if info.size < 0:
                raise _damaged("a member of negative size")
            if info.type in (*_PAX, *_IGNORED, tarfile.GNUTYPE_LONGNAME):
                self._extend(info)
                continue
            member = self._member(info, block)
            self._extended = _Extended()
            if info.type != tarfile.DIRTYPE:
                yield member

    def _header_block(self) -> bytes | None:
        """Read the block at the position; None: it is the end mark, after which nothing follows."""
        block = self._read(_BLOCK)
        if block.count(0) == _BLOCK:
            rest = self._read(_SEARCHED_AFTER_END)
            if rest.count(0) < len(rest):
                raise _damaged("more follows after its end mark")
            return None
        if len(block) < _BLOCK:
            raise _damaged("it has no end mark" if self._position else "it is empty or too short")
        self._position += _BLOCK
        return block

    def _extend(self, info: tarfile.TarInfo) -> None:
        """Take in what an extended header says of the next member."""
        self._require(info.size)
        if info.size > _LARGEST_EXTENDED_HEADER:
            self._extended.fault = FailureCause.BAD_NAME
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            self._extended.name = self._read(info.size).partition(b"\0")[0]
        elif info.type in _PAX:
            self._extend_by_pax(self._read(info.size))
        self._position += _padded(info.size)

    def _extend_by_pax(self, content: bytes) -> None:
        for key, value in _pax_records(content):
            if key == b"path":
                self._extended.name = value
            elif key == b"size":
                if not (value.isdigit() and len(value) < 20):
                    raise _damaged("a size that is not a number")
                self._extended.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                self._extended.fault = FailureCause.NOT_A_FILE

    def _member(self, info: tarfile.TarInfo, block: bytes) -> Member:
        """Return the member, and go to the end of its content."""
        extended, fault = self._extended, self._extended.fault
        size = info.size if extended.size is None else extended.size
        if info.type == tarfile.GNUTYPE_SPARSE:
            fault = FailureCause.NOT_A_FILE
            self._skip_sparse_map(block)
        elif info.type not in _FILES:
            fault = FailureCause.NOT_A_FILE
        name = info.name if extended.name is None else extended.name.decode("utf-8", "surrogateescape")
        if len(name) > LONGEST_NAME:
            name, fault = name[:LONGEST_NAME], FailureCause.BAD_NAME
        if info.type in _WITHOUT_CONTENT:
            size = 0
        self._require(size)
        member = Member(name, self._position, size, fault)
        self._position += _padded(size)
        return member

    def _skip_sparse_map(self, block: bytes) -> None:
        """Go past the blocks that continue the map of a sparse file."""
        follows = block[482]
        while follows:
            block = self._read(_BLOCK)
            if len(block) < _BLOCK:
                raise _damaged("it ends within a member")
            self._position += _BLOCK
            follows = block[504]

    def _require(self, size: int) -> None:
        if self._position + size > self._size:
            raise _damaged("it ends within a member")

    def _read(self, size: int) -> bytes:
        self._file.seek(self._position)
        return self._file.read(size)


def _parse_header(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as error:
        raise _damaged(f"{error}") from error


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of each record: its length in decimal, a space, key=value, a newline."""
    at = 0
    while at < len(content) and content[at]:
        length = _RECORD.match(content, at)
        record = content[at : at + int(length[1])] if length else b""
        if length is None or len(record) < int(length[1]) or not record.endswith(b"\n"):
            raise _damaged("an extended header that is not valid")
        key, _, value = record[len(length[0]) : -1].partition(b"=")
        yield key, value
        at += len(record)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _damaged(reason: str) -> ItemFault:
    return ItemFault(FailureCause.DAMAGED_TAR, f"tar is damaged from here on: {reason}")
