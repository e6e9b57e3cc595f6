"""Embed one shard."""

import collections
from collections.abc import Callable
from typing import Any

import numpy as np

from stages.contract.errors import ArtifactError
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.reading import BatchReader, ReadBatch
from stages.embed_clip.rows import ShardRows
from stages.encoders.clip import ClipEncoder
from stages.encoders.text import TextEncoder, make_text_encoder
from stages.formats.embeddings import TEXT_ENCODERS
from stages.storage.artifact import Artifact, Output

CLIPS = "clips.json"
Record = dict[str, Any]


def make_embed_worker(
    config: EmbedClipConfig, shards: Artifact, output: Output, *, device: str, threads: int
) -> Callable[[str], tuple[str, Record]]:
    """Load the models and return the function that embeds the shard of a name; ``threads`` decode for it."""
    clip = ClipEncoder(config.clip, device=device, gpu_precision=config.gpu_precision)
    encoder = make_text_encoder(clip, config.text_states, device=device)
    _record_encoders(encoder, output)
    widths = {name: int(identity["width"]) for name, identity in encoder.identities.items()}
    storage = np.dtype(config.storage)
    reader = BatchReader(clip, batch_size=config.batch_size, threads=threads, with_captions=config.texts)

    def embed(name: str) -> tuple[str, Record]:
        failures: collections.Counter[str] = collections.Counter()
        path = shards.local(f"shards/{name}.tar")
        rows = ShardRows()
        for batch in reader.batches(path, failures):
            _embed(batch, rows, encoder, storage=storage)
        rows.write(name, output, storage=storage, embed_dim=clip.embed_dim, widths=widths)
        captioned = sum(caption is not None for caption in rows.captions)
        record: Record = {"rows": len(rows.keys), "captioned": captioned, "failures": dict(sorted(failures.items()))}
        if rows.extra:
            record["extra_captions"] = len(rows.extra)
        output.finish_unit(name, record)
        return name, record

    return embed


def _record_encoders(encoder: TextEncoder, output: Output) -> None:
    """Write the models' identities before the first embedding, or compare them with those written before.

    Raises:
        ArtifactError: the embeddings already there are of other weights.
    """
    clips = encoder.clip.identities
    _record(output, CLIPS, clips, clips)
    if states := encoder.identities:
        _record(output, TEXT_ENCODERS, states, [states[name] for name in sorted(states)])


def _record(output: Output, file: str, content: Any, identities: list[Record]) -> None:
    """Write or compare; ``identities`` are those of the content, which as JSON is sorted by name."""
    if not output.exists(file):
        output.write_json(file, content)
        return
    recorded = output.read_json(file)
    there = list(recorded.values()) if isinstance(recorded, dict) else recorded
    if [identity["digest"] for identity in there] != [identity["digest"] for identity in identities]:
        raise ArtifactError(
            f"embed_clip: {output.uri} holds embeddings of {recorded}, but the configured models now are "
            f"{content}: the weights behind the name have changed: delete the folder and run again"
        )


def _embed(batch: ReadBatch, rows: ShardRows, encoder: TextEncoder, *, storage: np.dtype[Any]) -> None:
    """Add a batch of samples to the rows of the shard; further captions go in batches of the same size."""
    start, count = len(rows.keys), len(batch.keys)
    rows.keys += batch.keys
    rows.image.append(encoder.clip.encode_prepared(batch.images).numpy())
    rows.captions += [next(iter(captions), None) for captions in batch.captions]
    places = [index for index, captions in enumerate(batch.captions) if captions]
    rows.first.add(encoder.encode([batch.captions[index][0] for index in places]), places, count, storage)
    extra = [(start + index, caption) for index, captions in enumerate(batch.captions) for caption in captions[1:]]
    rows.extra += extra
    for first in range(0, len(extra), count):
        texts = [caption for _, caption in extra[first : first + count]]
        rows.further.add(encoder.encode(texts), range(len(texts)), len(texts), storage)
