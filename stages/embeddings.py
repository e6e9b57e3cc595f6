"""Read the embeddings and the text states that embed_clip made, one shard at a time."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from stages.artifacts import Artifact
from stages.captions import CaptionsConfig, select_captioned
from stages.errors import InputFault

TEXT_ENCODERS = "text_encoders.json"
Rows = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class CaptionedRows:
    """Images with captions that may be used; the captions of one image stand together, its first one first."""

    keys: list[str]  # of the images
    image: Float[np.ndarray, "images embed"]
    text: Float[np.ndarray, "captions embed"]
    num_captions: Int[np.ndarray, " images"]
    state_rows: Int[np.ndarray, " captions"]  # where each caption stands in the shard's files of text states


@dataclass(frozen=True)
class ShardStates:
    """The token states of a shard's captions, still on disk: those of row i are ``values[offsets[i]:offsets[i+1]]``.

    The rows are those of the embeddings (none has states without a caption), then those of the further captions.
    """

    values: Float[np.ndarray, "tokens width"]
    offsets: Int[np.ndarray, " rows+1"]

    def of(self, row: int) -> Float[np.ndarray, "tokens width"]:
        """Return the states of one caption."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]


def shard_rows(embeddings: Artifact) -> dict[str, int]:
    """Return the number of rows of each shard, by its name, in order."""
    return {name: int(record["rows"]) for name, record in sorted(embeddings.done_units().items())}


def open_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings of a shard, still on disk, in the dtype they are stored in."""
    return _open(embeddings, "img_emb", shard)


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
    """Return the samples of a shard that have captions and are selected by ``captions``, as float32.

    Raises:
        InputFault: the files of the shard do not fit one another.
    """
    table = pq.read_table(embeddings.local(f"metadata/metadata_{shard}.parquet"), columns=["key", "has_caption"])
    keys: list[str] = table["key"].to_pylist()
    chosen = np.asarray(table["has_caption"].to_pylist(), dtype=bool) & select_captioned(keys, captions)
    image, text = (_open(embeddings, kind, shard) for kind in ("img_emb", "text_emb"))
    for kind, rows in (("image", image), ("text", text)):
        _require_shape(embeddings, f"{kind} embeddings of shard {shard}", rows, len(keys), image.shape[1])
    first = np.flatnonzero(chosen)
    owners, further = _further_captions(embeddings, shard, image.shape[1])
    used = np.flatnonzero(chosen[owners])
    rows_of = np.concatenate([first, owners[used]])  # the image of each caption, first captions first: [captions]
    order = np.argsort(rows_of, kind="stable")
    return CaptionedRows(
        [keys[row] for row in first],
        np.asarray(image[chosen], dtype=np.float32),
        np.concatenate([text[chosen], further[used]]).astype(np.float32)[order],
        np.bincount(rows_of, minlength=len(keys))[first],
        np.concatenate([first, len(keys) + used])[order],
    )


def _further_captions(embeddings: Artifact, shard: str, embed_dim: int) -> tuple[np.ndarray, Rows]:
    """Return row and embedding of each caption of a shard that is not an image's first."""
    if not embeddings.exists(f"extra_captions/extra_captions_{shard}.parquet"):
        return np.zeros(0, dtype=np.int64), np.zeros((0, embed_dim), dtype=np.float32)
    table = pq.read_table(embeddings.local(f"extra_captions/extra_captions_{shard}.parquet"), columns=["row"])
    text = _open(embeddings, "extra_text_emb", shard)
    _require_shape(embeddings, f"further text embeddings of shard {shard}", text, len(table), embed_dim)
    return table["row"].to_numpy(), text


def open_text_states(embeddings: Artifact, shard: str, name: str, *, width: int) -> ShardStates:
    """Return the token states of a shard's captions by one text encoder, still on disk.

    Raises:
        InputFault: they are of another width.
    """
    states = ShardStates(_open(embeddings, f"{name}_states", shard), _open(embeddings, f"{name}_offsets", shard))
    num_tokens = int(states.offsets[-1])
    _require_shape(embeddings, f"text states ({name}) of shard {shard}", states.values, num_tokens, width)
    return states


def clip_identity(embeddings: Artifact) -> list[dict[str, Any]]:
    """Return which CLIP models the embeddings are of, in the order in which they are concatenated."""
    with embeddings.open("clips.json") as file:
        clips: list[dict[str, Any]] = json.load(file)
    return clips


def text_state_identities(embeddings: Artifact) -> dict[str, dict[str, Any]]:
    """Return which encoders the text states are of, by name in the order t5, clip; nothing where there are none.

    Each says, JSON-ready, reference (for people), digest (SHA-256 of its weights), width, max_length, and source: what
    finds it again.
    """
    if not embeddings.exists(TEXT_ENCODERS):
        return {}
    identities: dict[str, dict[str, Any]] = embeddings.read_json(TEXT_ENCODERS)
    return {name: identities[name] for name in ("t5", "clip") if name in identities}


def _open(embeddings: Artifact, kind: str, shard: str) -> np.ndarray:
    rows: np.ndarray = np.load(embeddings.local(f"{kind}/{kind}_{shard}.npy"), mmap_mode="r", allow_pickle=False)
    return rows


def _require_shape(embeddings: Artifact, what: str, found: np.ndarray, rows: int, width: int) -> None:
    if found.shape != (rows, width):
        raise InputFault(
            f"embed_clip: the {what} are {list(found.shape)}: expected [{rows}, {width}] ({embeddings.uri}): "
            "delete that folder and embed again"
        )
