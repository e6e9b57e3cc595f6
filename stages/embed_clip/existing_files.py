"""Read existing embeddings in the layout of clip-retrieval and LAION: images, texts and metadata, file beside file."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float

from stages.contract.errors import InputFault
from stages.embed_clip.config import ExistingEmbeddings
from stages.formats.embeddings.layout import IMAGE, METADATA, TEXT
from stages.storage.filesystems import open_address

_KEY_COLUMNS = ("key", "image_path")
Rows = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class Part:
    """Files that belong together, by their addresses; the text embeddings may be missing."""

    image: str
    text: str | None
    metadata: str


@dataclass(frozen=True)
class PartRows:
    """One part in memory; ``text`` is NaN where there is no caption."""

    keys: list[str]
    captions: list[str | None]
    image: Rows
    text: Rows

    @cached_property
    def has_caption(self) -> Bool[np.ndarray, " rows"]:
        """Which rows have a caption and the embedding of it."""
        return np.array([caption is not None for caption in self.captions], dtype=bool)


def list_parts(existing: ExistingEmbeddings) -> list[Part]:
    """Find the files, in the order of their names; those of one part have equal names but for what they hold."""
    fs, root = open_address(existing.path)
    found = {
        kind: {_number(name): fs.unstrip_protocol(name) for name in sorted(fs.glob(f"{root}/{kind}/*.{suffix}"))}
        for kind, suffix in ((IMAGE, "npy"), (TEXT, "npy"), (METADATA, "parquet"))
    }
    numbers = list(found[IMAGE])
    for kind in (IMAGE, METADATA, TEXT):
        there = list(found[kind])
        if (there != numbers and (there or kind != TEXT)) or not numbers:
            raise InputFault(
                f"embed_clip.existing.path: {existing.path} has {len(numbers)} files {IMAGE}/*.npy and {len(there)} of "
                f"{kind}{_first_difference(numbers, there)}: expected {IMAGE}/{IMAGE}_0000.npy, "
                f"{METADATA}/{METADATA}_0000.parquet and so on, and as many of each: complete the folder"
            )
    return [Part(found[IMAGE][n], found[TEXT].get(n), found[METADATA][n]) for n in numbers]


def read_keys(existing: ExistingEmbeddings, part: Part) -> list[str]:
    """Return the keys of a part's rows."""
    return _keys(existing, part, _metadata(part))


def read_part(existing: ExistingEmbeddings, part: Part) -> PartRows:
    """Read a part whole; a caption counts where it is not blank and has an embedding."""
    table = _metadata(part)
    keys = _keys(existing, part, table)
    image = _load(part.image, len(keys))
    text = np.full(image.shape, np.nan, dtype=np.float32) if part.text is None else _load(part.text, len(keys))
    if text.shape != image.shape:
        raise InputFault(
            f"embed_clip.existing: {part.text} is {list(text.shape)}, but its image embeddings {list(image.shape)}: "
            "expected the same width of both: give embeddings of one CLIP (or several, side by side)"
        )
    embedded: Bool[np.ndarray, " rows"] = np.asarray(np.isfinite(text).all(axis=1))
    captions: list[str | None] = [None] * len(keys)
    if existing.caption_column in table.column_names:
        texts = table[existing.caption_column].to_pylist()
        captions = [
            str(caption) if caption and str(caption).strip() and there else None
            for caption, there in zip(texts, embedded, strict=True)
        ]
    rows = PartRows(keys, captions, image, np.where(embedded[:, None], text, np.nan))
    rows.text[~rows.has_caption] = np.nan
    return rows


def _number(path: str) -> str:
    """Return what the names of a part's files have in common: img_emb_0012.npy and metadata_0012.parquet, 0012."""
    return path.rpartition("/")[2].rpartition(".")[0].rpartition("_")[2]


def _first_difference(left: list[str], right: list[str]) -> str:
    odd = sorted(set(left) ^ set(right))
    return f" (number {odd[0]} is not on both sides)" if odd else ""


def _metadata(part: Part) -> pa.Table:
    fs, path = open_address(part.metadata)
    with fs.open(path, "rb") as file:
        return pq.read_table(file)


def _keys(existing: ExistingEmbeddings, part: Part, table: pa.Table) -> list[str]:
    wanted = _KEY_COLUMNS if existing.key_column is None else (existing.key_column,)
    column = next((name for name in wanted if name in table.column_names), None)
    if column is None:
        raise InputFault(
            f"embed_clip.existing.key_column: {part.metadata} has no column {' or '.join(wanted)}: allowed are its "
            f"columns {', '.join(table.column_names)}: name the one of the keys"
        )
    return [str(key) for key in table[column].to_pylist()]


def _load(address: str, num_rows: int) -> Rows:
    fs, path = open_address(address)
    with fs.open(path, "rb") as file:
        values: np.ndarray[Any, Any] = np.load(file, allow_pickle=False)
    if values.ndim != 2 or len(values) != num_rows:
        raise InputFault(
            f"embed_clip.existing: {address} is {list(values.shape)}: expected [{num_rows}, dimensions], a row for "
            "each row of its metadata: give files that belong together"
        )
    return values.astype(np.float32)
