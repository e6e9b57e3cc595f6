"""What is known of one shard's images and captions, and how it is written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float

from stages.contract.errors import InputFault
from stages.storage.artifact import Output

if TYPE_CHECKING:
    from stages.encoders.text import EncodedTexts

_METADATA = pa.schema([("key", pa.string()), ("caption", pa.string()), ("has_caption", pa.bool_())])
_EXTRA = pa.schema([("key", pa.string()), ("row", pa.int64()), ("caption", pa.string())])

Rows = Float[np.ndarray, "rows embed"]
Storage = np.dtype[Any]


@dataclass
class CaptionRows:
    """Captions in a row: their embeddings in blocks, and the token states of each by encoder."""

    text: list[Rows] = field(default_factory=list)
    states: dict[str, list[Float[np.ndarray, "tokens width"]]] = field(default_factory=dict)

    def add(self, encoded: "EncodedTexts", places: Sequence[int], count: int, storage: Storage) -> None:
        """Add ``count`` rows, of which those at ``places`` have a caption; the others are NaN and have no states."""
        text = np.full((count, encoded.embedding.shape[1]), np.nan, dtype=np.float32)
        text[places] = encoded.embedding.numpy()
        self.text.append(text)
        at = {place: number for number, place in enumerate(places)}
        for name, states in encoded.states.items():
            with np.errstate(over="ignore"):  # what does not fit is refused when it is written
                kept = [one.numpy().astype(storage) for one in states]
            none = np.zeros((0, 0), dtype=storage)
            self.states.setdefault(name, []).extend(kept[at[row]] if row in at else none for row in range(count))


@dataclass
class ShardRows:
    """The rows of one shard, in the order of its keys, and the captions of an image that are not its first."""

    keys: list[str] = field(default_factory=list)
    captions: list[str | None] = field(default_factory=list)
    image: list[Rows] = field(default_factory=list)
    first: CaptionRows = field(default_factory=CaptionRows)
    extra: list[tuple[int, str]] = field(default_factory=list)  # row and caption
    further: CaptionRows = field(default_factory=CaptionRows)

    def write(self, name: str, output: Output, *, storage: Storage, embed_dim: int, widths: dict[str, int]) -> None:
        """Write the files of the shard; ``widths`` names the text encoders with the widths of their states.

        img_emb, text_emb      [rows, embed], as embedding-reader and clip-retrieval have them; no caption: NaN
        metadata               key, caption (the first), has_caption
        extra_text_emb         [further captions, embed], where there are any
        extra_captions         key, row, caption of each of them, in the order of the rows
        <encoder>_states       [tokens of all captions, width]
        <encoder>_offsets      [rows + further captions + 1]: where the tokens of each caption begin

        Raises:
            InputFault: text states do not fit the type they are to be stored in.
        """
        _save(output, "img_emb", name, _concatenated(self.image, embed_dim, storage))
        _save(output, "text_emb", name, _concatenated(self.first.text, embed_dim, storage))
        has_caption = [caption is not None for caption in self.captions]
        columns = {"key": self.keys, "caption": self.captions, "has_caption": has_caption}
        _save_table(output, "metadata", name, pa.table(columns, schema=_METADATA))
        if self.extra:
            rows = [row for row, _ in self.extra]
            columns = {
                "key": [self.keys[row] for row in rows],
                "row": rows,
                "caption": [text for _, text in self.extra],
            }
            _save_table(output, "extra_captions", name, pa.table(columns, schema=_EXTRA))
            _save(output, "extra_text_emb", name, _concatenated(self.further.text, embed_dim, storage))
        for encoder, width in widths.items():
            states = self.first.states.get(encoder, []) + self.further.states.get(encoder, [])
            _save_states(output, encoder, name, states, width, storage)


def _save_states(
    output: Output, encoder: str, name: str, states: Sequence[np.ndarray], width: int, storage: Storage
) -> None:
    values = _concatenated((one for one in states if len(one)), width, storage)
    if not np.isfinite(values).all():
        raise InputFault(
            f"embed_clip: text states of {encoder} in shard {name} do not fit into {storage}: "
            "expected finite numbers: set embed_clip.storage: float32"
        )
    offsets = np.cumsum([0, *(len(one) for one in states)], dtype=np.int64)
    _save(output, f"{encoder}_states", name, values)
    _save(output, f"{encoder}_offsets", name, offsets)


def _concatenated(blocks: Iterable[np.ndarray], width: int, storage: Storage) -> Rows:
    return np.concatenate([np.zeros((0, width), dtype=storage), *blocks]).astype(storage)


def _save(output: Output, kind: str, name: str, content: np.ndarray) -> None:
    with output.writing(f"{kind}/{kind}_{name}.npy") as path, path.open("wb") as file:
        np.save(file, content)


def _save_table(output: Output, kind: str, name: str, table: pa.Table) -> None:
    with output.writing(f"{kind}/{kind}_{name}.parquet") as path:
        pq.write_table(table, path)
