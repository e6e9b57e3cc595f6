"""Embed one shard."""

import collections
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from stages.artifacts import Artifact, Output
from stages.embed_clip.config import EmbedClipConfig
from stages.encoders.clip import ClipEncoder
from stages.errors import ArtifactError
from stages.shards import read_shard

CLIPS = "clips.json"
Record = dict[str, Any]

_METADATA = pa.schema([("key", pa.string()), ("caption", pa.string()), ("has_caption", pa.bool_())])


@dataclass(frozen=True)
class ReadSample:
    """One sample of a shard, decoded."""

    key: str
    image: Image.Image
    caption: str | None


@dataclass
class ShardEmbeddings:
    """The rows of one shard, in the order of its keys; uncaptioned rows of ``text`` are NaN."""

    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    image: list[Float[np.ndarray, "batch embed"]] = field(default_factory=list)
    text: list[Float[np.ndarray, "batch embed"]] = field(default_factory=list)


def make_embed_worker(
    config: EmbedClipConfig, shards: Artifact, output: Output, device: str
) -> Callable[[str], tuple[str, Record]]:
    """Load the CLIP models and return the function that embeds the shard of a name."""
    encoder = ClipEncoder(config.clip, device=device, gpu_precision=config.gpu_precision)
    _record_clips(encoder, output)

    def embed(name: str) -> tuple[str, Record]:
        failures: collections.Counter[str] = collections.Counter()
        samples = read_images(shards.local(f"shards/{name}.tar"), failures)
        rows = _embed(samples, encoder, batch_size=config.batch_size)
        _publish(name, rows, output, storage=np.dtype(config.storage), embed_dim=encoder.embed_dim)
        captioned = sum(caption is not None for caption in rows.captions)
        record = {"rows": len(rows.keys), "captioned": captioned, "failures": dict(sorted(failures.items()))}
        output.finish_unit(name, record)
        return name, record

    return embed


def _record_clips(encoder: ClipEncoder, output: Output) -> None:
    """Write the models' identities before the first embedding, or compare them with those written before.

    Raises:
        ArtifactError: the embeddings already there are of other weights.
    """
    if not output.exists(CLIPS):
        output.write_json(CLIPS, encoder.identities)
        return
    recorded = output.read_json(CLIPS)
    if [clip["digest"] for clip in recorded] != [clip["digest"] for clip in encoder.identities]:
        raise ArtifactError(
            f"embed_clip: {output.uri} holds embeddings of {recorded}, but the configured models now are "
            f"{encoder.identities}: the weights behind the name have changed: delete the folder and run again"
        )


def read_images(path: Path, failures: collections.Counter[str]) -> Iterator[ReadSample]:
    """Yield the samples of a shard with their images decoded; count those without a readable image by cause."""
    for sample in read_shard(path):
        if sample.image is None:
            failures["no_image"] += 1
            continue
        try:
            image = Image.open(io.BytesIO(sample.image)).convert("RGB")
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            failures["corrupt_image"] += 1
            continue
        yield ReadSample(sample.key, image, sample.captions[0] if sample.captions else None)


def _embed(samples: Iterator[ReadSample], encoder: ClipEncoder, *, batch_size: int) -> ShardEmbeddings:
    rows = ShardEmbeddings()
    while batch := list(itertools.islice(samples, batch_size)):
        rows.keys += [sample.key for sample in batch]
        rows.captions += [sample.caption for sample in batch]
        rows.image.append(encoder.encode_images([sample.image for sample in batch]).numpy())
        rows.text.append(_embed_captions([sample.caption for sample in batch], encoder))
    return rows


def _embed_captions(captions: list[str | None], encoder: ClipEncoder) -> Float[np.ndarray, "batch embed"]:
    text = np.full((len(captions), encoder.embed_dim), np.nan, dtype=np.float32)
    present = [index for index, caption in enumerate(captions) if caption is not None]
    text[present] = encoder.encode_texts([caption for caption in captions if caption is not None]).numpy()
    return text


def _publish(name: str, rows: ShardEmbeddings, output: Output, *, storage: np.dtype[Any], embed_dim: int) -> None:
    empty = np.zeros((0, embed_dim), dtype=np.float32)
    for kind, blocks in (("img_emb", rows.image), ("text_emb", rows.text)):
        with output.writing(f"{kind}/{kind}_{name}.npy") as path, path.open("wb") as file:
            np.save(file, np.concatenate([empty, *blocks]).astype(storage))
    has_caption = [caption is not None for caption in rows.captions]
    table = pa.table({"key": rows.keys, "caption": rows.captions, "has_caption": has_caption}, schema=_METADATA)
    with output.writing(f"metadata/metadata_{name}.parquet") as path:
        pq.write_table(table, path)
