"""The pieces that a shard is made of: entries read from the source, or rows of shards of an earlier artifact.

A row of an earlier shard is taken with its image as it is: nothing is read from the source, whose address may have
died, and no image is decoded.
"""

import collections
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from stages.contract.errors import ArtifactError
from stages.download_shards.sources.column_types import join
from stages.formats.samples import renumbered
from stages.formats.shards import ShardEntry, failure_label, read_entries, shard_content
from stages.formats.source_records import Counted, add_up
from stages.storage.artifact import Artifact

MEASURED = pa.schema(
    [
        ("key", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
    ]
)
"""Columns that are known once an image is made, behind those of the source."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskPiece:
    """Some entries of a shard, and where their rows are at hand."""

    part: Any
    """One of the parts of :meth:`stages.download_shards.sources.base.Source.parts`, or of the source's growth."""
    base: tuple[Artifact, str] | None = None
    """The earlier artifact's shard that holds all of these entries; None: they are read from the source."""
    rows: tuple[int, ...] | None = None
    """Which rows of that shard; None: all."""


@dataclass(frozen=True)
class Piece:
    """Entries of a shard, made or taken."""

    entries: Sequence[ShardEntry]
    schema: pa.Schema
    """Of their rows."""
    failures: Mapping[str, int]
    skips: Mapping[str, Counted] = field(default_factory=dict)
    is_taken: bool = False
    part_of: str = ""
    """The content of the one earlier shard that holds all of them (:attr:`ShardRecord.part_of`)."""


def take_rows(piece: TaskPiece, name: str) -> Piece | None:
    """Return some rows of an earlier shard.

    None: the piece has none there; or that shard is damaged, with a warning, and the piece is to be read from the
    source.
    """
    if piece.base is None:
        return None
    artifact, unit = piece.base
    try:
        entries, schema = read_entries(artifact, unit)
        content = shard_content(artifact, unit)
    except ArtifactError as error:
        warn_of_damage(error, name)
        return None
    kept = entries if piece.rows is None else [entries[row] for row in piece.rows]
    lost = collections.Counter(failure_label(one.row) for one in kept if one.image is None)
    return Piece(kept, schema, lost, is_taken=True, part_of=content or "")


def warn_of_damage(error: ArtifactError, name: str) -> None:
    """Say that a shard, or its piece, is not taken from an earlier one, and why."""
    _log.warning("%s: shard %s is made again", str(error).partition(": expected")[0], name)


def join_pieces(pieces: Sequence[Piece]) -> Piece:
    """Return the entries of all pieces as one: in its columns all values fit, and no two of its keys are equal."""
    if len(pieces) == 1:
        return pieces[0]
    joined = join([pa.Table.from_pylist([one.row for one in piece.entries], schema=piece.schema) for piece in pieces])
    own = [name for name in joined.column_names if name not in MEASURED.names]
    joined = joined.select([*own, *MEASURED.names])
    entries = [one for piece in pieces for one in piece.entries]
    keys = renumbered(one.key for one in entries)
    return Piece(
        [
            replace(one, key=key, row={**row, "key": key})
            for one, key, row in zip(entries, keys, joined.to_pylist(), strict=True)
        ],
        joined.schema,
        sum((collections.Counter(piece.failures) for piece in pieces), collections.Counter[str]()),
        add_up(piece.skips for piece in pieces),
        is_taken=all(piece.is_taken for piece in pieces),
    )
