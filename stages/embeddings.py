"""Read the embeddings that embed_clip made, one shard at a time."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from stages.artifacts import Artifact
from stages.captions import CaptionsConfig, select_captioned
from stages.errors import InputFault

Rows = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class CaptionedRows:
    """Samples with a caption that may be used: keys, image embeddings and text embeddings, row by row."""

    keys: list[str]
    image: Rows
    text: Rows


def shard_rows(embeddings: Artifact) -> dict[str, int]:
    """Return the number of rows of each shard, by its name, in order."""
    return {name: int(record["rows"]) for name, record in sorted(embeddings.done_units().items())}


def open_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings of a shard, still on disk, in the dtype they are stored in."""
    rows: Rows = np.load(embeddings.local(f"img_emb/img_emb_{shard}.npy"), mmap_mode="r", allow_pickle=False)
    return rows


def load_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings of a shard as float32 in memory.

    Raises:
        InputFault: a number is infinite or not a number.
    """
    rows: Rows = np.asarray(open_image_rows(embeddings, shard), dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise InputFault(
            f"embed_clip: {bad} of {len(rows)} image embeddings of shard {shard} hold numbers that are not finite "
            f"({embeddings.uri}): embed them again in float32 (embed_clip.storage: float32)"
        )
    return rows


def load_captioned_rows(embeddings: Artifact, shard: str, captions: CaptionsConfig) -> CaptionedRows:
    """Return the samples of a shard that have a caption and are selected by ``captions``."""
    table = pq.read_table(embeddings.local(f"metadata/metadata_{shard}.parquet"), columns=["key", "has_caption"])
    keys: list[str] = table["key"].to_pylist()
    chosen = np.asarray(table["has_caption"].to_pylist(), dtype=bool) & select_captioned(keys, captions)
    text = np.load(embeddings.local(f"text_emb/text_emb_{shard}.npy"), mmap_mode="r", allow_pickle=False)
    image = open_image_rows(embeddings, shard)
    return CaptionedRows(
        [keys[row] for row in np.flatnonzero(chosen)],
        np.asarray(image[chosen], dtype=np.float32),
        np.asarray(text[chosen], dtype=np.float32),
    )


def clip_identity(embeddings: Artifact) -> list[dict[str, Any]]:
    """Return which CLIP models the embeddings are of, in the order in which they are concatenated."""
    with embeddings.open("clips.json") as file:
        clips: list[dict[str, Any]] = json.load(file)
    return clips
