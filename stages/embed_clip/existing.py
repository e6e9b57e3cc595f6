"""Take existing embeddings instead of computing any: the same artifact, with what is known of their norms.

The layout does not say whether embeddings were normalised, which a prior must know: the texts that it is given later
are to be encoded alike. So all norms are looked at, and the models' identities say what was found.
"""

import collections
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float

from cluster.mapping import WorkerResources
from stages.contract.errors import InputFault
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.embed_clip.config import EmbedClipConfig, ExistingEmbeddings
from stages.embed_clip.layout import Part, PartRows, list_parts, read_keys, read_part
from stages.embed_clip.rows import CaptionRows, ShardRows
from stages.encoders.config import with_trained
from stages.formats.shards import index_images
from stages.storage.artifact import Artifact, Output

PLAN = "plan.json"
CLIPS = "clips.json"
NORMALISATION = "normalisation.json"
NORM_TOLERANCE = 1e-3
_DIGITS = 5
Record = dict[str, Any]
Place = tuple[int, int]


@dataclass(frozen=True)
class Unit:
    """A shard to make: the rows of the layout that it takes, as (part, row), and how many of its images have none."""

    name: str
    parts: tuple[Part, ...]
    places: tuple[Place, ...] | None
    """None: all rows of the only part, by their own keys."""
    keys: tuple[str, ...] = ()
    missing: int = 0


