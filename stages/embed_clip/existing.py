"""Import existing embeddings instead of computing any: the same artifact, with what is known of their norms.

The layout does not say whether embeddings were normalised, which a prior must know: texts are later to be encoded
alike. So all norms are measured, and the models' identities say what was found.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace

from stages.contract.documents import Totals
from stages.contract.errors import InputFault
from stages.contract.stage import StageContext, StageSummary
from stages.embed_clip.config import EmbedClipConfig, ExistingEmbeddings
from stages.embed_clip.contents import contents
from stages.embed_clip.existing_files import ImportedShard, list_parts, make_import_worker
from stages.embed_clip.existing_join import join
from stages.encoders.config import local_clips
from stages.formats.clips import Clips, write_clips
from stages.formats.embeddings.layout import EmbeddingsRecord, NormRange, write_norm_ranges
from stages.formats.shards import shard_names
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import UnitList, UnitRunner
from stages.streaming.staleness import Contents, without_stale

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
    counts: Mapping[str, int] = {}
    made_from: Contents = {}
    if existing.with_shards:
        made_from = contents(config, inputs)
        units, counts = join(existing, parts, inputs["download_shards"])
    else:
        units = [ImportedShard(name, (part,), None) for name, part in zip(shard_names(len(parts)), parts, strict=True)]
    clips = _configured_clips(config, inputs)
    runner = UnitRunner(
        output=output,
        units=UnitList(units),
        kind=EmbeddingsRecord,
        records=without_stale(EmbeddingsRecord.done(output), made_from, output),
        make_worker=functools.partial(
            make_import_worker, existing, clips.block_dims, config.storage, output, made_from=made_from
        ),
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
