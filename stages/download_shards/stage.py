"""Download a list of images into webdataset shards."""

import collections
import functools
from collections.abc import Mapping
from pathlib import Path

from stages.contract.errors import YieldTooLow
from stages.contract.events import Progress
from stages.contract.stage import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig, ScenesSource
from stages.download_shards.duplicates import DUPLICATE_CONTENT, count_repeated_urls, find_repeated_images
from stages.download_shards.shard import (
    DROPPED,
    POOR,
    Record,
    ShardTask,
    drop_images,
    make_shard_worker,
    yields_enough,
)
from stages.download_shards.sources import open_source
from stages.storage.artifact import UNITS, Artifact, Output

PLAN = "plan.json"
_NAME_DIGITS = 5


def run(
    config: DownloadShardsConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Download every shard that is not done yet.

    Raises:
        InputFault: the list cannot be read.
        YieldTooLow: fewer than ``min_yield`` of the list's entries became images.
    """
    records = _finished(config, output)
    planned = output.read_json(PLAN)["units"] if output.exists(PLAN) else None
    if planned is None or len(records) < planned:
        with open_source(config) as (parts, base_url):
            names = shard_names(len(parts))
            output.write_json(PLAN, {"units": len(names)})
            tasks = [
                ShardTask(index, name, parts[index], base_url)
                for index, name in enumerate(names)
                if name not in records
            ]
            _download(config, tasks, records, output=output, context=context)
    _check_yield(config, records)
    _accept_poor(records, output)
    repeated = find_repeated_images(output, list(records))
    if config.drop_duplicate_images:
        for name, rows in repeated.items():
            records[name] = drop_images(name, rows.tolist(), DUPLICATE_CONTENT, config, output)
    counts = {
        "duplicate_urls": count_repeated_urls(output, list(records)),
        "duplicate_images": sum(map(len, repeated.values())),
    }
    return _summarise(records, counts)


def _finished(config: DownloadShardsConfig, output: Output) -> dict[str, Record]:
    """Return the records of done shards; one that yielded too little, also by this config, is downloaded again."""
    records = output.done_units()
    for file in output.glob(f"{POOR}/*.json"):
        name, record = Path(file).stem, output.read_json(file)
        if name not in records and yields_enough(record, config):
            output.finish_unit(name, record)
            records[name] = record
    return records


def _accept_poor(records: Mapping[str, Record], output: Output) -> None:
    """Let shards that yielded too little count as done: all shards together yielded enough."""
    finished = output.glob(f"{UNITS}/*.json")
    for name in sorted(set(records) - {Path(file).stem for file in finished}):
        output.finish_unit(name, records[name])
    output.remove(POOR)


def shard_names(num_shards: int) -> list[str]:
    """Name the shards by their numbers, all with as many digits."""
    digits = max(_NAME_DIGITS, len(str(num_shards - 1)))
    return [f"{index:0{digits}d}" for index in range(num_shards)]


def _download(
    config: DownloadShardsConfig,
    tasks: list[ShardTask],
    records: dict[str, Record],
    *,
    output: Output,
    context: StageContext,
) -> None:
    """Spread the shards that are not in ``records`` over the workers, and put their records there."""
    allocation = context.resources
    polite = config.model_copy(update={"per_host": max(1, config.per_host // allocation.num_workers)})
    make_worker = functools.partial(make_shard_worker, polite, output)
    resources = allocation.for_shards(same_node=isinstance(config.source, ScenesSource))
    num_shards = len(records) + len(tasks)
    images = sum(int(record["images"]) for record in records.values())

    def report() -> None:
        context.emit(Progress(len(records), num_shards, "shards", items=images))

    report()
    for name, record in context.map_shards(make_worker, tasks, resources):
        records[name] = record
        images += int(record["images"])
        report()
        if len(records) == config.probe_shards:
            _check_yield(config, records)


def _check_yield(config: DownloadShardsConfig, records: Mapping[str, Record]) -> None:
    """Compare what came of the shards so far with the configured minimum; dropped duplicates are no loss.

    Raises:
        YieldTooLow: it is less.
    """
    totals, failures = _total(records)
    rate = _rate(totals, failures)
    if rate < config.min_yield:
        causes = ", ".join(f"{cause} {count}" for cause, count in failures.most_common())
        raise YieldTooLow(
            f"download_shards: {totals['images']} of {totals['rows']} entries became images ({rate:.1%}), below "
            f"download_shards.min_yield = {config.min_yield:.1%}: failures by cause: {causes}: mend the list or the "
            "network and run again (shards that yielded too little are downloaded again), or lower min_yield"
        )


def _total(records: Mapping[str, Record]) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Add up rows, images and captioned images, and failures by cause."""
    totals: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    for record in records.values():
        totals.update({name: record[name] for name in ("rows", "images", "captioned")})
        failures.update(record["failures"])
    return totals, failures


def _rate(totals: Mapping[str, int], failures: Mapping[str, int]) -> float:
    wanted = totals["rows"] - sum(failures.get(cause, 0) for cause in DROPPED)
    return totals["images"] / wanted if wanted else 0.0


def _summarise(records: Mapping[str, Record], further: Mapping[str, int]) -> StageSummary:
    totals, failures = _total(records)
    counts = dict(totals) | {f"failed_{cause}": count for cause, count in sorted(failures.items())}
    counts |= {name: count for name, count in further.items() if count}
    return StageSummary(items=totals["images"], counts=counts, metrics={"yield": _rate(totals, failures)})
