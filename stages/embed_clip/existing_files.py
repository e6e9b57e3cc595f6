"""Read existing embeddings in the layout of clip-retrieval and LAION (images, texts and metadata, file beside file) and
write them as our own shards.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

from cluster.isolated_child import Handler
from stages.contract.errors import FailureCause, InputFault
from stages.contract.parsing import Unreadable, parsing, shown
from stages.embed_clip.config import ExistingEmbeddings
from stages.formats.embeddings.foreign_names import SUFFIXES, by_part
from stages.formats.embeddings.layout import IMAGE, METADATA, TEXT, EmbeddingNorms, EmbeddingsRecord
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings, Storage
from stages.formats.foreign_parquet import ParquetReader, handler, on_this_machine
from stages.storage.artifact import Output
from stages.storage.filesystems import open_address
from stages.storage.listing import find_files
from stages.storage.walking import is_hidden
from stages.streaming.staleness import Contents

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


@dataclass(frozen=True)
class PartMetadata:
    """What the metadata of a part says of its rows."""

    keys: list[str]
    captions: list[str | None]


def list_parts(existing: ExistingEmbeddings) -> list[Part]:
    """Find the files, in the order of their names; those of one part have equal names but for what they hold."""
    fs, root = open_address(existing.path)
    listed = {kind: find_files(fs, f"{root}/{kind}", f"*.{suffix}") for kind, suffix in SUFFIXES.items()}
    names = {kind: [name for name in listed[kind] if not is_hidden(name.rpartition("/")[2])] for kind in listed}
    found = by_part(f"embed_clip.existing.path: {existing.path}", names)
    images = found[IMAGE]
    for kind in (IMAGE, METADATA, TEXT):
        there = found[kind]
        if (there.keys() != images.keys() and (there or kind != TEXT)) or not images:
            raise InputFault(
                f"embed_clip.existing.path: {existing.path} has {len(images)} files {IMAGE}/*.npy and {len(there)} of "
                f"{kind}{_first_difference(images, there)}: expected {IMAGE}/{IMAGE}_0000.npy, "
                f"{METADATA}/{METADATA}_0000.parquet and so on, and as many of each: complete the folder"
            )
    addresses = {kind: {key: fs.unstrip_protocol(name) for key, name in found[kind].items()} for kind in found}
    parts = [Part(addresses[IMAGE][key], addresses[TEXT].get(key), addresses[METADATA][key]) for key in images]
    assert len(parts) == len(names[IMAGE])
    return parts


def read_part(existing: ExistingEmbeddings, part: Part) -> PartRows:
    """Read a part whole; a caption counts where it is not blank and has an embedding."""
    metadata = read_metadata(existing, part)
    keys = metadata.keys
    image = _load(part.image, len(keys))
    text = np.full(image.shape, np.nan, dtype=np.float32) if part.text is None else _load(part.text, len(keys))
    if text.shape != image.shape:
        raise InputFault(
            f"embed_clip.existing: {part.text} is {list(text.shape)}, but its image embeddings {list(image.shape)}: "
            "expected the same width of both: give embeddings of one CLIP (or several, side by side)"
        )
    embedded: Bool[np.ndarray, " rows"] = np.asarray(np.isfinite(text).all(axis=1))
    captions = [
        caption if caption and caption.strip() and there else None
        for caption, there in zip(metadata.captions, embedded, strict=True)
    ]
    rows = PartRows(keys, captions, image, np.where(embedded[:, None], text, np.nan))
    rows.text[~rows.has_caption] = np.nan
    return rows


def _first_difference(left: Iterable[str], right: Iterable[str]) -> str:
    odd = sorted(set(left) ^ set(right))
    return f" (number {shown(odd[0], 60)} is not on both sides)" if odd else ""


def read_metadata(existing: ExistingEmbeddings, part: Part) -> PartMetadata:
    """Read the keys of a part's rows, and their captions where there are any."""
    expected = functools.partial(_unreadable, part.metadata, "a parquet file of keys and captions")
    with parsing(expected), ParquetReader(make_handler) as reader, on_this_machine(part.metadata) as path:
        footer = reader.footer(path)
        key = _key_column(existing, part, footer.names)
        caption = existing.caption_column if existing.caption_column in footer.names else None
        columns = {"key": key} | ({} if caption is None else {"caption": caption})
        rows = pa.concat_tables(reader.groups(path, footer, columns, sorted(set(columns.values()))))
    keys = rows["key"].to_pylist()
    if None in keys:
        raise InputFault(
            f"embed_clip.existing: row {keys.index(None)} of {shown(part.metadata)} has no {shown(key, 40)!r}: "
            "expected a key in every row: complete them, or name another column by key_column"
        )
    return PartMetadata(keys, [None] * len(keys) if caption is None else rows["caption"].to_pylist())


def make_handler() -> Handler:
    """Return what the child does with a question about metadata."""
    return handler(_as_texts)


def _as_texts(table: pa.Table, asked: Mapping[str, Any]) -> pa.Table:
    """Return columns as texts, by what they are for; keys may be whole numbers."""
    return pa.table({purpose: _texts(table[name], name, purpose) for purpose, name in asked.items()})


def _texts(column: pa.ChunkedArray, name: str, purpose: str) -> pa.ChunkedArray:
    types = pa.types
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    if not any(test(kind) for test in (*texts, types.is_null, *((types.is_integer,) if purpose == "key" else ()))):
        allowed = "texts or whole numbers" if purpose == "key" else "texts"
        raise Unreadable(
            f"column {shown(name, 40)!r} holds {shown(kind, 60)}, where each {purpose} is one of {allowed}"
        )
    made = column.cast(kind).cast(pa.string())
    made.validate(full=True)  # bytes may be no texts
    return made


