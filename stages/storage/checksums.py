"""Checksums of files: XXH3 with 128 bits of each block, so that a part of a huge file can be compared by itself.

They find what disks, networks and kills do to files, not what somebody does who means to deceive. SHA-256, by which
models and sources are known, is ten times as slow.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from stages.storage.names import is_file_name

BLOCK = 64 << 20  # bytes
SAMPLED_BLOCKS = 16  # of a larger file than these, so many are compared at the first reading
_PIECE = 1 << 20  # bytes read at once, which stay in the processor's cache
_SEAL = "seal"


@dataclass(frozen=True)
class FileSum:
    """What a file is known by: its size, and the checksum of each block of it."""

    size: int
    blocks: tuple[str, ...]
    block: int = BLOCK
    """Bytes of each but the last."""

    @classmethod
    def of(cls, path: Path, block: int = BLOCK) -> "FileSum":
        """Read a file of this machine."""
        size = path.stat().st_size
        return cls(size, tuple(_block_sums(path, range(_num_blocks(size, block)), block)), block)

    @classmethod
    def of_bytes(cls, content: bytes, block: int = BLOCK) -> "FileSum":
        """Return the checksum of a file with this content."""
        view = memoryview(content)
        starts = range(0, max(len(content), 1), block)
        return cls(len(content), tuple(xxhash.xxh3_128_hexdigest(view[at : at + block]) for at in starts), block)

    @classmethod
    def parse(cls, text: str) -> "FileSum":
        """Return what :meth:`__str__` wrote."""
        size, *blocks = text.split()
        if len(blocks) != _num_blocks(int(size), BLOCK):
            raise ValueError(f"{len(blocks)} checksums of {size} bytes")
        return cls(int(size), tuple(blocks))

    def __str__(self) -> str:
        """Return size and checksums, as they are recorded."""
        return " ".join([str(self.size), *self.blocks])

    def difference(self, path: Path, *, may_sample: bool) -> str | None:
        """Return how a file of this machine differs, in words; None: it does not.

        Of a file of more than :data:`SAMPLED_BLOCKS` blocks, where that may be, so many are compared: the first, the
        last, and others by chance.
        """
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return "no file"
        if size != self.size:
            return f"{size} bytes"
        numbers: Sequence[int] = range(len(self.blocks))
        if may_sample and len(numbers) > SAMPLED_BLOCKS:
            inner = random.sample(numbers[1:-1], SAMPLED_BLOCKS - 2)
            numbers = [numbers[0], *sorted(inner), numbers[-1]]
        return self._differing(zip(numbers, _block_sums(path, numbers, self.block), strict=True))

    def difference_of_bytes(self, content: bytes) -> str | None:
        """Return how the content of a file differs, in words; None: it does not."""
        return self.difference_of_parts(len(content), lambda start, end: content[start:end])

    def difference_of_parts(self, size: int, read: Callable[[int, int], bytes]) -> str | None:
        """Return how a file of this size differs, of which ``read`` returns the bytes from start to end."""
        if size != self.size:
            return f"{size} bytes"
        starts = range(0, max(size, 1), self.block)
        parts = (read(start, min(start + self.block, size)) if size else b"" for start in starts)
        return self._differing(enumerate(map(xxhash.xxh3_128_hexdigest, parts)))

    def _differing(self, found: Iterator[tuple[int, str]]) -> str | None:
        for number, checksum in found:
            if checksum != self.blocks[number]:
                return "other bytes" + (f" from {number * self.block} on" if len(self.blocks) > 1 else "")
        return None


def _num_blocks(size: int, block: int) -> int:
    return max(1, -(-size // block))


def _block_sums(path: Path, numbers: Sequence[int], block: int) -> Iterator[str]:
    buffer = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        for number in numbers:
            file.seek(number * block)
            digest, left = xxhash.xxh3_128(), block
            while left and (count := file.readinto(buffer[: min(left, _PIECE)])):
                digest.update(buffer[:count])
                left -= count
            yield digest.hexdigest()


# ---- records, which hold the checksums of files, and their own


def to_json(content: Any) -> bytes:
    """Return JSON with sorted keys, so that equal content is equal bytes."""
    return (json.dumps(content, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def sealed(record: Mapping[str, Any], files: Mapping[str, FileSum]) -> dict[str, Any]:
    """Return a record with the checksums of its files, and its own."""
    seal: dict[str, Any] = {"files": {name: str(files[name]) for name in sorted(files)}} if files else {}
    content: dict[str, Any] = {**json.loads(json.dumps(record)), _SEAL: seal}  # as it will be read
    return content | {_SEAL: seal | {"xxh3": _own_sum(content)}}


def unsealed(content: Any) -> tuple[Any, dict[str, FileSum] | None]:
    """Return a record as it was before it was sealed, and its files; None: an earlier version wrote it, without.

    Raises:
        ValueError: it is not what was written, or names files elsewhere: whoever makes a record can make its checksum.
    """
    if not isinstance(content, dict) or _SEAL not in content:
        return content, None
    seal = dict(content[_SEAL])
    own = seal.pop("xxh3", None)
    if own != _own_sum(content | {_SEAL: seal}):
        raise ValueError("its own checksum is another")
    record = {name: value for name, value in content.items() if name != _SEAL}
    files = {name: FileSum.parse(text) for name, text in seal.get("files", {}).items()}
    if others := [name for name in files if not is_file_name(name)]:
        raise ValueError(f"{others[0]!r} is no name of a file in the artifact")
    return record, files


def _own_sum(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())
