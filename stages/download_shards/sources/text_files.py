"""Text files of strangers: their encoding, their lines, and where a byte is that is not of the encoding."""

import codecs
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TextIO

from stages.contract.parsing import Unreadable
from stages.storage.filesystems import is_remote, open_address
from stages.storage.tars import compression_of

MAX_LINE = 16_000_000  # characters
#: Marks at the start of a file, the longer first: UTF-32's begins as UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
MARK = "\ufeff"
_HEAD = 10  # bytes that tell what a file is
_BZIP2 = b"1AY&SY"  # after BZh and the size of the blocks


@contextlib.contextmanager
def open_binary(file: str) -> Iterator[IO[bytes]]:
    """Open a file here or at a remote address."""
    if is_remote(file):
        fs, path = open_address(file)
        with fs.open(path, "rb") as stream:
            yield stream
    else:
        with Path(file).open("rb") as stream:
            yield stream


@contextlib.contextmanager
def open_text(file: str, encoding: str, *, keep_undecoded: bool = False) -> Iterator[TextIO]:
    """Open a text; a mark at its start says more than the configured encoding, and is no part of it.

    ``keep_undecoded`` leaves what cannot be decoded as lone surrogates, for readers that count such lines.

    Raises:
        Unreadable: the file is compressed, or holds bytes that are none of the encoding.
    """
    with open_binary(file) as stream:
        head = stream.read(_HEAD)
        stream.seek(0)
        if (compression := _compression_of(head)) is not None:
            raise Unreadable(
                f"it is compressed by {compression}", "unpack it (gunzip, bunzip2, unxz, zstd -d, unzip, …)"
            )
        found = next((name for mark, name in _MARKS if head.startswith(mark)), encoding)
        errors = "surrogateescape" if keep_undecoded else "strict"
        text = io.TextIOWrapper(stream, encoding=found, newline="", errors=errors)
        try:
            yield text
        except UnicodeDecodeError as error:
            remedy = "save the file as UTF-8, or set download_shards.source.encoding to what it is (latin-1, cp1252, …)"
            raise Unreadable(f"{_position(file, found, error)} is not {found}", remedy) from error
        finally:
            text.detach()


def _compression_of(head: bytes) -> str | None:
    """Return how a file is compressed by whose first bytes no text begins: a text may begin with BZh."""
    found = compression_of(head)
    return None if found == "bzip2" and not head.startswith(_BZIP2, 4) else found


def decode_text(content: bytes, encoding: str) -> str:
    """Return a short text; ValueError: it is not of the encoding, or holds what no text does."""
    found = next((name for mark, name in _MARKS if content.startswith(mark)), encoding)
    text = content.decode(found).lstrip(MARK)
    if "\0" in text:
        raise ValueError("the text holds a NUL")
    return text


def read_lines(text: TextIO) -> Iterator[str]:
    """Yield the lines with their ends, whichever of the three these are; a mark at the start of a line is left out."""
    number = 0
    while line := text.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise Unreadable(f"line {number} has more than {MAX_LINE:,} characters")
        yield line.lstrip(MARK)


def _position(file: str, encoding: str, error: UnicodeDecodeError) -> str:
    """Return where the first byte is that cannot be decoded, by line where lines can be found undecoded."""
    if encoding.startswith(("utf-16", "utf-32")):
        return "some of it"
    with open_binary(file) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode(encoding)
            except UnicodeDecodeError as found:
                return f"line {number}, byte {found.start + 1} (0x{line[found.start]:02x})"
    return f"byte 0x{error.object[error.start]:02x}"
