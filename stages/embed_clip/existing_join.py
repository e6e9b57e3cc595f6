"""Which row of existing embeddings is which image's: by a key that is one row's and one image's alone.

Webdatasets often number their samples anew in each tar, and whoever embeds them keeps the bare numbers. Such a key says
nothing: it is ambiguous, and joins nothing, whichever side repeats it.

A layout of some tars may also meet the shards of others that count alike: each key is then one row's and one image's,
and these are not the same. Captions show it, where both sides have them.
"""

import collections
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from stages.contract.errors import FailureCause, InputFault
from stages.contract.parsing import shown
from stages.embed_clip.config import ExistingEmbeddings
from stages.embed_clip.existing_files import ImportedShard, Part, read_metadata, read_part
from stages.formats.samples import unnumbered
from stages.formats.shards import index_images, read_table, shard_tar
from stages.storage.artifact import Artifact

_MOST_OTHER = 0.9  # of the images whose caption is another in the layout than in the shards
_SEVERAL = ""  # in place of the one sample that a key of the layout belongs to
_Row = tuple[int, int]  # the number of the part, and the row in it


@dataclass(frozen=True)
class _Keys:
    """The keys of a layout."""

    rows: Mapping[str, _Row]
    """The first row of each."""
    repeats: Mapping[str, Sequence[_Row]]
    """All rows of those that stand there more than once."""
    captions: Sequence[Int[np.ndarray, " rows"]]
    """Hashes of the captions of each part's rows, 0 where there is none."""


def join(
    existing: ExistingEmbeddings, parts: Sequence[Part], shards: Artifact
) -> tuple[list[ImportedShard], Mapping[str, int]]:
    """Look up each shard's images among all keys of the layout, which are held in memory (some 350 bytes each).

    Returns the shards to make, and counts for the summary: rows whose key an earlier one has, and keys whose embeddings
    are no image's.

    Raises InputFault where all keys that images have in the layout are ambiguous, or nearly all captions are others.
    """
    keys = _read_all_keys(existing, parts)
    ambiguous = _ambiguous_keys(existing, parts, keys, shards)
    used: set[_Row] = set()
    joined = []
    found = _Compared()
    for name in sorted(shards.done_units()):
        shard, rows = _join_shard(shards, name, parts, keys.rows, ambiguous)
        found.compare(shards, name, dict(zip(shard.keys, rows, strict=True)), keys)
        used.update(rows)
        joined.append(shard)
    num_ambiguous = sum(shard.lost[FailureCause.AMBIGUOUS_KEY] for shard in joined)
    if num_ambiguous and not used:
        _refuse_ambiguous(existing, ambiguous, num_ambiguous)
    if existing.same_captions and found.num_other > _MOST_OTHER * found.num_captions:
        _refuse_other_captions(found)
    counts = {
        "other_captions": found.num_other,
        "repeated_keys": sum(len(rows) - 1 for rows in keys.repeats.values()),
        "embeddings_without_image": len(keys.rows) - len(used),
    }
    return joined, counts


def _read_all_keys(existing: ExistingEmbeddings, parts: Sequence[Part]) -> _Keys:
    rows: dict[str, _Row] = {}
    repeats: dict[str, list[_Row]] = {}
    captions = []
    for number, part in enumerate(parts):
        metadata = read_metadata(existing, part)
        captions.append(np.array([_caption_hash(caption or "") for caption in metadata.captions], dtype=np.int64))
        for row, key in enumerate(metadata.keys):
            if (first := rows.setdefault(key, (number, row))) != (number, row):
                repeats.setdefault(key, [first]).append((number, row))
    return _Keys(rows, repeats, captions)


def _caption_hash(caption: str) -> int:
    words = " ".join(caption.split())
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=7).digest(), "big") if words else 0


@dataclass
class _Compared:
    """How many joined images have captions on both sides, how many of these are others, and the first such image."""

    num_captions: int = 0
    num_other: int = 0
    example: tuple[str, str] = "", ""
    """Its key and its caption in the shards."""

    def compare(self, shards: Artifact, name: str, row_of: Mapping[str, _Row], keys: _Keys) -> None:
        """Look at the joined images of a shard, whose rows are given by their keys."""
        for key, captions in _captions(shards, name).items():
            number, row = row_of.get(key, (-1, 0))
            known = int(keys.captions[number][row]) if number >= 0 else 0
            if known and captions:
                self.num_captions += 1
                if known not in map(_caption_hash, captions):
                    self.example = self.example if self.num_other else (key, captions[0])
                    self.num_other += 1


