"""What the scheduler, the manifest and a long list cost: ``python -m benchmarks.scale [--shards N] [--entries N]``.

The store, the map over Ray actors, the unit records and the manifest are the real ones; the work of a shard is none. So
everything that is measured is the pipeline's own cost. A tenth of the shards is measured first, so that what grows
faster than the number of shards shows. The share is that of the time a worker takes for one shard's real work.

The list is one of addresses in parquet files of a million each: read, searched for repeated ones, cut into shards, and
each shard's rows made into what a worker is sent, as download_shards does before the first byte comes. A tenth of it is
measured first, too.
"""

import argparse
import dataclasses
import pickle
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from cluster.mapping import WorkerResources, map_in_process
from cluster.pool import map_on_ray
from cluster.session import session
from cluster.training import launch_in_process
from pipeline.store import Store
from stages.contract.documents import Totals
from stages.contract.runner import run_stage
from stages.contract.stage import StageConfig, StageContext, StageSummary
from stages.download_shards.config import UrlListSource
from stages.download_shards.duplicates import IS_DUPLICATE, mark_repeated
from stages.download_shards.sources.rows import cut
from stages.download_shards.sources.url_list import read_url_list
from stages.formats.shards import ShardRecord
from stages.storage.artifact import Artifact, Output
from stages.streaming.runner import UnitList, UnitRunner

RECORD = ShardRecord(
    rows=10_000, images=8600, captioned=900, failures={"http_404": 900, "timeout": 300, "http_403": 200}
)
SHARD_ENTRIES, FILE_ENTRIES = 10_000, 1_000_000
SHARD_SECONDS = 10_000 / 1300  # of one worker of 16 cores: a shard of 10,000 images at img2dataset's 1300 images/s


class EmptyConfig(StageConfig):
    """A stage that does nothing for each of its shards."""

    stage: ClassVar[str] = "scale_test"
    shards: int


def run_empty(
    config: EmptyConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Spread the shards as the data stages do, and record each as done in the worker."""
    runner = UnitRunner(
        output=output,
        units=UnitList([f"{number:05d}" for number in range(config.shards)]),
        kind=ShardRecord,
        records=ShardRecord.done(output),
        make_worker=_make_worker,
        resources=WorkerResources(context.resources.num_workers, num_cpus=0),
    )
    records = runner.run(context)
    return StageSummary(items=Totals.of(records.values()).images, counts={"shards": len(records)})


def _make_worker() -> Callable[[str], ShardRecord]:
    return lambda name: RECORD


@dataclasses.dataclass
class Measured:
    """Driver time and memory of one step, per shard."""

    name: str
    milliseconds: float
    cpu_milliseconds: float
    memory_mb: float


def measure(num_shards: int, num_workers: int) -> list[Measured]:
    """Run the empty stage over so many shards; then ask for its progress, read its records, and plan a second run."""
    with tempfile.TemporaryDirectory(prefix="corgi-scale-") as folder:
        store = Store(folder)
        config, output = EmptyConfig(shards=num_shards), store.output("scale_test", "f0")
        context = StageContext(lambda event: None, map_on_ray if num_workers else map_in_process, launch_in_process)
        context = dataclasses.replace(
            context, resources=dataclasses.replace(context.resources, num_workers=max(1, num_workers))
        )
        again = dataclasses.replace(context, map_shards=map_in_process)
        steps: dict[str, Callable[[], object]] = {
            "schedule, record, seal": lambda: run_stage(run_empty, config, inputs={}, output=output, context=context),
            "corgi plan, complete": lambda: store.completion("scale_test", "f0"),
            "list units": lambda: output.glob("units/*.json"),
            "read all unit records": output.done_units,
            "take up again, nothing to do": lambda: run_stage(
                run_empty, config, inputs={}, output=output, context=again
            ),
        }
        return [_timed(name, step, num_shards) for name, step in steps.items()]


def _timed(name: str, step: Callable[[], object], num_shards: int) -> Measured:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began, used = _peak_mb(), time.perf_counter(), time.process_time()
    step()
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    return Measured(name, seconds / num_shards * 1e3, cpu / num_shards * 1e3, _peak_mb() - before)


def _peak_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def measure_list(num_entries: int) -> list[Measured]:
    """Do what download_shards does with a list before its workers begin; costs are those of a shard of the list."""
    with tempfile.TemporaryDirectory(prefix="corgi-scale-") as folder:
        for first in range(0, num_entries, FILE_ENTRIES):
            last = min(first + FILE_ENTRIES, num_entries)
            numbers = [number % (num_entries - 7) for number in range(first, last)]  # seven stand there twice
            urls = [f"https://host{number % 9973}.example/images/{number:012d}.jpg" for number in numbers]
            pq.write_table(pa.table({"url": urls, "caption": urls}), f"{folder}/{first:012d}.parquet")
            del urls, numbers
        source = UrlListSource(kind="url_list", path=folder, caption_column="caption")
        held: dict[str, Any] = {}

        def read() -> None:
            held["rows"] = read_url_list(source)

        def mark() -> None:
            held["rows"] = mark_repeated(held["rows"])
            if pc.sum(held["rows"][IS_DUPLICATE]).as_py() != 7:
                raise AssertionError("seven addresses stand twice in the list")

        def send() -> None:
            held["parts"] = cut(held["rows"], SHARD_ENTRIES)
            for part in held["parts"]:
                pickle.dumps(part)

        steps = {"read the list": read, "mark repeated addresses": mark, "cut it, make parts to send": send}
        return [_timed(name, step, num_entries // SHARD_ENTRIES) for name, step in steps.items()]


def table_of(title: str, found: list[Measured]) -> Table:
    """Return the costs as a table."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "ms a shard", "driver CPU ms a shard", "of a shard's work", "driver memory, MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for one in found:
        fraction = f"{one.milliseconds / (SHARD_SECONDS * 1e3):.4%}"
        table.add_row(
            one.name, f"{one.milliseconds:.3f}", f"{one.cpu_milliseconds:.3f}", fraction, f"{one.memory_mb:.0f}"
        )
    return table


def main() -> None:
    """Measure a tenth of the shards and all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--shards", type=int, default=90_000)
    parser.add_argument("--workers", type=int, default=2, help="Ray actors; 0: in this process, without Ray")
    parser.add_argument("--entries", type=int, default=5_000_000, help="addresses in the list")
    arguments = parser.parse_args()
    console = Console(width=110)
    for num_shards in (arguments.shards // 10, arguments.shards):
        if arguments.workers:
            with session(None, num_cpus=2):
                found = measure(num_shards, arguments.workers)
        else:
            found = measure(num_shards, 0)
        console.print(table_of(f"{num_shards:,} shards", found))
    for num_entries in (arguments.entries // 10, arguments.entries):
        title = f"a list of {num_entries:,} entries, {SHARD_ENTRIES:,} a shard"
        console.print(table_of(title, measure_list(num_entries)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(
        f"driver's largest memory in all: {peak:.0f} MB; work of a shard: {SHARD_SECONDS:.1f} s of one worker"
    )


if __name__ == "__main__":
    main()
