"""Write the embeddings and text states of one shard."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from stages.contract.errors import InputFault
from stages.formats.embeddings.layout import (
    EXTRA_CAPTIONS,
    EXTRA_TEXT,
    IMAGE,
    METADATA,
    PSEUDO_CAPTIONS,
    PSEUDO_TEXT,
    TEXT,
    state_kinds,
)
from stages.formats.per_shard import save_array, save_table
from stages.storage.artifact import Output

_METADATA_SCHEMA = pa.schema([("key", pa.string()), ("caption", pa.string()), ("has_caption", pa.bool_())])
_EXTRA_SCHEMA = pa.schema([("key", pa.string()), ("row", pa.int64()), ("caption", pa.string())])

Rows = Float[np.ndarray, "rows embed"]
States = Float[np.ndarray, "tokens width"]
Storage = np.dtype[Any]


@dataclass
class EncodedCaptions:
    """Encoded captions, one a row: their embeddings in blocks, and the token states of each by encoder."""

    text: list[Rows] = field(default_factory=list)
    states: dict[str, list[States]] = field(default_factory=dict)

    def add(
        self,
        embedding: Rows,
        states: Mapping[str, Sequence[States]],
        *,
        rows: Sequence[int],
        count: int,
        dtype: Storage,
    ) -> None:
        """Add ``count`` rows, of which ``rows`` have a caption; the others are NaN and have no states."""
        text = np.full((count, embedding.shape[1]), np.nan, dtype=np.float32)
        text[rows] = embedding
        self.text.append(text)
        number_of = {row: number for number, row in enumerate(rows)}
        for name, found in states.items():
            with np.errstate(over="ignore"):  # what does not fit is refused when it is written
                stored = [one.astype(dtype) for one in found]
            none = np.zeros((0, 0), dtype=dtype)
            added = (stored[number_of[row]] if row in number_of else none for row in range(count))
            self.states.setdefault(name, []).extend(added)


@dataclass
class ShardEmbeddings:
    """The rows of one shard, in the order of its keys, the human captions of an image that are not its first, and its
    pseudo-captions.
    """

    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    image: list[Rows] = field(default_factory=list)
    first: EncodedCaptions = field(default_factory=EncodedCaptions)
    extra: list[tuple[int, str]] = field(default_factory=list)
    """Row and caption."""
    further: EncodedCaptions = field(default_factory=EncodedCaptions)
    pseudo: list[tuple[int, str]] = field(default_factory=list)
    """Row and caption."""
    encoded_pseudo: EncodedCaptions = field(default_factory=EncodedCaptions)

    def write(
        self,
        name: str,
        output: Output,
        *,
        storage: Storage,
        embed_dim: int,
        widths: Mapping[str, int],
        text_dim: int | None = None,
    ) -> None:
        """Write the files of the shard; ``widths`` names the text encoders with the widths of their states.

        ``text_dim`` is the width of text embeddings; None: that of image embeddings, ``embed_dim``.
        """
        text_dim = embed_dim if text_dim is None else text_dim
        save_array(output, IMAGE, name, _concatenated(self.image, embed_dim, storage))
        save_array(output, TEXT, name, _concatenated(self.first.text, text_dim, storage))
        has_caption = [caption is not None for caption in self.captions]
        metadata = {"key": self.keys, "caption": self.captions, "has_caption": has_caption}
        save_table(output, METADATA, name, pa.table(metadata, schema=_METADATA_SCHEMA))
        for (table, array), captions, encoded in (
            ((EXTRA_CAPTIONS, EXTRA_TEXT), self.extra, self.further),
            ((PSEUDO_CAPTIONS, PSEUDO_TEXT), self.pseudo, self.encoded_pseudo),
        ):
            if captions:
                rows, texts = zip(*captions, strict=True)
                columns = {"key": [self.keys[row] for row in rows], "row": rows, "caption": texts}
                save_table(output, table, name, pa.table(columns, schema=_EXTRA_SCHEMA))
                save_array(output, array, name, _concatenated(encoded.text, text_dim, storage))
        for encoder, width in widths.items():
            parts = (self.first, self.further, self.encoded_pseudo)
            states = [one for part in parts for one in part.states.get(encoder, [])]
            _save_states(output, encoder, name, states, _concatenated(filter(len, states), width, storage))


def _save_states(output: Output, encoder: str, name: str, states: Sequence[States], values: States) -> None:
    if not np.isfinite(values).all():
        raise InputFault(
            f"embed_clip: text states of {encoder} in shard {name} do not fit into {values.dtype}: "
            "expected finite numbers: set embed_clip.storage: float32"
        )
    values_kind, offsets_kind = state_kinds(encoder)
    save_array(output, values_kind, name, values)
    save_array(output, offsets_kind, name, np.cumsum([0, *(len(one) for one in states)], dtype=np.int64))


def _concatenated(blocks: Iterable[np.ndarray], width: int, storage: Storage) -> Rows:
    return np.concatenate([np.zeros((0, width), dtype=storage), *blocks]).astype(storage)
