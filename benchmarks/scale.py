"""What the scheduler and the manifest cost at 90,000 shards: ``python -m benchmarks.scale [--shards N] [--workers N]``.

The store, the map over Ray actors, the unit records and the manifest are the real ones; the work of a shard is none. So
everything that is measured is the pipeline's own cost. A tenth of the shards is measured first, so that what grows
faster than the number of shards shows. The share is that of the time a worker takes for one shard's real work.
"""

import argparse
import dataclasses
import functools
import resource
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from cluster.mapping import WorkerResources, map_in_process, map_on_ray
from cluster.session import session
from cluster.training import launch_in_process
from pipeline.store import Store
from stages.artifacts import Artifact, Output
from stages.contract import StageConfig, StageContext, StageSummary
from stages.events import Progress
from stages.runner import run_stage

RECORD = {
    "rows": 8600,
    "images": 8600,
    "captioned": 900,
    "failures": {"http_404": 900, "timeout": 300, "http_403": 200},
}
SHARD_SECONDS = 10_000 / 1300  # of one worker of 16 cores: a shard of 10,000 images at img2dataset's 1300 images/s


class EmptyConfig(StageConfig):
    """A stage that does nothing for each of its shards."""

    stage: ClassVar[str] = "scale_test"
    shards: int


def run_empty(
    config: EmptyConfig, inputs: Mapping[str, Artifact], output: Output, context: StageContext
) -> StageSummary:
    """Spread the shards as the data stages do, and record each as done in the worker."""
    output.write_json("plan.json", {"units": config.shards})
    done = output.done_units()
    names = [f"{number:05d}" for number in range(config.shards)]
    images = sum(int(record["rows"]) for record in done.values())
    count = len(done)
    make_worker = functools.partial(_make_worker, output)
    resources = WorkerResources(context.resources.num_workers, num_cpus=0)
    for record in context.map_shards(make_worker, [name for name in names if name not in done], resources):
        count, images = count + 1, images + int(record["rows"])
        context.emit(Progress(count, config.shards, "shards", items=images))
    return StageSummary(items=images, counts={"shards": count})


def _make_worker(output: Output) -> Callable[[str], dict[str, Any]]:
    def work(name: str) -> dict[str, Any]:
        output.finish_unit(name, RECORD)
        return RECORD

    return work


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
            "corgi plan, complete": lambda: store.progress("scale_test", "f0"),
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


def table_of(num_shards: int, found: list[Measured]) -> Table:
    """Return the costs as a table."""
    table = Table(title=f"{num_shards:,} shards", title_justify="left")
    for heading in ("", "ms a shard", "driver CPU ms a shard", "of a shard's work", "driver memory, MB"):
        table.add_column(heading, justify="right" if heading else "left")
    for one in found:
        share = f"{one.milliseconds / (SHARD_SECONDS * 1e3):.4%}"
        table.add_row(one.name, f"{one.milliseconds:.3f}", f"{one.cpu_milliseconds:.3f}", share, f"{one.memory_mb:.0f}")
    return table


def main() -> None:
    """Measure a tenth of the shards and all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--shards", type=int, default=90_000)
    parser.add_argument("--workers", type=int, default=2, help="Ray actors; 0: in this process, without Ray")
    arguments = parser.parse_args()
    console = Console(width=110)
    for num_shards in (arguments.shards // 10, arguments.shards):
        if arguments.workers:
            with session(None, num_cpus=2):
                found = measure(num_shards, arguments.workers)
        else:
            found = measure(num_shards, 0)
        console.print(table_of(num_shards, found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(
        f"driver's largest memory in all: {peak:.0f} MB; work of a shard: {SHARD_SECONDS:.1f} s of one worker"
    )


if __name__ == "__main__":
    main()
