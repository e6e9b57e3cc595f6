"""Make the index of the embeddings that the decoder has learned from."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Int

from models.retrieval.model import EmbeddingIndex
from stages.contract.errors import InputFault
from stages.formats.clips import read_clips
from stages.formats.embeddings.reader import load_keys, pick_image_rows, shard_rows
from stages.formats.filtered import filter_inputs
from stages.formats.splits import SplitConfig
from stages.generate.config import GenerateConfig
from stages.inference.index import LoadedIndex
from stages.storage.artifact import Artifact
from stages.training.split_rows import SplitRows


def make_index(config: GenerateConfig, inputs: Mapping[str, Artifact]) -> LoadedIndex | None:
    """Return the index that the section asks for; None: it asks for none.

    Of the images that embed_clip embedded and filter_samples left, those that the split trains on are in it, none that
    it puts aside; of more than the section allows, a sample by the split's seed.
    """
    if config.retrieval is None:
        return None
    embeddings = filter_inputs(inputs)["embed_clip"]
    rows = _rows_by_shard(embeddings, config.split, config.retrieval.num_embeddings)
    if not rows:
        raise InputFault(
            "generate.retrieval: embed_clip has no image that the split trains on: expected some: leave retrieval out"
        )
    parts = [pick_image_rows(embeddings, name, picked) for name, picked in rows.items()]
    try:
        return LoadedIndex(EmbeddingIndex.of(torch.from_numpy(np.concatenate(parts))), read_clips(embeddings))
    except ValueError as error:
        raise InputFault(
            f"generate.retrieval: {embeddings.uri}: {error}: embed the images again, or leave retrieval out"
        ) from None


def _rows_by_shard(embeddings: Artifact, split: SplitConfig, most: int) -> dict[str, Int[np.ndarray, " picked"]]:
    """Return which rows of which shards are trained on, or a sample of so many of them; held in memory is no more."""
    names = list(shard_rows(embeddings))
    splits = SplitRows(load_keys(embeddings, name) for name in names)
    splits.divide(split)
    ends = np.cumsum(splits.train_sizes, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    sampled = np.arange(total) if total <= most else _sample(total, most, split.seed)
    shards = np.searchsorted(ends, sampled, side="right")
    found, first = {}, 0
    for shard, count in zip(*np.unique(shards, return_counts=True), strict=True):
        here = sampled[first : first + count] - (ends[shard] - splits.train_sizes[shard])
        first += count
        found[names[shard]] = splits.train(np.stack([np.full(count, shard), here], axis=1))[:, 1]
    return found


def _sample(total: int, most: int, seed: int) -> Int[np.ndarray, " sampled"]:
    numbers = np.random.default_rng(seed if seed >= 0 else [1, -seed])  # a split's seed may be any number
    return np.sort(numbers.choice(total, most, replace=False, shuffle=False))
