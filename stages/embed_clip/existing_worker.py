"""Import one shard of existing embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from stages.contract.causes import FailureCause
from stages.contract.errors import InputFault
from stages.embed_clip.config import ExistingEmbeddings
from stages.embed_clip.existing_files import Part, PartRows, read_part
from stages.formats.embeddings.layout import EmbeddingNorms, EmbeddingsRecord
from stages.formats.embeddings.writer import EncodedCaptions, ShardEmbeddings, Storage
from stages.storage.artifact import Output

Rows = Float[np.ndarray, "rows embed"]


@dataclass(frozen=True)
class ImportedShard:
    """A shard to make: its rows as (part, row) of the layout, and how many of its images have none."""

    name: str
    parts: tuple[Part, ...]
    indices: tuple[tuple[int, int], ...] | None
    """None: all rows of the only part, by their own keys."""
    keys: tuple[str, ...] = ()
    missing: int = 0


def make_import_worker(
    existing: ExistingEmbeddings, block_dims: Sequence[int], storage: str, output: Output
) -> Callable[[ImportedShard], EmbeddingsRecord]:
    """Return the function that writes one shard; ``block_dims`` are the widths of the CLIP models."""

    def work(shard: ImportedShard) -> EmbeddingsRecord:
        rows = _rows_of(existing, shard, block_dims)
        finite = np.isfinite(rows.image).all(axis=1)
        failures = {FailureCause.NO_EMBEDDING: shard.missing, FailureCause.NOT_FINITE: int((~finite).sum())}
        kept = _select(rows, finite)
        _write(shard.name, kept, output, np.dtype(storage))
        return EmbeddingsRecord(
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
        return _read(existing, shard.parts[0], block_dims)
    indices = np.array(shard.indices, dtype=np.int64).reshape(-1, 2)
    image = np.zeros((len(indices), sum(block_dims)), dtype=np.float32)
    text = image.copy()
    captions: list[str | None] = [None] * len(indices)
    for number, part in enumerate(shard.parts):
        rows = _read(existing, part, block_dims)
        here = np.flatnonzero(indices[:, 0] == number)
        image[here], text[here] = rows.image[indices[here, 1]], rows.text[indices[here, 1]]
        for index in here:
            captions[index] = rows.captions[indices[index, 1]]
    return PartRows(list(shard.keys), captions, image, text)


def _read(existing: ExistingEmbeddings, part: Part, block_dims: Sequence[int]) -> PartRows:
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
