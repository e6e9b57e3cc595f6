"""Embed one shard: it is read in batches that are prepared for the models, in threads, before they are needed."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.contract.causes import FailureCause
from stages.contract.errors import InputFault
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.clip import ClipEncoder, Prepared, PreparedBatch
from stages.encoders.text import EncodedTexts, TextEncoder, make_text_encoder
from stages.formats.clips import record_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, record_text_encoders
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings, Storage
from stages.formats.images import decode_image
from stages.formats.shards import ShardSample, read_shard, shard_tar
from stages.storage.artifact import Artifact, Output
from stages.streaming.prefetch import prefetch

PREFETCHED_BATCHES = 2


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
    reader = _BatchReader(clip, batch_size=config.batch_size, threads=threads, with_captions=config.texts)

    def embed(name: str) -> EmbeddingsRecord:
        failures: collections.Counter[str] = collections.Counter()
        shard = ShardEmbeddings()
        for batch in reader.batches(shard_tar(shards, name), failures):
            _embed(batch, shard, encoder, storage)
        shard.write(name, output, storage=storage, embed_dim=clip.embed_dim, widths=widths)
        return EmbeddingsRecord(
            rows=len(shard.keys),
            captioned=sum(caption is not None for caption in shard.captions),
            failures=dict(sorted(failures.items())),
            extra_captions=len(shard.extra),
        )

    return embed


def _embed(batch: "_Batch", shard: ShardEmbeddings, encoder: TextEncoder, storage: Storage) -> None:
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


# ---- reading


@dataclass(frozen=True)
class _Batch:
    """Samples whose images could be read, prepared for the models; blank captions are left out."""

    keys: list[str]
    captions: list[tuple[str, ...]]
    images: PreparedBatch


@dataclass(frozen=True)
class _Read:
    """A sample with its prepared image, or the cause of its loss."""

    sample: ShardSample
    image: Prepared | None
    cause: str = ""


class _BatchReader:
    """Decodes each image once and prepares it for every model, in threads, while the models work."""

    def __init__(self, clip: ClipEncoder, *, batch_size: int, threads: int, with_captions: bool) -> None:
        self._clip = clip
        self._batch_size = batch_size
        self._threads = threads
        self._with_captions = with_captions

    def batches(self, path: Path, failures: collections.Counter[str]) -> Iterator[_Batch]:
        """Yield the samples of a shard in their order; count those without a readable image by cause."""
        samples = read_shard(path, with_captions=self._with_captions)
        window = PREFETCHED_BATCHES * self._batch_size
        readable = _readable(prefetch(self._read, samples, threads=self._threads, most=window), failures)
        return prefetch(self._batch, _in_batches(readable, self._batch_size), threads=1, most=1)

    def _read(self, sample: ShardSample) -> _Read:
        if sample.image is None:
            return _Read(sample, None, FailureCause.NO_IMAGE.value)
        try:
            return _Read(sample, self._clip.prepare(decode_image(sample.image, where=sample.key)))
        except InputFault:
            return _Read(sample, None, FailureCause.CORRUPT_IMAGE.value)

    def _batch(self, rows: list[_Read]) -> _Batch:
        captions = [tuple(caption for caption in row.sample.captions if caption.strip()) for row in rows]
        images = self._clip.collate([row.image for row in rows if row.image is not None])
        return _Batch([row.sample.key for row in rows], captions, images)


def _readable(rows: Iterable[_Read], failures: collections.Counter[str]) -> Iterator[_Read]:
    for row in rows:
        if row.image is None:
            failures[row.cause] += 1
        else:
            yield row


def _in_batches(rows: Iterator[_Read], size: int) -> Iterator[list[_Read]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch
