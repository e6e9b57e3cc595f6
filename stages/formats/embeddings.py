"""Read the embeddings and the text states that embed_clip made, one shard at a time."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float, Int

from stages.contract.documents import Manifest
from stages.contract.errors import ArtifactError, InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.storage.artifact import Artifact
from stages.storage.npy_reader import NpyReader

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


@dataclass(frozen=True)
class KeptEmbeddings(Artifact):
    """The embeddings as all stages after filter_samples see them: without the rows that it removed."""

    kept: Artifact

    def __getstate__(self) -> dict[str, Any]:
        """Leave the file system handles behind."""
        return {**super().__getstate__(), "kept": self.kept}

    def done_units(self) -> dict[str, dict[str, Any]]:
        """Return the records of what is left of each shard."""
        return self.kept.done_units()


def see_kept(inputs: Mapping[str, Artifact]) -> Mapping[str, Artifact]:
    """Return a stage's inputs with the embeddings filtered, where filter_samples is one of them.

    Raises:
        ArtifactError: it filtered other embeddings.
    """
    if "filter_samples" not in inputs or "embed_clip" not in inputs:
        return inputs
    embeddings, kept = inputs["embed_clip"], inputs["filter_samples"]
    filtered = Manifest.of(kept).inputs["embed_clip"]
    if filtered != embeddings.fingerprint:
        raise ArtifactError(
            f"filter_samples: {kept.uri} says what to keep of embed_clip {filtered}, but the embeddings are "
            f"{embeddings.fingerprint}: expected the same: filter these embeddings (drop reuse.filter_samples)"
        )
    return {**inputs, "embed_clip": KeptEmbeddings(embeddings.uri, embeddings.stage, embeddings.fingerprint, kept)}


def shard_rows(embeddings: Artifact) -> dict[str, int]:
    """Return the number of rows of each shard, by its name, in order."""
    return {name: int(record["rows"]) for name, record in sorted(embeddings.done_units().items())}


def open_npy_reader(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings that a shard's files hold, still on disk, whether they are kept or not."""
    return _open(embeddings, "img_emb", shard)


def kept_rows(embeddings: Artifact, shard: str) -> Int[np.ndarray, " rows"] | None:
    """Return which rows of a shard's files are used, ascending; None: all."""
    if not isinstance(embeddings, KeptEmbeddings):
        return None
    return _open(embeddings.kept, "kept", shard)


def load_keys(embeddings: Artifact, shard: str) -> list[str]:
    """Return the keys of a shard's rows."""
    table = pq.read_table(embeddings.local(f"metadata/metadata_{shard}.parquet"), columns=["key"])
    kept = kept_rows(embeddings, shard)
    keys: list[str] = (table if kept is None else table.take(kept)).column("key").to_pylist()
    return keys


def load_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings of a shard as float32 in memory; the rows are those that :func:`load_keys` names.

    Raises:
        InputFault: a number is infinite or not a number.
    """
    kept, stored = kept_rows(embeddings, shard), open_npy_reader(embeddings, shard)
    rows: Rows = np.asarray(stored if kept is None else stored[kept], dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise InputFault(
            f"embed_clip: {bad} of {len(rows)} image embeddings of shard {shard} hold numbers that are not finite "
            f"({embeddings.uri}): embed them again in float32 (embed_clip.storage: float32)"
        )
    return rows


@dataclass(frozen=True)
class RowBlock:
    """Some image embeddings of a shard, not read yet."""

    stored: NpyReader
    first: int
    size: int
    kept: Int[np.ndarray, " rows"] | None  # which rows of the shard are used; none: all

    def load(self) -> Rows:
        """Read them as float32; numbers that are not finite are passed on (:func:`load_image_rows` refuses them)."""
        rows = self.stored.read(self.first, self.size)
        if self.kept is not None:
            low, high = np.searchsorted(self.kept, (self.first, self.first + self.size))
            rows = rows[self.kept[low:high] - self.first]
        return rows.astype(np.float32, copy=False)


def image_row_blocks(embeddings: Artifact, shard: str, size: int) -> Iterator[RowBlock]:
    """Cut the image embeddings of a shard into blocks of so many stored rows, each to be read when it is its turn."""
    stored, kept = _image_row_reader(embeddings, shard), kept_rows(embeddings, shard)
    for first in range(0, len(stored), size):
        yield RowBlock(stored, first, size, kept)


def pick_image_rows(embeddings: Artifact, shard: str, rows: Int[np.ndarray, " picked"]) -> Rows:
    """Read some image embeddings of a shard as float32; the rows are those that :func:`load_keys` names."""
    kept = kept_rows(embeddings, shard)
    picked = _image_row_reader(embeddings, shard).pick(rows if kept is None else kept[rows])
    return picked.astype(np.float32, copy=False)


def _image_row_reader(embeddings: Artifact, shard: str) -> NpyReader:
    return NpyReader.of(embeddings.local(f"img_emb/img_emb_{shard}.npy"))


def load_captioned_rows(embeddings: Artifact, shard: str, captions: CaptionsConfig) -> CaptionedRows:
    """Return the samples of a shard that have captions and are selected by ``captions``, as float32.

    Raises:
        InputFault: the files of the shard do not fit one another.
    """
    table = pq.read_table(embeddings.local(f"metadata/metadata_{shard}.parquet"), columns=["key", "has_caption"])
    keys: list[str] = table["key"].to_pylist()
    chosen = np.asarray(table["has_caption"].to_pylist(), dtype=bool) & select_captioned(keys, captions)
    if (kept := kept_rows(embeddings, shard)) is not None:
        chosen &= np.isin(np.arange(len(keys)), kept)
    image, text = (_open(embeddings, kind, shard) for kind in ("img_emb", "text_emb"))
    for kind, rows in (("image", image), ("text", text)):
        _require_shape(embeddings, f"{kind} embeddings of shard {shard}", rows, len(keys), image.shape[1])
    first = np.flatnonzero(chosen)
    owners, further = further_captions(embeddings, shard, image.shape[1])
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


def open_text_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the embeddings of the first captions that a shard's files hold, still on disk; no caption: NaN."""
    return _open(embeddings, "text_emb", shard)


def further_captions(embeddings: Artifact, shard: str, embed_dim: int) -> tuple[np.ndarray, Rows]:
    """Return row and embedding of each caption of a shard that is not an image's first, by the files' rows."""
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
