"""fit_gaussians beside faiss-cpu's k-means, and its memory and time as the data grow.

Each side is a process of its own that runs one fit; they work in turn. Ours is the whole stage, from reading shards off
the disk to publishing (the first means and stds included); faiss has all its data in memory before its time starts.
Each has made a small fit before, so that starting threads and loading libraries is no part of its time and memory.
Equal on both sides: data, k, iterations, threads, all points used. The sum of squared distances to the final means is
taken over all data by one and the same function for both. Data are synthetic: many loose groups in a space whose
directions have unequal spread, and an offset that all share, as CLIP's embeddings have.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.data.options import Options
from stages.formats.clips import ClipIdentity, Clips, write_clips
from stages.formats.embeddings.layout import IMAGE, EmbeddingsRecord
from stages.formats.per_shard import array_name, save_array
from stages.storage.artifact import Output

ROOT = Path(__file__).resolve().parent.parent.parent
NUM_SHARDS = 10


@dataclass(frozen=True)
class Case:
    """One size of the comparison."""

    rows: int
    width: int
    num_gaussians: int
    iterations: int

    def __str__(self) -> str:
        return f"{self.rows:,} x {self.width}, k {self.num_gaussians:,}, {self.iterations} iterations"


SMALL = (Case(20_000, 512, 256, 10),)
NAMED = (Case(200_000, 512, 1024, 10), Case(100_000, 1536, 1024, 10))
GROWTH = Case(200_000, 512, 64, 2)


def tables(options: Options) -> Iterator[Table]:
    """Measure, and yield the comparison with faiss and the growth with the number of embeddings."""
    for case in SMALL if options.small else NAMED:
        with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder:
            write_shards(Path(folder), case)
            yield compare(Path(folder), case, options)
    with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder:
        yield growth(Path(folder), Case(20_000, 128, 64, 2) if options.small else GROWTH, options)


def compare(folder: Path, case: Case, options: Options) -> Table:
    """Run both sides in turn."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "faiss": []}
    for _ in range(options.pairs):
        for side, found in runs.items():
            found.append(run_side(side, folder, case, options.threads))
    table = Table(title=f"k-means of {case}, {options.threads} threads, {options.pairs} pairs", title_justify="left")
    for heading in ("", "ours", "faiss-cpu", "ratio (range)", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    targets = {"seconds": "at most 1.0", "cpu_seconds": "", "inertia": "at most 1.005", "peak_mb": ""}
    names = {"seconds": "seconds", "cpu_seconds": "CPU seconds", "inertia": "inertia", "peak_mb": "peak memory, MB"}
    for key, name in names.items():
        ours, theirs = ([run[key] for run in runs[side]] for side in ("ours", "faiss"))
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        shown = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        table.add_row(name, f"{statistics.median(ours):,.1f}", f"{statistics.median(theirs):,.1f}", shown, targets[key])
    return table


def growth(folder: Path, case: Case, options: Options) -> Table:
    """Fit 1, 3 and 10 times the data; the files beyond the first are links to them, so that no disk is filled."""
    table = Table(title=f"fit_gaussians as data grow: {case}, {options.threads} threads", title_justify="left")
    for heading in ("embeddings", "shards", "data, MB", "seconds", "microseconds each", "peak memory, MB", "of data"):
        table.add_column(heading, justify="right")
    for factor in (1, 3, 10):
        target = folder / str(factor)
        write_shards(target, case, repeats=factor)
        run = run_side("ours", target, case, options.threads)
        rows = case.rows * factor
        megabytes = rows * case.width * 4 / 2**20
        each = f"{run['seconds'] / rows / case.iterations * 1e6:.2f}"
        table.add_row(
            f"{rows:,}", f"{NUM_SHARDS * factor}", f"{megabytes:,.0f}", f"{run['seconds']:.1f}", each,
            f"{run['peak_mb']:.0f}", f"{run['peak_mb'] / megabytes:.3f}",
        )  # fmt: skip
    return table


def write_shards(folder: Path, case: Case, repeats: int = 1) -> None:
    """Write synthetic embeddings in embed_clip's layout, each shard as often as asked."""
    output = Output(str(folder), "embed_clip", "bench")
    rng = np.random.default_rng(0)
    spread = np.arange(1, case.width + 1, dtype=np.float32) ** -0.5
    groups = rng.standard_normal((4 * case.num_gaussians, case.width), dtype=np.float32) * spread
    rows = case.rows // NUM_SHARDS
    for shard in range(NUM_SHARDS):
        noise = rng.standard_normal((rows, case.width), dtype=np.float32) * (0.7 * spread)
        values = groups[rng.integers(len(groups), size=rows)] + noise + 0.2
        save_array(output, IMAGE, f"{shard:05d}", values)
        first = output.path(array_name(IMAGE, f"{shard:05d}"))
        for number in range(shard, repeats * NUM_SHARDS, NUM_SHARDS):
            if number != shard:
                os.link(first, output.path(array_name(IMAGE, f"{number:05d}")))
            EmbeddingsRecord(rows=rows, captioned=0, failures={}).finish(output, f"{number:05d}")
    clip = ClipIdentity(reference="bench", digest="", embed_dim=case.width, image_size=1)
    write_clips(output, Clips((clip,), "the benchmark"))


def run_side(side: str, folder: Path, case: Case, threads: int) -> dict[str, float]:
    """Run one fit in a process of its own and return what it measured."""
    arguments = json.dumps({"side": side, "folder": str(folder), "threads": threads, "case": asdict(case)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.data.gaussians_side", arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
