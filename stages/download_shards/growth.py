"""How a source that has changed is divided into shards: as before where its entries are the same.

An entry is known by a digest of all that it says and, where the file is at hand, of its image's content. The shards of
an earlier artifact keep the entries that are still there; those without any lost entry are taken as they are, the
others are made again from what they hold, and so are many small ones together. New and changed entries make new shards.
So the division is a function of the entries and of the artifact that it begins with, whose fingerprint is a part of the
new one's.
"""

import contextlib
import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stages.contract.documents import Document
from stages.contract.errors import ArtifactError
from stages.formats.per_shard import array_name, open_array, save_array
from stages.formats.shards import EntryStatus, ShardRecord, read_table
from stages.storage.artifact import Artifact, Output

KIND = "entries"
"""The files that hold the digests of a shard's entries, in the order of its rows."""
DIGEST_BYTES = 16
MOST_SMALL_SHARDS = 8
"""Shards less than half full that are kept; the rows of more are put together."""
MOST_ENTRIES = 10_000_000
"""Of a larger source no digests are made: some 150 bytes of the driver's memory each."""
_NO_ENTRY = bytes(DIGEST_BYTES)
Digests = np.ndarray[tuple[int], np.dtype[Any]]
"""Bytes of :data:`DIGEST_BYTES` each; of equal entries the second and further ones have others of their own."""
Repeat = tuple[bytes, bytes]
"""The digest of an entry whose image was dropped, and that of the entry whose image has the same bytes."""


class GrowthRecord(Document):
    """What an artifact has taken from the one that it begins with."""

    file: ClassVar[str] = "growth.json"

    grown_from: str
    reused_shards: int
    """Taken as they are."""
    remade_shards: int
    """Made again from what the earlier ones hold: without the entries that are gone, or of several small ones."""
    new_shards: int
    new_entries: int
    lost_entries: int
    """Of the earlier artifact, that the source does not have any more, or not like that."""
    entries: int = 0
    """In all; 0: an earlier version did not record it."""

    @classmethod
    def of_shards(cls, base: str, shards: Sequence["PlannedShard"], earlier: Mapping[str, Digests]) -> "GrowthRecord":
        """Count what becomes of the earlier artifact's shards."""
        kept = sum(len(shard.entries) for shard in shards if not shard.is_new)
        return cls(
            grown_from=base,
            reused_shards=sum(shard.is_whole for shard in shards),
            remade_shards=sum(not shard.is_new and not shard.is_whole for shard in shards),
            new_shards=sum(shard.is_new for shard in shards),
            new_entries=sum(len(shard.entries) for shard in shards) - kept,
            lost_entries=sum(map(len, earlier.values())) - kept,
            entries=sum(len(shard.entries) for shard in shards),
        )

    @classmethod
    def find(cls, artifact: Artifact) -> "GrowthRecord | None":
        """Return an artifact's record; None: it has taken nothing, or the record is damaged."""
        with contextlib.suppress(ArtifactError):
            return cls.of(artifact) if artifact.exists(cls.file) else None
        return None

    @property
    def kept_entries(self) -> int:
        """How many entries are the earlier artifact's."""
        return max(0, self.entries - self.new_entries)

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return self.reused_shards + self.remade_shards + self.new_shards

    def describe(self, run: str) -> str:
        """Return what is taken from a run's shards and what is made, and why, in words."""
        made = [f"{self.reused_shards:,} of {self.num_shards:,} shards reused from {run}"]
        made += [f"{self.remade_shards:,} made again without fetching"] if self.remade_shards else []
        made += [f"{self.new_shards:,} new"]
        why = [f"{self.new_entries:,} entries are new or changed"] if self.new_entries else []
        why += [f"{self.lost_entries:,} are gone or changed"] if self.lost_entries else []
        return f"{', '.join(made)}, because {' and '.join(why) or 'the entries are the same in another source'}"


