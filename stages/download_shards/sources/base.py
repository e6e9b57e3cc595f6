"""What every kind of source does: check itself, divide itself into shards, and read the entries of a shard."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from stages.contract.errors import FailureCause, ItemFault
from stages.download_shards.growth import Digests
from stages.formats.attributions import Attributions
from stages.formats.source_records import SourceRecord


@dataclass(frozen=True)
class Entry:
    """One entry of a shard's part of the source."""

    index: int
    """Its index in the part."""
    row: dict[str, Any]
    """Columns (caption,) (captions,) url and others of the source's own."""
    content: bytes | ItemFault
    """The encoded image, or why there is none."""
    name: str | None = None
    """What the sample is called where it comes from; none: its url (see :mod:`stages.formats.samples`)."""


@dataclass(frozen=True)
class Skipped:
    """An entry that was not to be an image: it has no row, and is counted by cause with the first one's name."""

    cause: FailureCause
    name: str
    kind: str = ""
    """What it is, where that is worth counting: the suffix of a file's name."""


@dataclass(frozen=True)
class Entries:
    """What one part of a source holds."""

    schema: pa.Schema
    """Of the rows."""
    each: Iterator[Entry | Skipped]
    """In any order, read as they are asked for."""
    count: Callable[[], int]
    """How many there are, counted otherwise than by handing them out; called after the last one."""


@dataclass(frozen=True)
class Growth:
    """The entries of a source one by one."""

    digests: Digests
    """Of each entry, in the order of the source (:mod:`stages.download_shards.growth`)."""
    part: Callable[[Sequence[int]], Any]
    """Makes the part that holds the entries of these numbers, in their order."""
    rows_per_shard: int
    earlier_digests: Callable[[], Sequence[Digests]] = tuple
    """Makes the digests that earlier versions made of each entry, in the same order; none: they were the same."""


@dataclass(frozen=True)
class Parts:
    """A source divided into shards."""

    parts: Sequence[Any]
    """One for each shard, to be pickled and read while the context of :meth:`Source.parts` is open."""
    record: SourceRecord = field(default_factory=SourceRecord)
    """What was found and skipped while it was divided."""
    attributions: Attributions = field(default_factory=Attributions)
    """Whose works these are, where the source knows."""
    growth: Growth | None = None
    """How it can be divided otherwise; None: entries of another time cannot be found again in it."""


class Source(Protocol):
    """A source of images; the driver and every worker make their own of the stage's config."""

    def check(self) -> None:
        """Check that the source can be read, by names and headers alone, or raise InputFault."""
        ...

    def parts(self) -> AbstractContextManager[Parts]:
        """Return one part for each shard; or raise InputFault."""
        ...

    def read(self, part: Any) -> Entries:
        """Return the entries of one part; called by a worker."""
        ...
