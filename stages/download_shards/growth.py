"""How a source that has changed is divided into shards: as before where its entries are the same.

An entry is known by a digest of all that it says and, where the file is at hand, of its image's content. The shards of
an earlier artifact keep the entries that are still there; those without any lost entry are taken as they are, the
others are made again from what they hold. New and changed entries make new shards. So the division is a function of
the entries and of the artifact that it begins with, whose fingerprint is a part of the new one's.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from stages.contract.documents import Document
from stages.formats.per_shard import array_name, open_array, save_array
from stages.formats.shards import EntryStatus, ShardRecord, read_table
from stages.storage.artifact import Artifact, Output

KIND = "entries"
"""The files that hold the digests of a shard's entries, in the order of its rows."""
DIGEST_BYTES = 16
MOST_SMALL_SHARDS = 8
"""Shards less than half full that are kept; more are put together anew."""
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
    """Made again from what the earlier ones hold, without the entries that are gone."""
    new_shards: int
    new_entries: int
    lost_entries: int
    """Of the earlier artifact, that the source does not have any more, or not like that."""
    entries: int = 0
    """In all; 0: an earlier version did not record it."""

    @classmethod
    def of_shards(cls, base: str, shards: Sequence["PlannedShard"], earlier: Mapping[str, Digests]) -> "GrowthRecord":
        """Count what becomes of the earlier artifact's shards."""
        kept = sum(len(shard.entries) for shard in shards if shard.base is not None)
        return cls(
            grown_from=base,
            reused_shards=sum(shard.is_whole for shard in shards),
            remade_shards=sum(shard.base is not None and not shard.is_whole for shard in shards),
            new_shards=sum(shard.base is None for shard in shards),
            new_entries=sum(len(shard.entries) for shard in shards) - kept,
            lost_entries=sum(map(len, earlier.values())) - kept,
            entries=sum(len(shard.entries) for shard in shards),
        )

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
class PlannedShard:
    """A shard to be made."""

    entries: tuple[int, ...]
    """The numbers of its entries in the source, in the order of its rows."""
    base: str | None = None
    """The shard of the earlier artifact that holds all of them; None: there is none."""
    rows: tuple[int, ...] | None = None
    """Which rows of that shard; None: all."""

    @property
    def is_whole(self) -> bool:
        """Whether it is the earlier shard, as it is."""
        return self.base is not None and self.rows is None


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
) -> tuple[list[PlannedShard], GrowthRecord]:
    """Return the shards of a source that begins with an earlier artifact, and what is taken from there.

    ``drops_repeats`` says that of several images with the same bytes one was kept, ``earlier_digests`` what digests
    earlier versions made of the same entries.
    """
    earlier = as_of_now(read_digests(base, sorted(ShardRecord.done(base))), digests, earlier_digests)
    shards = divide(digests, earlier, rows_per_shard, read_repeats(base, earlier) if drops_repeats else ())
    return shards, GrowthRecord.of_shards(base.fingerprint, shards, earlier)


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
    digests: Digests, earlier: Mapping[str, Digests], rows_per_shard: int, repeats: Sequence[Repeat] = ()
) -> list[PlannedShard]:
    """Return the shards of a source whose entries have these digests: those that were there first, then new ones.

    A copy of an image is taken over without the image, as it was dropped, where its original is taken over too. Where
    that is gone, or comes in a new shard, the copy is made anew: then the first of all in the new order is kept, as it
    would be if the same shards were made from nothing.
    """
    known = dict(earlier)
    while True:
        shards = _divide(digests, known, rows_per_shard)
        kept = {digests[number].item() for shard in shards if shard.base is not None for number in shard.entries}
        stale = {repeat for repeat, original in repeats if repeat in kept and original not in kept}
        if not stale:
            return shards
        known = {name: _without(base, stale) for name, base in known.items()}


def _without(base: Digests, stale: Collection[bytes]) -> Digests:
    """Return a shard's digests, of which some are no entry's any more."""
    return np.array([_NO_ENTRY if one in stale else one for one in base.tolist()], dtype=base.dtype)


def _divide(digests: Digests, earlier: Mapping[str, Digests], rows_per_shard: int) -> list[PlannedShard]:
    left = {digest: number for number, digest in enumerate(digests.tolist())}
    shards: list[PlannedShard] = []
    for name, base in earlier.items():
        rows = [row for row, digest in enumerate(base.tolist()) if digest in left]
        entries = tuple(left.pop(base[row].item()) for row in rows)
        if entries:
            shards.append(PlannedShard(entries, name, None if len(rows) == len(base) else tuple(rows)))
    small = [shard for shard in shards if 2 * len(shard.entries) < rows_per_shard]
    if len(small) > MOST_SMALL_SHARDS:
        shards = [shard for shard in shards if 2 * len(shard.entries) >= rows_per_shard]
        left |= {digests[number].item(): number for shard in small for number in shard.entries}
    rest = sorted(left.values())
    new = [tuple(rest[first : first + rows_per_shard]) for first in range(0, len(rest), rows_per_shard)]
    return [*shards, *(PlannedShard(entries) for entries in new)]
