"""Read embeddings and text states, one shard at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from stages.contract.errors import InputFault
from stages.formats.captions import CaptionsConfig, select_captioned
from stages.formats.clips import read_clips
from stages.formats.embeddings.layout import (
    EXTRA_CAPTIONS,
    EXTRA_TEXT,
    IMAGE,
    METADATA,
    PSEUDO_CAPTIONS,
    PSEUDO_TEXT,
    TEXT,
    EmbeddingsRecord,
    state_kinds,
)
from stages.formats.filtered import FilteredEmbeddings, FilterRecord, kept_rows
from stages.formats.per_shard import array_reader, has_table, load_table, open_array
from stages.storage.artifact import Artifact
from stages.storage.npy_reader import NpyReader

Rows = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class CaptionedRows:
    """Images with captions that may be used; the captions of one image stand together, its first one first.

    Pseudo-captions come after an image's human captions.
    """

    keys: list[str]  # of the images
    image: Float[np.ndarray, "images embed"]
    text: Float[np.ndarray, "captions text"]
    num_captions: Int[np.ndarray, " images"]
    num_human: Int[np.ndarray, " images"]  # so many of them are human
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
    records = _records(embeddings)
    return {name: records[name].rows for name in sorted(records)}


def count_captioned(embeddings: Artifact) -> int:
    """Return how many images of all shards have human captions."""
    return sum(record.captioned for record in _records(embeddings).values())


def _records(embeddings: Artifact) -> Mapping[str, EmbeddingsRecord] | Mapping[str, FilterRecord]:
    if isinstance(embeddings, FilteredEmbeddings):
        return FilterRecord.done(embeddings.kept)
    return EmbeddingsRecord.done(embeddings)


def open_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings that a shard's files hold, still on disk, whether they are kept or not."""
    return open_array(embeddings, IMAGE, shard)


def load_keys(embeddings: Artifact, shard: str) -> list[str]:
    """Return the keys of a shard's rows."""
    keys: list[str] = _metadata(embeddings, shard, ["key"])["key"].to_pylist()
    return keys


def load_has_caption(embeddings: Artifact, shard: str) -> Bool[np.ndarray, " rows"]:
    """Tell for each row of a shard whether the image has a caption."""
    return np.asarray(_metadata(embeddings, shard, ["has_caption"])["has_caption"].to_pylist(), dtype=bool)


def usable_caption_rows(embeddings: Artifact, shard: str, captions: CaptionsConfig) -> Int[np.ndarray, " images"]:
    """Return the rows of a shard whose human captions may be used, ascending, as :func:`load_keys` counts them."""
    table = _metadata(embeddings, shard, ["key", "has_caption"])
    has_caption = np.asarray(table["has_caption"].to_pylist(), dtype=bool)
    return np.flatnonzero(has_caption & select_captioned(table["key"].to_pylist(), captions))


def load_captions(embeddings: Artifact, shard: str) -> list[list[str]]:
    """Return all human captions of each row of a shard, the first one first."""
    captions = [[] if one is None else [one] for one in load_table(embeddings, METADATA, shard)["caption"].to_pylist()]
    if has_table(embeddings, EXTRA_CAPTIONS, shard):
        for extra in load_table(embeddings, EXTRA_CAPTIONS, shard, ["row", "caption"]).to_pylist():
            captions[extra["row"]].append(extra["caption"])
    kept = kept_rows(embeddings, shard)
    return captions if kept is None else [captions[row] for row in kept]


def first_captions(embeddings: Artifact, shard: str, *, human: bool) -> dict[str, str]:
    """Return by key the first human caption of each image of a shard that has any, or the first pseudo-caption."""
    captions = (load_captions if human else load_pseudo_captions)(embeddings, shard)
    return {key: of_key[0] for key, of_key in zip(load_keys(embeddings, shard), captions, strict=True) if of_key}


def _metadata(embeddings: Artifact, shard: str, columns: Sequence[str]) -> pa.Table:
    """Return columns of a shard's metadata, of the rows that are used."""
    table, kept = load_table(embeddings, METADATA, shard, columns), kept_rows(embeddings, shard)
    return table if kept is None else table.take(kept)


def load_image_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the image embeddings of a shard, all finite, as float32 in memory; rows are as in :func:`load_keys`."""
    kept, stored = kept_rows(embeddings, shard), open_image_rows(embeddings, shard)
    rows: Rows = np.asarray(stored if kept is None else stored[kept], dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows)).any(axis=1).sum())
        raise InputFault(
            f"embed_clip: {bad} of {len(rows)} image embeddings of shard {shard} hold numbers that are not finite "
            f"({embeddings.uri}): embed them again in float32 (embed_clip.storage: float32)"
        )
    return rows


def load_text_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the embeddings of the first captions of a shard as float32 in memory; no caption: NaN."""
    kept, stored = kept_rows(embeddings, shard), open_text_rows(embeddings, shard)
    return np.array(stored if kept is None else stored[kept], dtype=np.float32)


def unit_rows(rows: Float[np.ndarray, "rows embed"], block_dims: list[int]) -> Float[np.ndarray, "rows embed"]:
    """Return rows whose products are the mean over the CLIP models of the cosines of their parts, as float64."""
    parts = np.split(rows.astype(np.float64), np.cumsum(block_dims)[:-1], axis=1)
    units = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
    joined: Float[np.ndarray, "rows embed"] = np.concatenate(units, axis=1) / np.sqrt(len(parts))
    return joined


@dataclass(frozen=True)
class RowBlock:
    """Some image embeddings of a shard, not read yet."""

    reader: NpyReader
    first: int
    size: int
    kept: Int[np.ndarray, " rows"] | None  # which rows of the shard are used; none: all

    def load(self) -> Rows:
        """Read them as float32; numbers that are not finite are passed on (:func:`load_image_rows` refuses them)."""
        rows = self.reader.read(self.first, self.size)
        if self.kept is not None:
            low, high = np.searchsorted(self.kept, (self.first, self.first + self.size))
            rows = rows[self.kept[low:high] - self.first]
        return rows.astype(np.float32, copy=False)


def image_row_blocks(embeddings: Artifact, shard: str, size: int) -> Iterator[RowBlock]:
    """Cut the image embeddings of a shard into blocks of so many rows of its file, to be read later."""
    reader, kept = array_reader(embeddings, IMAGE, shard), kept_rows(embeddings, shard)
    for first in range(0, len(reader), size):
        yield RowBlock(reader, first, size, kept)


def pick_image_rows(embeddings: Artifact, shard: str, rows: Int[np.ndarray, " picked"]) -> Rows:
    """Read some image embeddings of a shard as float32; the rows are those that :func:`load_keys` names."""
    kept = kept_rows(embeddings, shard)
    picked = array_reader(embeddings, IMAGE, shard).pick(rows if kept is None else kept[rows])
    return picked.astype(np.float32, copy=False)


def load_captioned_rows(embeddings: Artifact, shard: str, captions: CaptionsConfig) -> CaptionedRows:
    """Return the samples of a shard that have captions which ``captions`` selects, as float32."""
    table = load_table(embeddings, METADATA, shard, ["key", "has_caption"])
    keys: list[str] = table["key"].to_pylist()
    human = np.asarray(table["has_caption"].to_pylist(), dtype=bool) & select_captioned(keys, captions)
    is_kept = np.ones(len(keys), dtype=bool)
    if (kept := kept_rows(embeddings, shard)) is not None:
        is_kept = np.isin(np.arange(len(keys)), kept)
    image, text = open_image_rows(embeddings, shard), open_text_rows(embeddings, shard)
    clips = read_clips(embeddings)
    text_dim = image.shape[1] if clips.is_one_space else clips.text_dim
    for kind, rows, width in (("image", image, image.shape[1]), ("text", text, text_dim)):
        _require_shape(embeddings, f"{kind} embeddings of shard {shard}", rows, len(keys), width)
    first = np.flatnonzero(human & is_kept)
    owners, further = further_captions(embeddings, shard, text_dim)
    used = np.flatnonzero((human & is_kept)[owners])
    no_owners = owners[:0], further[:0]
    of_pseudo, pseudo = pseudo_texts(embeddings, shard, text_dim) if captions.reads_pseudo else no_owners
    used_pseudo = np.flatnonzero(is_kept[of_pseudo])
    # the image of each caption: first captions, further ones, pseudo-captions: [captions]
    rows_of = np.concatenate([first, owners[used], of_pseudo[used_pseudo]])
    order, num_human = np.argsort(rows_of, kind="stable"), len(first) + len(used)
    images = np.unique(rows_of)
    return CaptionedRows(
        [keys[row] for row in images],
        np.asarray(image[images], dtype=np.float32),
        np.concatenate([text[first], further[used], pseudo[used_pseudo]]).astype(np.float32)[order],
        np.bincount(rows_of, minlength=len(keys))[images],
        np.bincount(rows_of[:num_human], minlength=len(keys))[images],
        np.concatenate([first, len(keys) + used, len(keys) + len(owners) + used_pseudo])[order],
    )


