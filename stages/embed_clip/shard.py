"""Embed one shard."""

import collections
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from stages.artifacts import Artifact, Output
from stages.embed_clip.config import EmbedClipConfig
from stages.embed_clip.rows import ShardRows
from stages.embeddings import TEXT_ENCODERS
from stages.encoders.clip import ClipEncoder
from stages.encoders.text import TextEncoder, make_text_encoder
from stages.errors import ArtifactError
from stages.shards import read_shard

CLIPS = "clips.json"
Record = dict[str, Any]


@dataclass(frozen=True)
class ReadSample:
    """One sample of a shard, decoded; blank captions are left out."""

    key: str
    image: Image.Image
    captions: tuple[str, ...]


def make_embed_worker(
    config: EmbedClipConfig, shards: Artifact, output: Output, device: str
) -> Callable[[str], tuple[str, Record]]:
    """Load the models and return the function that embeds the shard of a name."""
    clip = ClipEncoder(config.clip, device=device, gpu_precision=config.gpu_precision)
    encoder = make_text_encoder(clip, config.text_states, device=device)
    _record_encoders(encoder, output)
    widths = {name: int(identity["width"]) for name, identity in encoder.identities.items()}
    storage = np.dtype(config.storage)

    def embed(name: str) -> tuple[str, Record]:
        failures: collections.Counter[str] = collections.Counter()
        samples = read_images(shards.local(f"shards/{name}.tar"), failures, with_captions=config.texts)
        rows = ShardRows()
        while batch := list(itertools.islice(samples, config.batch_size)):
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


def read_images(path: Path, failures: collections.Counter[str], *, with_captions: bool = True) -> Iterator[ReadSample]:
    """Yield the samples of a shard with their images decoded; count those without a readable image by cause."""
    for sample in read_shard(path, with_captions=with_captions):
        if sample.image is None:
            failures["no_image"] += 1
            continue
        try:
            image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            failures["corrupt_image"] += 1
            continue
        yield ReadSample(sample.key, image, tuple(caption for caption in sample.captions if caption.strip()))


def _embed(batch: list[ReadSample], rows: ShardRows, encoder: TextEncoder, *, storage: np.dtype[Any]) -> None:
    """Add a batch of samples to the rows of the shard; further captions go in batches of the same size."""
    start = len(rows.keys)
    rows.keys += [sample.key for sample in batch]
    rows.image.append(encoder.clip.encode_images([sample.image for sample in batch]).numpy())
    rows.captions += [next(iter(sample.captions), None) for sample in batch]
    places = [index for index, sample in enumerate(batch) if sample.captions]
    rows.first.add(encoder.encode([batch[index].captions[0] for index in places]), places, len(batch), storage)
    extra = [(start + index, caption) for index, sample in enumerate(batch) for caption in sample.captions[1:]]
    rows.extra += extra
    for first in range(0, len(extra), len(batch)):
        texts = [caption for _, caption in extra[first : first + len(batch)]]
        rows.further.add(encoder.encode(texts), range(len(texts)), len(texts), storage)