@dataclass(frozen=True)
class KeptRows:
    """Rows of a shard of the earlier artifact whose entries are still there."""

    base: str
    """The shard's name."""
    entries: tuple[int, ...]
    """The numbers of their entries in the source."""
    rows: tuple[int, ...] | None = None
    """Which rows of that shard; None: all."""

    def cut(self, count: int) -> "tuple[KeptRows, KeptRows | None]":
        """Return the first rows, so many, and the others, if any."""
        if len(self.entries) <= count:
            return self, None
        rows = tuple(range(len(self.entries))) if self.rows is None else self.rows
        first, others = KeptRows(self.base, self.entries[:count], rows[:count]), rows[count:]
        return first, KeptRows(self.base, self.entries[count:], others)


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be made."""

    entries: tuple[int, ...]
    """The numbers of its entries in the source, in the order of its rows."""
    kept: tuple[KeptRows, ...] = ()
    """Which rows of the earlier artifact hold these, in their order; none: it is new."""

    @classmethod
    def of(cls, *kept: KeptRows) -> "PlannedShard":
        """Return the shard of these rows."""
        return cls(tuple(entry for one in kept for entry in one.entries), kept)

    @property
    def is_new(self) -> bool:
        """Whether its entries are new or changed."""
        return not self.kept

    @property
    def is_whole(self) -> bool:
        """Whether it is an earlier shard, as it is."""
        return len(self.kept) == 1 and self.kept[0].rows is None


def as_digests(each: Iterable[bytes]) -> Digests:
    """Return digests as an array, of which no two are equal."""
    seen: dict[bytes, int] = {}
    unique = []
    for digest in each:
        number = seen.get(digest, 0)
        seen[digest] = number + 1
        unique.append(digest if not number else _numbered(digest, number))
    return np.array(unique, dtype=f"V{DIGEST_BYTES}")


def _numbered(digest: bytes, number: int) -> bytes:
    return hashlib.blake2b(digest + str(number).encode(), digest_size=DIGEST_BYTES).digest()


def write_digests(output: Output, name: str, digests: Digests) -> None:
    """Write the digests of a shard's entries."""
    save_array(output, KIND, name, np.frombuffer(digests.tobytes(), dtype=np.uint8).reshape(-1, DIGEST_BYTES))


def read_digests(artifact: Artifact, names: Iterable[str]) -> dict[str, Digests]:
    """Return the digests of the entries of shards; those without any are left out."""
    found = {}
    for name in names:
        if artifact.exists(array_name(KIND, name)):
            content = np.asarray(open_array(artifact, KIND, name), dtype=np.uint8)
            found[name] = np.frombuffer(content.tobytes(), dtype=f"V{DIGEST_BYTES}")
    return found


def read_repeats(artifact: Artifact, earlier: Mapping[str, Digests]) -> list[Repeat]:
    """Return what was dropped from an artifact as a copy of what it keeps."""
    repeats = list(_images(artifact, earlier, are_repeats=True))
    wanted = {content for content, _ in repeats}
    originals = {
        content: entry for content, entry in _images(artifact, earlier, are_repeats=False) if content in wanted
    }
    return [(entry, originals[content]) for content, entry in repeats if content in originals]


def _images(artifact: Artifact, earlier: Mapping[str, Digests], *, are_repeats: bool) -> Iterator[tuple[str, bytes]]:
    """Yield content and entry of images that were kept, or dropped as repeats."""
    for name, base in earlier.items():
        digests = base.tolist()
        for number, row in enumerate(read_table(artifact, name, ["status", "error_message", "sha256"]).to_pylist()):
            is_kept = row["status"] == EntryStatus.SUCCESS
            if row["sha256"] and is_kept != are_repeats:
                yield row["sha256"], digests[min(number, len(digests) - 1)]  # a tar of a webdataset is one entry


def divide_from(
    base: Artifact,
    digests: Digests,
    rows_per_shard: int,
    *,
    drops_repeats: bool,
    earlier_digests: Callable[[], Sequence[Digests]] = tuple,
    recorded: GrowthRecord | None = None,
) -> tuple[list[PlannedShard], GrowthRecord]:
    """Return the shards of a source that begins with an earlier artifact, and what is taken from there.

    ``drops_repeats`` says that of several images with the same bytes one was kept, ``earlier_digests`` what digests
    earlier versions made of the same entries, ``recorded`` what the artifact that is made has taken when it was begun.
    """
    earlier = as_of_now(read_digests(base, sorted(ShardRecord.done(base))), digests, earlier_digests)
    repeats = read_repeats(base, earlier) if drops_repeats else ()
    shards = divide(digests, earlier, rows_per_shard, repeats)
    record = GrowthRecord.of_shards(base.fingerprint, shards, earlier)
    if recorded is not None and recorded.remade_shards < record.remade_shards:  # begun by an earlier version
        shards = divide(digests, earlier, rows_per_shard, repeats, joins_small=False)
        record = GrowthRecord.of_shards(base.fingerprint, shards, earlier)
    return shards, record


