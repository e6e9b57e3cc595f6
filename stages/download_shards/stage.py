"""Download a list of images into webdataset shards."""

import collections
import functools
from collections.abc import Mapping

from cluster.mapping import WorkerResources
from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig, ScenesSource
from stages.download_shards.shard import Record, ShardTask, make_shard_worker
from stages.download_shards.sources import open_source
from stages.errors import YieldTooLow
from stages.events import Progress

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
    return _summarise(config, records)


def _finished(config: DownloadShardsConfig, output: Output) -> dict[str, Record]:
    """Return the records of done shards; one that yielded too little is downloaded again."""
    done = output.done_units()
    return {name: record for name, record in done.items() if record["images"] >= config.min_yield * record["rows"]}


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
    resources = WorkerResources(
        num_workers=context.resources.num_workers,
        num_cpus=context.resources.cpus_per_worker,
        same_node=isinstance(config.source, ScenesSource),
    )
    make_worker = functools.partial(make_shard_worker, config, output)
    num_shards = len(records) + len(tasks)

    def report() -> None:
        images = sum(record["images"] for record in records.values())
        context.emit(Progress(len(records), num_shards, "shards", items=images))

    report()
    for name, record in context.map_shards(make_worker, tasks, resources):
        records[name] = record
        report()


def _summarise(config: DownloadShardsConfig, records: Mapping[str, Record]) -> StageSummary:
    totals: collections.Counter[str] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    for record in records.values():
        totals.update({name: record[name] for name in ("rows", "images", "captioned")})
        failures.update(record["failures"])
    rate = totals["images"] / totals["rows"]
    if rate < config.min_yield:
        causes = ", ".join(f"{cause} {count}" for cause, count in failures.most_common())
        raise YieldTooLow(
            f"download_shards: {totals['images']} of {totals['rows']} entries became images ({rate:.1%}), below "
            f"download_shards.min_yield = {config.min_yield:.1%}: failures by cause: {causes}: mend the list or the "
            "network and run again (shards that yielded too little are downloaded again), or lower min_yield"
        )
    counts = dict(totals) | {f"failed_{cause}": count for cause, count in sorted(failures.items())}
    return StageSummary(items=totals["images"], counts=counts, metrics={"yield": rate})
