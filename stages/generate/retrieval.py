"""Make the index of the embeddings that the decoder has learned from."""

from collections.abc import Iterable, Mapping

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
    sizes = shard_rows(embeddings)
    rows = _sampled(_train_rows(embeddings, sizes, config.split), config.retrieval.num_embeddings, config.split.seed)
    parts = [
        pick_image_rows(embeddings, name, rows[rows[:, 0] == shard, 1])
        for shard, name in enumerate(sizes)
        if (rows[:, 0] == shard).any()
    ]
    try:
        return LoadedIndex(EmbeddingIndex.of(torch.from_numpy(np.concatenate(parts))), read_clips(embeddings))
    except ValueError as error:
        raise InputFault(
            f"generate.retrieval: {embeddings.uri}: {error}: embed the images again, or leave retrieval out"
        ) from None


def _train_rows(embeddings: Artifact, names: Iterable[str], split: SplitConfig) -> Int[np.ndarray, "rows 2"]:
    """Return (shard, row) of each image that is trained on."""
    splits = SplitRows(load_keys(embeddings, name) for name in names)
    splits.divide(split)
    found = [
        splits.train(np.stack([np.full(size, shard), np.arange(size)], axis=1))
        for shard, size in enumerate(splits.train_sizes)
    ]
    return np.concatenate([np.zeros((0, 2), dtype=np.int64), *found])


def _sampled(rows: Int[np.ndarray, "rows 2"], most: int, seed: int) -> Int[np.ndarray, "sampled 2"]:
    if not len(rows):
        raise InputFault(
            "generate.retrieval: embed_clip has no image that the split trains on: expected some: leave retrieval out"
        )
    if len(rows) <= most:
        return rows
    chosen = np.random.default_rng(seed).choice(len(rows), most, replace=False)
    return rows[np.sort(chosen)]