def open_text_rows(embeddings: Artifact, shard: str) -> Rows:
    """Return the embeddings of the first captions that a shard's files hold, still on disk; no caption: NaN."""
    return open_array(embeddings, TEXT, shard)


def further_captions(embeddings: Artifact, shard: str, text_dim: int) -> tuple[np.ndarray, Rows]:
    """Return row and embedding of each human caption of a shard that is not an image's first, by the files' rows."""
    return _texts_by_row(embeddings, shard, text_dim, "further", (EXTRA_CAPTIONS, EXTRA_TEXT))


def pseudo_texts(embeddings: Artifact, shard: str, text_dim: int) -> tuple[np.ndarray, Rows]:
    """Return row and embedding of each pseudo-caption of a shard, by the files' rows."""
    return _texts_by_row(embeddings, shard, text_dim, "pseudo", (PSEUDO_CAPTIONS, PSEUDO_TEXT))


def load_pseudo_rows(embeddings: Artifact, shard: str) -> dict[int, Rows]:
    """Return the embeddings of each row's pseudo-captions as float32; rows are as in :func:`load_keys`."""
    owners, texts = pseudo_texts(embeddings, shard, open_text_rows(embeddings, shard).shape[1])
    kept = kept_rows(embeddings, shard)
    number_of = None if kept is None else {int(row): number for number, row in enumerate(kept)}
    found: dict[int, list[int]] = {}
    for caption, row in enumerate(owners.tolist()):
        number = row if number_of is None else number_of.get(row)
        if number is not None:
            found.setdefault(number, []).append(caption)
    return {row: np.asarray(texts[captions], dtype=np.float32) for row, captions in found.items()}


def load_pseudo_captions(embeddings: Artifact, shard: str) -> list[list[str]]:
    """Return the pseudo-captions of each row of a shard."""
    captions: list[list[str]] = [[] for _ in range(load_table(embeddings, METADATA, shard, ["key"]).num_rows)]
    if has_table(embeddings, PSEUDO_CAPTIONS, shard):
        for one in load_table(embeddings, PSEUDO_CAPTIONS, shard, ["row", "caption"]).to_pylist():
            captions[one["row"]].append(one["caption"])
    kept = kept_rows(embeddings, shard)
    return captions if kept is None else [captions[row] for row in kept]


def _texts_by_row(
    embeddings: Artifact, shard: str, text_dim: int, kind: str, files: tuple[str, str]
) -> tuple[np.ndarray, Rows]:
    if not has_table(embeddings, files[0], shard):
        return np.zeros(0, dtype=np.int64), np.zeros((0, text_dim), dtype=np.float32)
    table, text = load_table(embeddings, files[0], shard, ["row"]), open_array(embeddings, files[1], shard)
    _require_shape(embeddings, f"{kind} text embeddings of shard {shard}", text, len(table), text_dim)
    return table["row"].to_numpy(), text


def open_text_states(embeddings: Artifact, shard: str, name: str, *, width: int) -> ShardStates:
    """Return the token states of a shard's captions by one text encoder, still on disk."""
    values, offsets = (open_array(embeddings, kind, shard) for kind in state_kinds(name))
    states = ShardStates(values, offsets)
    num_tokens = int(states.offsets[-1])
    _require_shape(embeddings, f"text states ({name}) of shard {shard}", states.values, num_tokens, width)
    return states


def _require_shape(embeddings: Artifact, what: str, found: np.ndarray, rows: int, width: int) -> None:
    if found.shape != (rows, width):
        raise InputFault(
            f"embed_clip: the {what} are {list(found.shape)}: expected [{rows}, {width}] ({embeddings.uri}): "
            "delete that folder and embed again"
        )