def _ambiguous_keys(existing: ExistingEmbeddings, parts: Sequence[Part], keys: _Keys, shards: Artifact) -> set[str]:
    """Return the keys that are several rows' which differ, or several images'."""
    owners: dict[str, str] = {}
    for name in sorted(shards.done_units()):
        for key, names in _names(shards, name).items():
            own = unnumbered(key)  # samples of one name are one image, found twice
            for one in names:
                if one in keys.rows and owners.setdefault(one, own) != own:
                    owners[one] = _SEVERAL
    of_several_images = {name for name, owner in owners.items() if owner == _SEVERAL}
    repeats = {key: rows for key, rows in keys.repeats.items() if owners.get(key, _SEVERAL) != _SEVERAL}
    return of_several_images | _differing(existing, parts, repeats)


def _differing(existing: ExistingEmbeddings, parts: Sequence[Part], repeats: Mapping[str, Sequence[_Row]]) -> set[str]:
    """Return the keys whose rows are not equal in embeddings and caption; one part at a time is in memory."""
    rows_of: dict[int, list[tuple[int, str]]] = collections.defaultdict(list)
    for key, rows in repeats.items():
        for number, row in rows:
            rows_of[number].append((row, key))
    contents: dict[str, bytes] = {}
    differing = set()
    for number in sorted(rows_of):
        found = read_part(existing, parts[number])
        for row, key in rows_of[number]:
            whole = found.image[row].tobytes() + found.text[row].tobytes() + repr(found.captions[row]).encode()
            content = hashlib.blake2b(whole, digest_size=16).digest()
            if contents.setdefault(key, content) != content:
                differing.add(key)
    return differing


def _join_shard(
    shards: Artifact, name: str, parts: Sequence[Part], row_of: Mapping[str, _Row], ambiguous: set[str]
) -> tuple[ImportedShard, list[_Row]]:
    """Return a shard to make, and the rows of the layout that it takes."""
    names_of = _names(shards, name)
    found: list[tuple[str, _Row]] = []
    lost = {FailureCause.NO_EMBEDDING: 0, FailureCause.AMBIGUOUS_KEY: 0}
    for key in index_images(shard_tar(shards, name)):
        known = [one for one in names_of[key] if one in row_of]
        if (clear := next((one for one in known if one not in ambiguous), None)) is not None:
            found.append((key, row_of[clear]))
        else:
            lost[FailureCause.AMBIGUOUS_KEY if known else FailureCause.NO_EMBEDDING] += 1
    numbers = sorted({number for _, (number, _) in found})
    index_of = {number: index for index, number in enumerate(numbers)}
    shard = ImportedShard(
        name,
        tuple(parts[number] for number in numbers),
        tuple((index_of[number], row) for _, (number, row) in found),
        tuple(key for key, _ in found),
        lost,
    )
    return shard, [row for _, row in found]


def _names(shards: Artifact, name: str) -> dict[str, list[str]]:
    """Return what each sample of a shard may be called elsewhere: by the key it had there, by its own, by address."""
    table: pa.Table = read_table(shards, name, ["key", "source_key", "url"])
    columns = [column for column in ("source_key", "key", "url") if column in table.column_names]
    rows = table.select(columns).to_pylist()
    return {row["key"]: [str(row[column]) for column in columns if row[column]] for row in rows}


def _captions(shards: Artifact, name: str) -> dict[str, list[str]]:
    """Return all captions of each sample of a shard."""
    table: pa.Table = read_table(shards, name, ["key", "caption", "captions"])
    rows = table.select([one for one in ("key", "caption", "captions") if one in table.column_names]).to_pylist()
    return {row["key"]: [one for one in (row.get("caption"), *(row.get("captions") or ())) if one] for row in rows}


def _refuse_ambiguous(existing: ExistingEmbeddings, ambiguous: set[str], num_images: int) -> None:
    column = "the column of keys" if existing.key_column is None else f"column {shown(existing.key_column, 40)!r}"
    raise InputFault(
        f"embed_clip.existing.key_column: no image can be joined: {num_images:,} images have a key in {column} of the "
        f"metadata, and each is that of several images or of several rows that differ ({shown(min(ambiguous), 60)!r}, "
        "as in datasets that count keys anew in each tar): expected keys that are one image's alone: set key_column to "
        "such a column (of addresses, where the shards have them), or give all tars keys of their own"
    )


def _refuse_other_captions(found: _Compared) -> None:
    key, caption = found.example
    raise InputFault(
        f"embed_clip.existing: {found.num_other:,} of {found.num_captions:,} joined images have another caption in the "
        f"metadata than in the shards (sample {key}: {shown(caption, 60)!r} in the shards): expected embeddings of "
        "these images: keys that are numbers of a tar join those of any other: give the embeddings of these shards, "
        "set key_column to a column of addresses, or same_captions: false where the captions were changed since"
    )
