"""What every kind of source does: check itself, divide itself into shards, and read the entries of a shard."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from stages.contract.errors import ItemFault


@dataclass(frozen=True)
class Entry:
    """One entry of a shard's part of the source."""

    index: int
    """Its index in the part."""
    row: dict[str, Any]
    """Columns (caption,) (captions,) url and others of the source's own."""
    content: bytes | ItemFault
    """The encoded image, or why there is none."""


Entries = tuple[pa.Schema, Iterator[Entry]]
"""The schema of the rows, and the entries in any order, read as they are asked for."""


class Source(Protocol):
    """A source of images; the driver and every worker make their own of the stage's config."""

    def check(self) -> None:
        """Check that the source can be read, by names and headers alone, or raise InputFault."""
        ...

    def parts(self) -> AbstractContextManager[Sequence[Any]]:
        """Return one part for each shard, to be pickled and read while the context is open; or raise InputFault."""
        ...

    def read(self, part: Any) -> Entries:
        """Return the entries of one part; called by a worker."""
        ...
