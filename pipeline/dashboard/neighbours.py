"""Search in a run's embeddings: the nearest of a text or an image, near-duplicates, lowest scores, leaks.

Similarities are the mean over the CLIP models of the cosines of their parts, as everywhere in the project.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float, Int

from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import (
    load_captions,
    load_image_rows,
    load_keys,
    load_text_rows,
    shard_rows,
    unit_rows,
)
from stages.formats.splits import SplitConfig, split_numbers
from stages.storage.artifact import Artifact

MOST_BYTES: Final = 1 << 29
"""Of the embeddings that are held for searching; of larger data the first shards are searched."""
MOST_COMPARED: Final = 20_000
"""Rows of which all pairs are compared; of leaks, rows of either side."""
BLOCK: Final = 1024
Units = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class Found:
    """A row, and how near it is."""

    row: int
    score: float


@dataclass(frozen=True)
class Pair:
    """Two rows, and how near they are to one another."""

    first: int
    second: int
    score: float


@dataclass(frozen=True)
class Compared:
    """Pairs that were found, and how many rows of either side were compared."""

    pairs: list[Pair]
    first: int
    second: int


@dataclass(frozen=True)
class EmbeddingIndex:
    """Embeddings of length 1 of the images of some shards, all of them where they fit."""

    embeddings: Artifact
    shards: tuple[str, ...]
    offsets: Int[np.ndarray, " shards+1"]
    keys: tuple[str, ...]
    units: Units
    total: int
    """Rows of all shards."""

    @classmethod
    def read(cls, embeddings: Artifact, most_bytes: int = MOST_BYTES) -> "EmbeddingIndex":
        """Read the first shards that fit; InputFault: they hold numbers that are not finite."""
        rows, dims = shard_rows(embeddings), read_clips(embeddings).block_dims
        room = most_bytes // (4 * sum(dims))
        names: list[str] = []
        parts: list[Units] = []
        keys: list[str] = []
        for name, count in rows.items():
            if names and len(keys) + count > room:
                break
            names.append(name)
            parts.append(unit_rows(load_image_rows(embeddings, name), dims).astype(np.float32))
            keys += load_keys(embeddings, name)
        offsets = np.cumsum([0, *(len(part) for part in parts)])
        units = np.concatenate(parts) if parts else np.zeros((0, sum(dims)), np.float32)
        return cls(embeddings, tuple(names), offsets, tuple(keys), units, sum(rows.values()))

    def position(self, row: int) -> tuple[str, str]:
        """Return shard and key of a row."""
        return self.shards[int(np.searchsorted(self.offsets, row, side="right")) - 1], self.keys[row]

    def row(self, shard: str, key: str) -> int | None:
        """Return the row of a sample; None: it is not among them."""
        if shard not in self.shards:
            return None
        first, end = (int(self.offsets[self.shards.index(shard) + step]) for step in (0, 1))
        return first + self.keys[first:end].index(key) if key in self.keys[first:end] else None

    def nearest(self, query: Float[np.ndarray, " embed"], count: int) -> list[Found]:
        """Return the rows nearest to an embedding, which need not have length 1, the nearest first."""
        dims = read_clips(self.embeddings).block_dims
        scores = self.units @ unit_rows(query[None], dims)[0].astype(np.float32)
        return [Found(int(row), float(scores[row])) for row in _largest(scores, count)]

    def near_duplicates(self, least: float, count: int, *, most: int = MOST_COMPARED) -> Compared:
        """Return the pairs that are at least so near, the nearest first; of more rows the first are compared."""
        rows = np.arange(min(len(self.units), most))
        return Compared(self._pairs(rows, rows, least, count), len(rows), len(rows))

    def leaks(
        self, is_held_out: Bool[np.ndarray, " rows"], least: float, count: int, *, most: int = MOST_COMPARED
    ) -> Compared:
        """Return pairs of a held-out row and a row of training that are at least so near, the nearest first.

        Of more rows of a side, the first are compared.
        """
        held_out, trained = (np.flatnonzero(side)[:most] for side in (is_held_out, ~is_held_out))
        return Compared(self._pairs(held_out, trained, least, count), len(held_out), len(trained))

    def held_out(self, split: SplitConfig) -> Bool[np.ndarray, " rows"]:
        """Tell for each row whether the split keeps it from training."""
        return split_numbers(self.keys, split) < split.test + split.validation

    def lowest(self, count: int) -> list[Found]:
        """Return the rows whose first caption is least like their image, by CLIP, the least first."""
        scores = np.concatenate([np.zeros(0), *self._caption_scores()])
        known = np.flatnonzero(np.isfinite(scores))
        return [Found(int(known[at]), float(scores[known[at]])) for at in _largest(-scores[known], count)]

    def captions(self, rows: Sequence[int]) -> dict[int, list[str]]:
        """Return the captions of some rows."""
        by_shard: dict[str, list[int]] = {}
        for row in rows:
            by_shard.setdefault(self.position(row)[0], []).append(row)
        found: dict[int, list[str]] = {}
        for shard, own in by_shard.items():
            first, captions = int(self.offsets[self.shards.index(shard)]), load_captions(self.embeddings, shard)
            found |= {row: captions[row - first] for row in own}
        return found

    def _caption_scores(self) -> Iterator[Float[np.ndarray, " rows"]]:
        dims = read_clips(self.embeddings).block_dims
        for number, shard in enumerate(self.shards):
            text = unit_rows(load_text_rows(self.embeddings, shard), dims)
            yield (text * self.units[self.offsets[number] : self.offsets[number + 1]]).sum(axis=1)

    def _pairs(
        self, first: Int[np.ndarray, " a"], second: Int[np.ndarray, " b"], least: float, count: int
    ) -> list[Pair]:
        found: list[Pair] = []
        others = self.units[second]
        for start in range(0, len(first), BLOCK):
            rows = first[start : start + BLOCK]
            scores = self.units[rows] @ others.T
            scores[rows[:, None] >= second[None] if first is second else np.zeros_like(scores, bool)] = -2.0
            at = np.argwhere(scores >= least)
            values = scores[at[:, 0], at[:, 1]]
            best = _largest(values, count)
            found += [Pair(int(rows[at[i, 0]]), int(second[at[i, 1]]), float(values[i])) for i in best]
            found = sorted(found, key=lambda pair: -pair.score)[:count]
        return found


def split_of_plan(identities: Mapping[str, Mapping[str, Any]]) -> SplitConfig | None:
    """Return the split that the stages of a run keep to; None: none recorded one."""
    from pipeline.splits import split_of

    return next((found for one in identities.values() if (found := split_of(one)) is not None), None)


def _largest(values: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " count"]:
    """Return where the largest values stand, the largest first; of equal ones, the first."""
    if len(values) > 4 * count:
        near = np.argpartition(-values, count)[:count]
        near = np.flatnonzero(values >= values[near].min())
    else:
        near = np.arange(len(values))
    return near[np.argsort(-values[near], kind="stable")][:count]
