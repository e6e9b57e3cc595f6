"""Captions' embeddings by (shard, row), for the images whose captions may be used."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from stages.artifacts import Artifact
from stages.captions import CaptionsConfig, select_captioned
from stages.embeddings import load_captioned_rows
from stages.errors import InputFault

KEPT_SHARDS = 64
TextRows = Float[np.ndarray, "rows embed"]


class CaptionRows:
    """Embeddings of images' first captions; NaN where there is none, or where it may not be used."""

    def __init__(self, embeddings: Artifact, shards: Sequence[str], captions: CaptionsConfig) -> None:
        """Take the shards' names in their order; nothing is read yet."""
        self._embeddings, self._names, self._captions = embeddings, shards, captions
        self._shard = lru_cache(maxsize=KEPT_SHARDS)(self._load)

    def read(self, places: Int[np.ndarray, "rows 2"]) -> TextRows:
        """Return the embeddings at the (shard, row) places, in their order."""
        return np.stack([self._shard(shard)[row] for shard, row in places.tolist()])

    def statistics(self) -> tuple[Float[np.ndarray, "embed"], Float[np.ndarray, "embed"]]:
        """Return mean and deviation of all usable captions, by dimension, in one pass over the files.

        Raises:
            InputFault: there is none.
        """
        count, total, squares = 0, 0.0, 0.0
        for name in self._names:
            rows = load_captioned_rows(self._embeddings, name, self._captions).text.astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        if not count:
            raise InputFault(
                "train_decoder.condition: no image has a caption that may be used: expected some, to learn from texts: "
                "raise captions.fraction, or set train_decoder.condition to image"
            )
        mean = np.asarray(total / count)
        return mean, np.sqrt(np.maximum(squares / count - mean**2, 0.0))

    def _load(self, shard: int) -> TextRows:
        name = self._names[shard]
        table = pq.read_table(
            self._embeddings.local(f"metadata/metadata_{name}.parquet"), columns=["key", "has_caption"]
        )
        usable = select_captioned(table["key"].to_pylist(), self._captions)
        usable &= np.asarray(table["has_caption"].to_pylist(), dtype=bool)
        path = self._embeddings.local(f"text_emb/text_emb_{name}.npy")
        rows: TextRows = np.load(path, allow_pickle=False).astype(np.float32)
        rows[~usable] = np.nan
        return rows