def import_embeddings(
    config: EmbedClipConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Bring every part of the layout that is not done yet into our own shards.

    Raises:
        InputFault: the files cannot be used, or are not of the configured models.
    """
    existing = _existing(config)
    parts = list_parts(existing)
    counts: collections.Counter[str] = collections.Counter()
    if existing.with_shards:
        units = list(_joined(existing, parts, inputs["download_shards"], counts))
    else:
        digits = max(_DIGITS, len(str(len(parts) - 1)))
        units = [Unit(f"{index:0{digits}d}", (part,), None) for index, part in enumerate(parts)]
    output.write_json(PLAN, {"units": len(units)})
    clips = _identities(config, inputs)
    records = output.done_units()
    make = functools.partial(_make_worker, config, [int(clip["embed_dim"]) for clip in clips], output)
    resources = WorkerResources(context.resources.num_workers, context.resources.cpus_per_worker)
    context.emit(Progress(len(records), len(units), "shards"))
    for name, record in context.map_shards(make, [unit for unit in units if unit.name not in records], resources):
        records[name] = record
        images = sum(record["rows"] for record in records.values())
        context.emit(Progress(len(records), len(units), "shards", items=images))
    normalised = _publish(clips, records, output)
    return _summarise(records, counts, normalised, sum(int(clip["embed_dim"]) for clip in clips))


def _existing(config: EmbedClipConfig) -> ExistingEmbeddings:
    if config.existing is None:
        raise ValueError("import_embeddings: embed_clip.existing is not set")
    return config.existing


def _identities(config: EmbedClipConfig, inputs: Mapping[str, Artifact]) -> list[Record]:
    """Load the models that the configuration names, since the layout names none, for their digests and widths."""
    from stages.encoders.clip import ClipEncoder

    return ClipEncoder(with_trained(config.clip, inputs), device="cpu").identities


def _joined(
    existing: ExistingEmbeddings, parts: Sequence[Part], shards: Artifact, counts: collections.Counter[str]
) -> Iterator[Unit]:
    """Look up each shard's images among all keys of the layout, which are held in memory (some 150 bytes each)."""
    place_of: dict[str, Place] = {}
    for number, part in enumerate(parts):
        for row, key in enumerate(read_keys(existing, part)):
            counts["repeated_keys"] += key in place_of
            place_of.setdefault(key, (number, row))
    used = 0
    for name in sorted(shards.done_units()):
        source_of = _source_keys(shards, name)
        keys = list(index_images(shards.local(f"shards/{name}.tar")))
        found = [(key, place_of[source]) for key in keys if (source := source_of.get(key, key)) in place_of]
        used += len(found)
        numbers = sorted({number for _, (number, _) in found})
        at = {number: index for index, number in enumerate(numbers)}
        yield Unit(
            name,
            tuple(parts[number] for number in numbers),
            tuple((at[number], row) for _, (number, row) in found),
            tuple(key for key, _ in found),
            len(keys) - len(found),
        )
    counts["embeddings_without_image"] = len(place_of) - used


def _source_keys(shards: Artifact, name: str) -> dict[str, str]:
    """Return the keys that the shard's images had in the shards which they were taken from, if they were."""
    file = pq.ParquetFile(shards.local(f"shards/{name}.parquet"))
    if "source_key" not in file.schema_arrow.names:
        return {}
    table = file.read(["key", "source_key"]).to_pydict()
    return {key: str(source) for key, source in zip(table["key"], table["source_key"], strict=True) if source}


def _make_worker(
    config: EmbedClipConfig, block_dims: Sequence[int], output: Output
) -> Callable[[Unit], tuple[str, Record]]:
    existing, storage = _existing(config), np.dtype(config.storage)

    def make(unit: Unit) -> tuple[str, Record]:
        rows = _rows_of(existing, unit, block_dims)
        finite = np.isfinite(rows.image).all(axis=1)
        failures = {"no_embedding": unit.missing, "not_finite": int((~finite).sum())}
        kept = _select(rows, finite)
        record: Record = {
            "rows": len(kept.keys),
            "captioned": int(kept.has_caption.sum()),
            "failures": {cause: count for cause, count in failures.items() if count},
            "norms": {
                "image": _norms(kept.image, block_dims),
                "text": _norms(kept.text[kept.has_caption], block_dims),
            },
        }
        _write(unit.name, kept, output, storage, sum(block_dims))
        output.finish_unit(unit.name, record)
        return unit.name, record

    return make


def _rows_of(existing: ExistingEmbeddings, unit: Unit, block_dims: Sequence[int]) -> PartRows:
    """Read the unit's rows, a part of the layout at a time."""
    if unit.places is None:
        return _read(existing, unit.parts[0], block_dims)
    places = np.array(unit.places, dtype=np.int64).reshape(-1, 2)
    image = np.zeros((len(places), sum(block_dims)), dtype=np.float32)
    text = image.copy()
    captions: list[str | None] = [None] * len(places)
    for number, part in enumerate(unit.parts):
        rows = _read(existing, part, block_dims)
        here = np.flatnonzero(places[:, 0] == number)
        image[here], text[here] = rows.image[places[here, 1]], rows.text[places[here, 1]]
        for index in here:
            captions[index] = rows.captions[places[index, 1]]
    return PartRows(list(unit.keys), captions, image, text)


def _read(existing: ExistingEmbeddings, part: Part, block_dims: Sequence[int]) -> PartRows:
    rows = read_part(existing, part)
    if rows.image.shape[1] != sum(block_dims):
        raise InputFault(
            f"embed_clip.existing: the embeddings of {part.image} have {rows.image.shape[1]} dimensions, but "
            f"clip.models give {' + '.join(map(str, block_dims))}: name the models that made them, in their order"
        )
    return rows


def _select(rows: PartRows, chosen: np.ndarray) -> PartRows:
    at = np.flatnonzero(chosen)
    return PartRows([rows.keys[i] for i in at], [rows.captions[i] for i in at], rows.image[at], rows.text[at])


def _norms(rows: Float[np.ndarray, "rows embed"], block_dims: Sequence[int]) -> list[float] | None:
    """Return the smallest and the largest norm over rows and models; None where there is no row."""
    ends = np.cumsum(block_dims)[:-1]
    norms = np.stack([np.linalg.norm(block.astype(np.float64), axis=1) for block in np.split(rows, ends, axis=1)])
    return [float(norms.min()), float(norms.max())] if norms.size else None


def _write(name: str, rows: PartRows, output: Output, storage: np.dtype[Any], embed_dim: int) -> None:
    with np.errstate(over="ignore"):
        if not np.isfinite(rows.image.astype(storage)).all():
            raise InputFault(
                f"embed_clip.storage: image embeddings of shard {name} do not fit into {storage}: "
                "expected finite numbers: set embed_clip.storage: float32"
            )
    shard = ShardRows(rows.keys, rows.captions, [rows.image], CaptionRows([rows.text]))
    shard.write(name, output, storage=storage, embed_dim=embed_dim, widths={})


def _publish(clips: list[Record], records: Mapping[str, Record], output: Output) -> dict[str, Any]:
    """Record the norms that were found, and in the models' identities whether the embeddings are normalised."""
    found: dict[str, Any] = {}
    for kind in ("image", "text"):
        norms = [record["norms"][kind] for record in records.values() if record["norms"][kind] is not None]
        if norms:
            low, high = min(norm[0] for norm in norms), max(norm[1] for norm in norms)
            unit = abs(low - 1) <= NORM_TOLERANCE and abs(high - 1) <= NORM_TOLERANCE
            found[kind] = {"smallest_norm": low, "largest_norm": high, "normalised": unit}
    output.write_json(NORMALISATION, {"tolerance": NORM_TOLERANCE, **found})
    if len({kind["normalised"] for kind in found.values()}) > 1:
        raise InputFault(
            f"embed_clip.existing: of image and text embeddings only one kind has norms of 1 ({found}): expected both "
            "normalised or neither: give embeddings that were made alike"
        )
    normalised = any(kind["normalised"] for kind in found.values())
    output.write_json(CLIPS, [clip | ({"normalised": True} if normalised else {}) for clip in clips])
    return found


def _summarise(
    records: Mapping[str, Record], counts: Mapping[str, int], norms: Mapping[str, Any], embed_dim: int
) -> StageSummary:
    totals: collections.Counter[str] = collections.Counter()
    for record in records.values():
        totals.update({"images": record["rows"], "captioned": record["captioned"]})
        totals.update({f"failed_{cause}": count for cause, count in record["failures"].items()})
    if totals["images"] == 0:
        raise InputFault(
            f"embed_clip.existing: none of the embeddings can be used ({dict(totals) | dict(counts)}): expected "
            "keys that name images of download_shards: look at key_column, or set with_shards: false"
        )
    metrics = {"embed_dim": float(embed_dim)}
    for kind, found in norms.items():
        metrics |= {f"{kind}/{name}": float(value) for name, value in found.items()}
    kept = {name: count for name, count in counts.items() if count}
    return StageSummary(items=totals["images"], counts=dict(totals) | kept, metrics=metrics)
