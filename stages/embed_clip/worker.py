"""Embed one shard: it is read in batches that are prepared for the models, in threads, before they are needed."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.item_progress import note_samples
from stages.contract.errors import FailureCause, ImageFault
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.clip import Prepared, PreparedBatch
from stages.encoders.image_encoder import ImageEncoder
from stages.encoders.space import make_encoders
from stages.encoders.text import EncodedTexts, TextEncoder, make_text_encoder
from stages.formats.clips import record_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, record_text_encoders
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings, Storage
from stages.formats.images import decode_image
from stages.formats.pseudo_captions import Captioner, read_pseudo_captions_of, record_captioner
from stages.formats.shards import ShardSample, read_shard, shard_tar
from stages.storage.artifact import Artifact, Output
from stages.streaming.prefetch import prefetch

PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class _Batch:
    """Samples whose images could be read, prepared for the models; blank captions are left out."""

    keys: list[str]
    captions: list[tuple[str, ...]]
    pseudo: list[list[str]]
    images: PreparedBatch


def make_embed_worker(
    config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, *, device: str, threads: int
) -> Callable[[str], EmbeddingsRecord]:
    """Load the models and return the function that embeds the shard of a name; ``threads`` decode for it."""
    shards, captioned = inputs["download_shards"], inputs.get("caption_images")
    encoders = make_encoders(config.clip, device=device, gpu_precision=config.gpu_precision)
    images, clips = encoders.images, encoders.identities
    encoder = make_text_encoder(encoders.clip, config.text_states, device=device)
    record_clips(output, clips)
    record_text_encoders(output, encoder.identities)
    widths = {name: identity.width for name, identity in encoder.identities.items()}
    storage = np.dtype(config.storage)

    @functools.cache
    def note_captioner(captioned: Artifact) -> None:
        """Record the captioner once there is a captioned shard: before, its stage may not have written it yet."""
        record_captioner(output, Captioner.of(captioned))

    def embed(name: str) -> EmbeddingsRecord:
        if captioned is not None:
            note_captioner(captioned)
        failures: collections.Counter[str] = collections.Counter()
        shard = ShardEmbeddings()
        pseudo = {} if captioned is None else read_pseudo_captions_of(shards, name, captioned)
        path = shard_tar(shards, name)
        for batch in _batches(path, images, config, threads=threads, failures=failures, pseudo=pseudo):
            shard.image.append(images.encode_prepared(batch.images).numpy())
            _embed(batch, shard, encoder, storage)
            note_samples(len(shard.keys))
        dims = {"embed_dim": clips.embed_dim, "text_dim": clips.text_dim}
        shard.write(name, output, storage=storage, widths=widths, **dims)
        return EmbeddingsRecord(
            rows=len(shard.keys),
            captioned=sum(caption is not None for caption in shard.captions),
            failures=dict(sorted(failures.items())),
            extra_captions=len(shard.extra),
            pseudo_captioned=len({row for row, _ in shard.pseudo}),
            pseudo_captions=len(shard.pseudo),
        )

    return embed


def _embed(batch: _Batch, shard: ShardEmbeddings, encoder: TextEncoder, storage: Storage) -> None:
    """Add the keys and captions of a batch to the shard; further captions go in batches of the same size."""
    start, count = len(shard.keys), len(batch.keys)
    shard.keys += batch.keys
    shard.captions += [next(iter(captions), None) for captions in batch.captions]
    rows = [row for row, captions in enumerate(batch.captions) if captions]
    _add(shard.first, encoder.encode([batch.captions[row][0] for row in rows]), rows, count, storage)
    extra = [(start + row, caption) for row, captions in enumerate(batch.captions) for caption in captions[1:]]
    shard.extra += extra
    pseudo = [(start + row, caption) for row, captions in enumerate(batch.pseudo) for caption in captions]
    shard.pseudo += pseudo
    for listed, encoded in ((extra, shard.further), (pseudo, shard.encoded_pseudo)):
        for first in range(0, len(listed), count):
            texts = [caption for _, caption in listed[first : first + count]]
            _add(encoded, encoder.encode(texts), range(len(texts)), len(texts), storage)


def _add(
    captions: EncodedCaptions, encoded: EncodedTexts, rows: "list[int] | range", count: int, storage: Storage
) -> None:
    states = {name: [one.numpy() for one in found] for name, found in encoded.states.items()}
    captions.add(encoded.embedding.numpy(), states, rows=rows, count=count, dtype=storage)


def _batches(
    path: Path,
    images: ImageEncoder,
    config: EmbedClipConfig,
    *,
    threads: int,
    failures: collections.Counter[str],
    pseudo: Mapping[str, list[str]],
) -> Iterator[_Batch]:
    """Yield the samples of a shard in their order; count those without a readable image by cause.

    Each image is decoded once and prepared for every model that embeds it, in threads, while the models work.
    """

    def prepare(sample: ShardSample) -> tuple[ShardSample, Prepared | FailureCause]:
        if sample.image is None:
            return sample, FailureCause.NO_IMAGE
        try:
            return sample, images.prepare(decode_image(sample.image, where=sample.key))
        except ImageFault as fault:
            return sample, fault.cause

    def readable() -> Iterator[tuple[ShardSample, Prepared]]:
        samples = read_shard(path, with_captions=config.texts)
        for sample, found in prefetch(prepare, samples, threads=threads, most=PREFETCHED_BATCHES * config.batch_size):
            if isinstance(found, FailureCause):
                failures[found.value] += 1
            else:
                yield sample, found

    def collate(rows: list[tuple[ShardSample, Prepared]]) -> _Batch:
        captions = [tuple(caption for caption in sample.captions if caption.strip()) for sample, _ in rows]
        keys = [sample.key for sample, _ in rows]
        return _Batch(keys, captions, [pseudo.get(key, []) for key in keys], images.collate([one for _, one in rows]))

    rows = readable()
    batches = iter(lambda: list(itertools.islice(rows, config.batch_size)), [])
    return prefetch(collate, batches, threads=1, most=1)
