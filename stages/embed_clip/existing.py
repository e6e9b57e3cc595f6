"""Import existing embeddings instead of computing any: the same artifact, with what is known of their norms.

The layout does not say whether embeddings were normalised, which a prior must know: texts are later to be encoded
alike. So all norms are measured, and the models' identities say what was found.
"""

import collections
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pyarrow as pa

from stages.contract.documents import Totals
from stages.contract.errors import InputFault
from stages.contract.stage import StageContext, StageSummary
from stages.embed_clip.config import EmbedClipConfig, ExistingEmbeddings
from stages.embed_clip.existing_files import ImportedShard, Part, list_parts, make_import_worker, read_keys
from stages.encoders.config import local_clips
from stages.formats.clips import Clips, write_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, NormRange, write_norm_ranges
from stages.formats.shards import index_images, read_table, shard_names, shard_tar
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import UnitList, UnitRunner

NORM_TOLERANCE = 1e-3


def import_embeddings(
    config: EmbedClipConfig,
    existing: ExistingEmbeddings,
    inputs: Mapping[str, Artifact],
    output: Output,
    context: StageContext,
) -> StageSummary:
    """Write the embeddings of every part of the layout that is not done yet as our own shards."""
    parts = list_parts(existing)
    counts: collections.Counter[str] = collections.Counter()
    if existing.with_shards:
        units = list(_join(existing, parts, inputs["download_shards"], counts))
    else:
        units = [ImportedShard(name, (part,), None) for name, part in zip(shard_names(len(parts)), parts, strict=True)]
    clips = _configured_clips(config, inputs)
    runner = UnitRunner(
        output=output,
        units=UnitList(units),
        kind=EmbeddingsRecord,
        records=EmbeddingsRecord.done(output),
        make_worker=functools.partial(make_import_worker, existing, clips.block_dims, config.storage, output),
        resources=replace(context.resources.for_shards(), num_gpus=0),
    )
    records = runner.run(context)
    norms = _write_norms(records, output)
    normalised = any(norm.normalised for norm in norms.values())
    write_clips(output, clips.with_normalised() if normalised else clips)
    return _summarise(records, counts, norms, clips.embed_dim)


def _configured_clips(config: EmbedClipConfig, inputs: Mapping[str, Artifact]) -> Clips:
    """Load the models that the configuration names, since the layout names none, for their digests and widths."""
    from stages.encoders.clip import ClipEncoder

    return ClipEncoder(local_clips(config.clip, inputs), device="cpu").identities


def _join(
    existing: ExistingEmbeddings, parts: Sequence[Part], shards: Artifact, counts: collections.Counter[str]
) -> Iterator[ImportedShard]:
    """Look up each shard's images among all keys of the layout, which are held in memory (some 150 bytes each)."""
    row_of: dict[str, tuple[int, int]] = {}  # the number of the part, and the row in it
    for number, part in enumerate(parts):
        for row, key in enumerate(read_keys(existing, part)):
            counts["repeated_keys"] += key in row_of
            row_of.setdefault(key, (number, row))
    used = 0
    for name in sorted(shards.done_units()):
        names_of = _names(read_table(shards, name, ["key", "source_key", "url"]))
        keys = list(index_images(shard_tar(shards, name)))
        known = [(key, next((one for one in names_of[key] if one in row_of), None)) for key in keys]
        found = [(key, row_of[one]) for key, one in known if one is not None]
        used += len(found)
        numbers = sorted({number for _, (number, _) in found})
        index_of = {number: index for index, number in enumerate(numbers)}
        yield ImportedShard(
            name,
            tuple(parts[number] for number in numbers),
            tuple((index_of[number], row) for _, (number, row) in found),
            tuple(key for key, _ in found),
            len(keys) - len(found),
        )
    counts["embeddings_without_image"] = len(row_of) - used


def _names(table: pa.Table) -> dict[str, list[str]]:
    """Return what each sample of a shard may be called elsewhere: by the key it had there, by its own, by address."""
    columns = [name for name in ("source_key", "key", "url") if name in table.column_names]
    rows = table.select(columns).to_pylist()
    return {row["key"]: [str(row[name]) for name in columns if row[name]] for row in rows}


def _write_norms(records: Mapping[str, EmbeddingsRecord], output: Output) -> dict[str, NormRange]:
    """Write the smallest and largest norms of all shards, by kind of embedding."""
    found: dict[str, NormRange] = {}
    for kind in ("image", "text"):
        norms = [norm for one in records.values() if one.norms and (norm := getattr(one.norms, kind)) is not None]
        if norms:
            low, high = min(norm[0] for norm in norms), max(norm[1] for norm in norms)
            unit = abs(low - 1) <= NORM_TOLERANCE and abs(high - 1) <= NORM_TOLERANCE
            found[kind] = NormRange(smallest_norm=low, largest_norm=high, normalised=unit)
    write_norm_ranges(output, found, NORM_TOLERANCE)
    if len({norm.normalised for norm in found.values()}) > 1:
        ranges = ", ".join(
            f"{kind} {norm.smallest_norm:.4g} to {norm.largest_norm:.4g}" for kind, norm in found.items()
        )
        raise InputFault(
            f"embed_clip.existing: only one of image and text embeddings has norms of 1 ({ranges}): expected both "
            "normalised or neither: give embeddings that were made alike"
        )
    return found


def _summarise(
    records: Mapping[str, EmbeddingsRecord],
    counts: Mapping[str, int],
    norms: Mapping[str, NormRange],
    embed_dim: int,
) -> StageSummary:
    totals = Totals.of(records.values())
    if totals.images == 0:
        raise InputFault(
            f"embed_clip.existing: none of the embeddings can be used ({totals.named | dict(counts)}): expected "
            "keys that name images of download_shards: look at key_column, or set with_shards: false"
        )
    metrics = {"embed_dim": float(embed_dim)}
    for kind, norm in norms.items():
        metrics |= {f"{kind}/{name}": float(value) for name, value in norm.to_json().items()}
    further = {name: count for name, count in counts.items() if count}
    return StageSummary(items=totals.images, counts=totals.named | further, metrics=metrics)
