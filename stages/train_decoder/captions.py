"""Captions' embeddings by (shard, row), for the images whose captions may be used, and their pseudo-captions'."""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Float, Int

from cluster.rank_link import getting_on
from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, choose_captions
from stages.formats.clips import read_clips, require_one_space
from stages.formats.embeddings.reader import (
    load_captioned_rows,
    load_pseudo_rows,
    load_text_rows,
    usable_caption_rows,
)
from stages.storage.artifact import Artifact

KEPT_SHARDS = 64
TextRows = Float[np.ndarray, "rows embed"]


class CaptionRows:
    """Embeddings of images' first captions and pseudo-captions; NaN where there is none, or it may not be used."""

    def __init__(self, embeddings: Artifact, shards: Sequence[str], captions: CaptionsConfig, *, where: str) -> None:
        """Take the shards' names in their order; nothing is read yet. ``where`` names the option that asks for them."""
        require_one_space(f"train_decoder.{where}", read_clips(embeddings), "train without texts")
        self._embeddings, self._names, self._captions, self._where = embeddings, shards, captions, where
        self._shard = lru_cache(maxsize=KEPT_SHARDS)(self._load)
        self._pseudo = lru_cache(maxsize=KEPT_SHARDS)(
            lambda shard: load_pseudo_rows(embeddings, shards[shard]) if captions.reads_pseudo else {}
        )
        self._rows = lru_cache(maxsize=KEPT_SHARDS)(self._usable)

    def read(self, indices: Int[np.ndarray, "rows 2"]) -> TextRows:
        """Return the embeddings of the human captions at the (shard, row) indices, in their order."""
        return np.stack([self._shard(shard)[row] for shard, row in indices.tolist()])

    def choose(self, indices: Int[np.ndarray, "rows 2"], choice: Float[np.ndarray, " rows"]) -> TextRows:
        """Return the embedding of one caption at each index: that which a number in [0, 1) chooses by the mix."""
        found = self.read(indices)
        pseudo = [self._pseudo(shard).get(row, found[:0]) for shard, row in indices.tolist()]
        human = (~np.isnan(found).any(axis=1)).astype(np.int64)
        count = np.array([len(rows) for rows in pseudo], dtype=np.int64)
        fraction = self._captions.human_fraction
        numbers = choose_captions(choice, human if fraction else human * 0, count, fraction)
        for row, (is_human, number) in enumerate(zip(human * bool(fraction), numbers, strict=True)):
            if is_human + count[row] == 0:
                found[row] = np.nan
            elif number >= is_human:
                found[row] = pseudo[row][number - is_human]
        return found

    def sizes(self) -> list[int]:
        """Return how many images of each shard have a caption that may be used in training."""
        return self._sizes

    @cached_property
    def _sizes(self) -> list[int]:
        sizes = [len(self._rows(shard)) for shard in getting_on(range(len(self._names)))]
        self._require_some(sum(sizes))
        return sizes

    def rows_at(self, indices: Int[np.ndarray, "rows 2"]) -> Int[np.ndarray, "rows 2"]:
        """Return the (shard, row) indices of captioned images that are counted among such images alone."""
        rows = [[shard, self._rows(shard)[number]] for shard, number in indices.tolist()]
        return np.array(rows, dtype=np.int64).reshape(-1, 2)

    def statistics(self) -> tuple[Float[np.ndarray, "embed"], Float[np.ndarray, "embed"]]:
        """Return mean and std of all usable captions, by dimension, in one pass over the files."""
        count, total, squares = 0, 0.0, 0.0
        for name in getting_on(self._names):
            rows = load_captioned_rows(self._embeddings, name, self._captions).text.astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        self._require_some(count)
        mean = np.asarray(total / count)
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))

    def _require_some(self, count: int) -> None:
        if not count:
            raise InputFault(
                f"train_decoder.{self._where}: no image has a caption that may be used: expected some, to learn from "
                "texts: raise captions.fraction, or train without texts"
            )

    def _usable(self, shard: int) -> Int[np.ndarray, " images"]:
        human = usable_caption_rows(self._embeddings, self._names[shard], self._captions)
        if not self._captions.reads_pseudo:
            return human
        pseudo = np.array(sorted(self._pseudo(shard)), dtype=np.int64)
        return np.union1d(human, pseudo) if self._captions.human_fraction else pseudo

    def _load(self, shard: int) -> TextRows:
        rows = load_text_rows(self._embeddings, self._names[shard])
        usable = np.zeros(len(rows), dtype=bool)
        usable[usable_caption_rows(self._embeddings, self._names[shard], self._captions)] = True
        rows[~usable] = np.nan
        return rows
