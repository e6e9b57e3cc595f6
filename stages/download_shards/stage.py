"""Turn a source of images into webdataset shards."""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stages.contract.documents import Totals
from stages.contract.errors import ArtifactError, Unaccounted
from stages.contract.events import Log
from stages.contract.recipes import Recipe
from stages.contract.stage import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig, ScenesSource
from stages.download_shards.duplicates import count_repeated_urls, find_repeated_images
from stages.download_shards.growth import GrowthRecord, PlannedShard, divide_from
from stages.download_shards.pieces import TaskPiece
from stages.download_shards.sources.base import Growth, Parts
from stages.download_shards.sources.registry import make_source
from stages.download_shards.worker import (
    POOR,
    ShardTask,
    drop_duplicates,
    finish_shard,
    make_shard_worker,
    yields_enough,
)
from stages.download_shards.yields import Probe, check_yield, yield_of
from stages.formats.shards import ShardRecord, shard_names
from stages.formats.source_records import SourceRecord, add_up, in_words
from stages.storage.artifact import UNITS, Artifact, Output, unit_record
from stages.streaming.runner import UnitList, UnitRunner


def run(
    config: DownloadShardsConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Make every shard that is not done yet."""
    records = _finished(config, output)
    planned = output.planned_units()
    if planned is None or len(records) < planned or not output.exists(SourceRecord.file):
        with make_source(config).parts() as source:
            source.record.write(output)
            if source.attributions.works:
                source.attributions.write(output)
            tasks = make_tasks(config, source, output)
            records = _download(config, tasks, records, output=output, context=context)
    source_record = SourceRecord.of(output)
    check_accounts(records, source_record)
    check_yield(config, records, output)
    _accept_poor(records, output)
    repeated = find_repeated_images(output, list(records))
    if config.drop_duplicate_images:
        for name, rows in repeated.items():
            records[name] = drop_duplicates(name, rows.tolist(), records[name], config=config, output=output)
    counts = _reused(output) | {
        "duplicate_urls": count_repeated_urls(output, list(records)),
        "duplicate_images": sum(map(len, repeated.values())),
    }
    summary = _summarise(records, source_record, counts)
    for what, words in summary.notes.items():
        context.emit(Log(f"{what}: {words}", "WARNING"))
    return summary


def make_tasks(config: DownloadShardsConfig, source: Parts, output: Output) -> list[ShardTask]:
    """Return the shards to make: as the source is divided, or as an earlier artifact's, with what has changed since."""
    growth, parts = source.growth, source.parts
    if growth is None or not output.exists(Recipe.file):  # without a recipe nothing can be taken from it
        return [
            ShardTask(index, name, (TaskPiece(parts[index]),)) for index, name in enumerate(shard_names(len(parts)))
        ]
    if config.grown_from is None:
        digests = np.split(growth.digests, range(growth.rows_per_shard, len(growth.digests), growth.rows_per_shard))
        return [
            ShardTask(n, name, (TaskPiece(parts[n]),), digests[n]) for n, name in enumerate(shard_names(len(parts)))
        ]
    base = next((one for one in output.siblings() if one.fingerprint == config.grown_from), None)
    if base is None or not base.is_complete:
        raise ArtifactError(
            f"download_shards.grown_from: {config.grown_from} is not in the store, or not complete: expected the "
            "artifact whose shards are taken over: run again, which looks for another"
        )
    shards, record = divide_from(
        base,
        growth.digests,
        growth.rows_per_shard,
        drops_repeats=config.drop_duplicate_images,
        earlier_digests=growth.earlier_digests,
        recorded=GrowthRecord.find(output),
    )
    record.write(output)
    return [
        ShardTask(index, name, _pieces_of(shard, growth, base), growth.digests[list(shard.entries)])
        for index, (name, shard) in enumerate(zip(shard_names(len(shards)), shards, strict=True))
    ]


def _pieces_of(shard: PlannedShard, growth: Growth, base: Artifact) -> tuple[TaskPiece, ...]:
    kept = tuple(TaskPiece(growth.part(one.entries), (base, one.base), one.rows) for one in shard.kept)
    return kept or (TaskPiece(growth.part(shard.entries)),)


def _reused(output: Output) -> dict[str, int]:
    if not output.exists(GrowthRecord.file):
        return {}
    found = GrowthRecord.of(output)
    return {"reused_shards": found.reused_shards, "remade_shards": found.remade_shards}


def _finished(config: DownloadShardsConfig, output: Output) -> dict[str, ShardRecord]:
    """Return the records of done shards; those that yielded too little, by this config, too, are made again."""
    records = ShardRecord.done(output)
    for file in output.glob(f"{POOR}/*.json"):
        name, record = Path(file).stem, ShardRecord.parse(output.read_json(file), output, file)
        if name not in records and yields_enough(record, config):
            output.copy(file, unit_record(name))
            records[name] = record
    return records


def _accept_poor(records: Mapping[str, ShardRecord], output: Output) -> None:
    """Record shards that yielded too little as done, because all shards together yielded enough."""
    finished = output.glob(f"{UNITS}/*.json")
    for name in sorted(set(records) - {Path(file).stem for file in finished}):
        output.copy(f"{POOR}/{name}.json", unit_record(name))
    output.remove(POOR)


def _download(
    config: DownloadShardsConfig,
    tasks: list[ShardTask],
    records: Mapping[str, ShardRecord],
    *,
    output: Output,
    context: StageContext,
) -> dict[str, ShardRecord]:
    """Make the shards that are not in ``records``, and return the records of all."""
    allocation = context.resources
    resizes = any(task.is_new for task in tasks if task.name not in records)
    polite = config.model_copy(update={"per_host": max(1, config.per_host // allocation.num_workers)})

    runner = UnitRunner(
        output=output,
        units=UnitList(tasks),
        kind=ShardRecord,
        records=records,
        make_worker=functools.partial(make_shard_worker, polite, output, resizes=resizes),
        resources=allocation.for_shards(same_node=isinstance(config.source, ScenesSource)),
        finish=functools.partial(finish_shard, polite),
        check=Probe(config, [task.name for task in tasks if task.is_new], records),
    )
    return runner.run(context)


def check_accounts(records: Mapping[str, ShardRecord], source: SourceRecord) -> None:
    """Compare what the source holds with what became of it: images, counted failures, counted skips."""
    totals, skips = Totals.of(records.values()), add_up([source.skips, *(record.skips for record in records.values())])
    images, failed = totals.images, sum(totals.causes.values())
    skipped, used = sum(one.count for one in skips.values()), sum(source.used.values())
    found = totals.counts["rows"] + skipped + used if source.found is None else source.found
    if found != images + failed + skipped + used:
        raise Unaccounted(
            f"download_shards: the source has {found - used} entries, which became {images} images, {failed} counted "
            f"failures and {skipped} counted skips: every entry must be one of these: run again, and report it if it "
            "comes again"
        )


def _summarise(records: Mapping[str, ShardRecord], source: SourceRecord, further: Mapping[str, int]) -> StageSummary:
    totals, skips = Totals.of(records.values()), add_up([source.skips, *(record.skips for record in records.values())])
    counts = totals.named | {name: count for name, count in further.items() if count}
    counts |= {f"skipped_{cause}": one.count for cause, one in skips.items()}
    notes = {"skipped": in_words(skips), "lost before reading": in_words(source.failures)}
    if source.missing_files:
        counts["missing_files"] = source.missing_files
        notes["missing files"] = (
            f"{source.missing_files} of the dataset's files were not there, as allow_missing_files permits: the images "
            "are those of the others"
        )
    notes = {name: words for name, words in notes.items() if words}
    return StageSummary(items=totals.images, counts=counts, metrics={"yield": yield_of(totals)}, notes=notes)
