"""download_shards and embed_clip side by side: how much longer than the longer of the two alone.

The real graph on Ray, as a run schedules it, on twice as many CPUs as ``--threads``: each stage has one worker with
half of them, alone as well as beside the other. The times are those of whole runs, workers' start and loading the model
included on all sides. Images come from a loopback server in a process of its own, a piece at a time as over a
network, so that the download waits more than it works. The model is open_clip's ViT-B-32 with random weights. The store
of each run is new, but for that of "embed alone", which is the one of "download alone".
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.data.download import ROOT, serve_images
from benchmarks.data.embed import save_model
from benchmarks.data.options import Options
from cluster.machines import Machines
from cluster.session import session
from pipeline.config.schema import RunConfig
from pipeline.plan import PlannedStage, make_plan
from pipeline.results import StageResult
from pipeline.store import Store
from stages.contract.events import Event
from stages.contract.stage import Allocation

WAIT_SECONDS = 0.02  # of the server after each of an image's 64 pieces
SHARDS = 12
TARGET = 1.15
SIDES = ("download alone", "embed alone", "together")


class Silent:
    """An observer of runs that ignores everything."""

    def started(self, stage: PlannedStage, allocation: Allocation) -> None:
        """Ignore it."""

    def event(self, name: str, event: Event) -> None:
        """Ignore it."""

    def finished(self, result: StageResult) -> None:
        """Ignore it."""


def tables(options: Options) -> Iterator[Table]:
    """Measure the three in turn."""
    images = 8 * SHARDS if options.small else 40 * SHARDS
    os.environ["PYTHONPATH"] = str(ROOT)  # for Ray's workers
    with (
        tempfile.TemporaryDirectory(prefix="corgi-bench-") as name,
        serve_images(WAIT_SECONDS) as base,
        session(None, num_cpus=2 * options.threads) as machines,
    ):
        folder = Path(name)
        write_list(folder / "list.parquet", base, images)
        model = save_model(folder / "model", "ViT-B-32")
        seconds: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(options.pairs):
            apart = make_config(folder, model, f"apart-{number}", images, options.threads)
            alone = apart.model_copy(update={"embed_clip": None})
            together = make_config(folder, model, f"together-{number}", images, options.threads)
            for side, config in zip(SIDES, (alone, apart, together), strict=True):
                seconds[side].append(run(config, machines))
    yield table_of(seconds, images, options)


def table_of(seconds: dict[str, list[float]], images: int, options: Options) -> Table:
    """Return medians, and the ratios over the pairs."""
    title = f"overlap: {images} images in {SHARDS} shards, 2 x {options.threads} threads, {options.pairs} pairs"
    table = Table(title=title, title_justify="left")
    for heading in ("", "seconds", "together, ratio (range)", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    rows = [*zip(*(seconds[side] for side in SIDES), strict=True)]
    for side in SIDES:
        table.add_row(side, f"{statistics.median(seconds[side]):.1f}", "", "")
    for what, whole, target in (("to the longer alone", max, f"at most {TARGET}"), ("to one after the other", sum, "")):
        ratios = [both / whole((first, second)) for first, second, both in rows]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        table.add_row(what, "", shown, target)
    return table


def write_list(path: Path, base: str, images: int) -> None:
    """Write the addresses, all of them slow."""
    pq.write_table(pa.table({"url": [f"{base}/slow/{number:05d}.jpg" for number in range(images)]}), path)


def make_config(folder: Path, model: Path, name: str, images: int, threads: int) -> RunConfig:
    """Describe a download and its embedding in a store of their own."""
    one_worker = {"num_workers": 1, "cpus_per_worker": threads}
    return RunConfig.model_validate(
        {
            "name": "overlap",
            "store": str(folder / name),
            "download_shards": {
                "source": {"kind": "url_list", "path": str(folder / "list.parquet")},
                "rows_per_shard": images // SHARDS,
                "allowed_networks": ["127.0.0.1/32"],
                "per_host": 32,
                "resources": one_worker,
            },
            "embed_clip": {"clip": {"models": [{"kind": "folder", "path": str(model)}]}, "resources": one_worker},
        }
    )


def run(config: RunConfig, machines: Machines) -> float:
    """Run what is not done in the store, and return the seconds."""
    from pipeline.executor import GraphRun

    store = Store(config.store)
    store.open_for_writing()
    plan = make_plan(config, store)
    began = time.perf_counter()
    results = GraphRun(plan, store, machines, Silent()).run()
    took = time.perf_counter() - began
    for result in results.values():
        if result.state not in {"done", "reused"}:
            raise RuntimeError(f"benchmarks.data.overlap: {result.name} is {result.state}: {result.error}")
    return took