def as_of_now(
    known: Mapping[str, Digests], digests: Digests, earlier_digests: Callable[[], Sequence[Digests]]
) -> dict[str, Digests]:
    """Return the digests of shards, where an earlier version made one of an entry, with that of today in its stead."""
    now = set(digests.tolist())
    there = {one for base in known.values() for one in base.tolist()}
    unknown = there - now
    if not unknown:
        return dict(known)
    today: dict[bytes, bytes] = {}
    taken = there & now
    for form in earlier_digests():
        for old, new in zip(form.tolist(), digests.tolist(), strict=True):
            if old in unknown and old not in today and new not in taken:
                today[old] = new
                taken.add(new)
    return {
        name: np.array([today.get(one, one) for one in base.tolist()], dtype=base.dtype) for name, base in known.items()
    }


def divide(
    digests: Digests,
    earlier: Mapping[str, Digests],
    rows_per_shard: int,
    repeats: Sequence[Repeat] = (),
    *,
    joins_small: bool = True,
) -> list[PlannedShard]:
    """Return the shards of a source whose entries have these digests: those that were there first, then new ones.

    A copy of an image is taken over without the image, as it was dropped, where its original is taken over too and
    still comes before it. Where that is gone, or comes later now, the copy is made anew: then the first of all in the
    new order is kept, as it would be if the same shards were made from nothing. Without ``joins_small``, too many small
    shards are made anew from the source, as earlier versions did.
    """
    known = dict(earlier)
    while True:
        shards = _divide(digests, known, rows_per_shard, joins_small)
        kept = [digests[number].item() for shard in shards if not shard.is_new for number in shard.entries]
        at = {digest: number for number, digest in enumerate(kept)} if repeats else {}
        stale = {one for one, original in repeats if one in at and at.get(original, math.inf) > at[one]}
        if not stale:
            return shards
        known = {name: _without(base, stale) for name, base in known.items()}


def _without(base: Digests, stale: Collection[bytes]) -> Digests:
    """Return a shard's digests, of which some are no entry's any more."""
    return np.array([_NO_ENTRY if one in stale else one for one in base.tolist()], dtype=base.dtype)


def _divide(
    digests: Digests, earlier: Mapping[str, Digests], rows_per_shard: int, joins_small: bool
) -> list[PlannedShard]:
    left = {digest: number for number, digest in enumerate(digests.tolist())}
    kept: list[KeptRows] = []
    for name, base in earlier.items():
        rows = [row for row, digest in enumerate(base.tolist()) if digest in left]
        entries = tuple(left.pop(base[row].item()) for row in rows)
        if entries:
            kept.append(KeptRows(name, entries, None if len(rows) == len(base) else tuple(rows)))
    small = [one for one in kept if 2 * len(one.entries) < rows_per_shard]
    joined: list[PlannedShard] = []
    if len(small) > MOST_SMALL_SHARDS:
        kept = [one for one in kept if 2 * len(one.entries) >= rows_per_shard]
        if joins_small:
            joined = _join(small, rows_per_shard)
        else:
            left |= {digests[number].item(): number for one in small for number in one.entries}
    rest = sorted(left.values())
    new = [tuple(rest[first : first + rows_per_shard]) for first in range(0, len(rest), rows_per_shard)]
    return [*map(PlannedShard.of, kept), *joined, *map(PlannedShard, new)]


def _join(small: Sequence[KeptRows], rows_per_shard: int) -> list[PlannedShard]:
    """Return shards of the rows of several, in their order: full ones, and one of the rest."""
    shards, current, room = list[PlannedShard](), list[KeptRows](), rows_per_shard
    for one in small:
        others: KeptRows | None = one
        while others is not None:
            first, others = others.cut(room)
            current.append(first)
            room -= len(first.entries)
            if room == 0:
                shards.append(PlannedShard.of(*current))
                current, room = [], rows_per_shard
    return [*shards, *([PlannedShard.of(*current)] if current else [])]
