"""Download a list of images into webdataset shards."""

import collections
import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from cluster.mapping import WorkerResources
from stages.artifacts import Artifact, Output
from stages.contract import StageContext, StageSummary
from stages.download_shards.config import DownloadShardsConfig, ScenesSource, UrlListSource
from stages.download_shards.shard import Record, ShardTask, make_shard_worker
from stages.download_shards.source import read_url_list
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
        with _open_source(config.source) as (rows, base_url):
            names = shard_names(rows.num_rows, config.rows_per_shard)
            output.write_json(PLAN, {"units": len(names)})
            tasks = _make_tasks(rows, names, rows_per_shard=config.rows_per_shard, base_url=base_url, done=records)
            _download(config, tasks, records, output=output, context=context)
    return _summarise(config, records)


def _finished(config: DownloadShardsConfig, output: Output) -> dict[str, Record]:
    """Return the records of done shards; one that yielded too little is downloaded again."""
    done = output.done_units()
    return {name: record for name, record in done.items() if record["images"] >= config.min_yield * record["rows"]}


@contextlib.contextmanager
def _open_source(source: ScenesSource | UrlListSource) -> Iterator[tuple[pa.Table, str]]:
    """Yield the list's rows and what stands before each address while downloading."""
    if isinstance(source, UrlListSource):
        yield read_url_list(source), ""
        return
    from stages.download_shards.scene_server import serve_scenes

    with serve_scenes(source) as served:
        yield served


def shard_names(num_rows: int, rows_per_shard: int) -> list[str]:
    """Name the shards of a list by their numbers, all with as many digits."""
    num_shards = -(-num_rows // rows_per_shard)
    digits = max(_NAME_DIGITS, len(str(num_shards - 1)))
    return [f"{index:0{digits}d}" for index in range(num_shards)]


def _make_tasks(
    rows: pa.Table, names: Sequence[str], *, rows_per_shard: int, base_url: str, done: Mapping[str, Record]
) -> list[ShardTask]:
    """Cut the list into the shards that are not done."""
    tasks = []
    for index, name in enumerate(names):
        if name not in done:
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, rows.schema) as writer:
                writer.write_table(rows.slice(index * rows_per_shard, rows_per_shard))
            tasks.append(ShardTask(index, name, sink.getvalue().to_pybytes(), base_url))
    return tasks


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