def _unreadable(address: str, expected: str, reason: str) -> InputFault:
    return InputFault(f"embed_clip.existing: {shown(address)} cannot be read ({reason}): expected {expected}: mend it")


def _key_column(existing: ExistingEmbeddings, part: Part, names: Sequence[str]) -> str:
    wanted = _KEY_COLUMNS if existing.key_column is None else (existing.key_column,)
    column = next((name for name in wanted if name in names), None)
    if column is None:
        raise InputFault(
            f"embed_clip.existing.key_column: {shown(part.metadata)} has no column {shown(' or '.join(wanted))}: "
            f"allowed are its columns {shown(', '.join(names))}: name the one of the keys"
        )
    return column


def _load(address: str, num_rows: int) -> Rows:
    fs, path = open_address(address)
    with fs.open(path, "rb") as file, parsing(functools.partial(_unreadable, address, "a .npy file of numbers")):
        values: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    if values.ndim != 2 or len(values) != num_rows or values.dtype.kind not in "fiu":
        raise InputFault(
            f"embed_clip.existing: {address} is {values.dtype} {list(values.shape)}: expected numbers "
            f"[{num_rows}, dimensions], a row for each row of its metadata: give files that belong together"
        )
    return values.astype(np.float32)


@dataclass(frozen=True)
class ImportedShard:
    """A shard to make: its rows as (part, row) of the layout, and how many of its images have none, by cause."""

    name: str
    parts: tuple[Part, ...]
    indices: tuple[tuple[int, int], ...] | None
    """None: all rows of the only part, by their own keys."""
    keys: tuple[str, ...] = ()
    lost: Mapping[FailureCause, int] = field(default_factory=dict)


def make_import_worker(
    existing: ExistingEmbeddings, block_dims: Sequence[int], storage: str, output: Output, *, made_from: Contents
) -> Callable[[ImportedShard], EmbeddingsRecord]:
    """Return the function that writes one shard; ``block_dims`` are the widths of the CLIP models.

    ``made_from`` says what the shards hold to which the embeddings are joined.
    """

    def work(shard: ImportedShard) -> EmbeddingsRecord:
        rows = _rows_of(existing, shard, block_dims)
        finite = np.isfinite(rows.image).all(axis=1)
        failures = {**shard.lost, FailureCause.NOT_FINITE: int((~finite).sum())}
        kept = _select(rows, finite)
        _write(shard.name, kept, output, np.dtype(storage))
        return EmbeddingsRecord(
            made_from=made_from.get(shard.name, ""),
            rows=len(kept.keys),
            captioned=int(kept.has_caption.sum()),
            failures={cause.value: count for cause, count in failures.items() if count},
            norms=EmbeddingNorms(
                image=_norms(kept.image, block_dims), text=_norms(kept.text[kept.has_caption], block_dims)
            ),
        )

    return work


def _rows_of(existing: ExistingEmbeddings, shard: ImportedShard, block_dims: Sequence[int]) -> PartRows:
    """Read the shard's rows, a part of the layout at a time."""
    if shard.indices is None:
        return _read_fitting(existing, shard.parts[0], block_dims)
    indices = np.array(shard.indices, dtype=np.int64).reshape(-1, 2)
    image = np.zeros((len(indices), sum(block_dims)), dtype=np.float32)
    text = image.copy()
    captions: list[str | None] = [None] * len(indices)
    for number, part in enumerate(shard.parts):
        rows = _read_fitting(existing, part, block_dims)
        here = np.flatnonzero(indices[:, 0] == number)
        image[here], text[here] = rows.image[indices[here, 1]], rows.text[indices[here, 1]]
        for index in here:
            captions[index] = rows.captions[indices[index, 1]]
    return PartRows(list(shard.keys), captions, image, text)


def _read_fitting(existing: ExistingEmbeddings, part: Part, block_dims: Sequence[int]) -> PartRows:
    rows = read_part(existing, part)
    if rows.image.shape[1] != sum(block_dims):
        raise InputFault(
            f"embed_clip.existing: the embeddings of {part.image} have {rows.image.shape[1]} dimensions, but "
            f"clip.models give {' + '.join(map(str, block_dims))}: name the models that made them, in their order"
        )
    return rows


def _select(rows: PartRows, chosen: Bool[np.ndarray, " rows"]) -> PartRows:
    at = np.flatnonzero(chosen)
    return PartRows([rows.keys[i] for i in at], [rows.captions[i] for i in at], rows.image[at], rows.text[at])


def _norms(rows: Rows, block_dims: Sequence[int]) -> tuple[float, float] | None:
    """Return the smallest and the largest norm over rows and models; None where there is no row."""
    ends = np.cumsum(block_dims)[:-1]
    norms = np.stack([np.linalg.norm(block.astype(np.float64), axis=1) for block in np.split(rows, ends, axis=1)])
    return (float(norms.min()), float(norms.max())) if norms.size else None


def _write(name: str, rows: PartRows, output: Output, storage: Storage) -> None:
    with np.errstate(over="ignore"):
        if not np.isfinite(rows.image.astype(storage)).all():
            raise InputFault(
                f"embed_clip.storage: image embeddings of shard {name} do not fit into {storage}: "
                "expected finite numbers: set embed_clip.storage: float32"
            )
    shard = ShardEmbeddings(rows.keys, rows.captions, [rows.image], EncodedCaptions([rows.text]))
    shard.write(name, output, storage=storage, embed_dim=rows.image.shape[1], widths={})
