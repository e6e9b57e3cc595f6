"""Embed one shard."""

import collections
from collections.abc import Callable

import numpy as np

from stages.embed_clip.batches import BatchReader, ReadBatch
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.clip import ClipEncoder
from stages.encoders.text import EncodedTexts, TextEncoder, make_text_encoder
from stages.formats.clips import record_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, record_text_encoders
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings, Storage
from stages.formats.shards import shard_tar
from stages.storage.artifact import Artifact, Output


def make_embed_worker(
    config: EmbedClipConfig, shards: Artifact, output: Output, *, device: str, threads: int
) -> Callable[[str], EmbeddingsRecord]:
    """Load the models and return the function that embeds the shard of a name; ``threads`` decode for it."""
    clip = ClipEncoder(config.clip, device=device, gpu_precision=config.gpu_precision)
    encoder = make_text_encoder(clip, config.text_states, device=device)
    record_clips(output, clip.identities)
    record_text_encoders(output, encoder.identities)
    widths = {name: identity.width for name, identity in encoder.identities.items()}
    storage = np.dtype(config.storage)
    reader = BatchReader(clip, batch_size=config.batch_size, threads=threads, with_captions=config.texts)

    def embed(name: str) -> EmbeddingsRecord:
        failures: collections.Counter[str] = collections.Counter()
        shard = ShardEmbeddings()
        for batch in reader.batches(shard_tar(shards, name), failures):
            _embed(batch, shard, encoder, storage)
        shard.write(name, output, storage=storage, embed_dim=clip.embed_dim, widths=widths)
        return EmbeddingsRecord(
            rows=len(shard.keys),
            captioned=shard.num_captioned,
            failures=dict(sorted(failures.items())),
            extra_captions=len(shard.extra),
        )

    return embed


def _embed(batch: ReadBatch, shard: ShardEmbeddings, encoder: TextEncoder, storage: Storage) -> None:
    """Add a batch of samples to the shard; further captions go in batches of the same size."""
    start, count = len(shard.keys), len(batch.keys)
    shard.keys += batch.keys
    shard.image.append(encoder.clip.encode_prepared(batch.images).numpy())
    shard.captions += [next(iter(captions), None) for captions in batch.captions]
    rows = [row for row, captions in enumerate(batch.captions) if captions]
    _add(shard.first, encoder.encode([batch.captions[row][0] for row in rows]), rows, count, storage)
    extra = [(start + row, caption) for row, captions in enumerate(batch.captions) for caption in captions[1:]]
    shard.extra += extra
    for first in range(0, len(extra), count):
        texts = [caption for _, caption in extra[first : first + count]]
        _add(shard.further, encoder.encode(texts), range(len(texts)), len(texts), storage)


def _add(
    captions: EncodedCaptions, encoded: EncodedTexts, rows: "list[int] | range", count: int, storage: Storage
) -> None:
    states = {name: [one.numpy() for one in found] for name, found in encoded.states.items()}
    captions.add(encoded.embedding.numpy(), states, rows=rows, count=count, dtype=storage)
