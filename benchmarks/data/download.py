"""download_shards beside plain img2dataset: the same list, processes, threads, sizes and JPEG quality.

Images come from a loopback server in a process of its own. Each side is a process of its own; they work in turn. The
time of a run is from the first shard's begin to the last one's end, as either side notes them, so that neither Ray's
start nor that of img2dataset's pool (and their imports) is counted. img2dataset does not read EXIF data here, which it
would by default and we never do; ours keeps no politeness limit, since all addresses are on one host.

The second case has 5 % dead addresses (404) and 5 % slow ones, that give a piece now and then. Time limits are both
sides' defaults, divided by ten like the waits of the server: it stands for a list ten times as long at the defaults
(ours: 10 s for the next piece, 60 s an address, one further attempt; img2dataset: 10 s for the next piece alone).
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.data.options import Options

ROOT = Path(__file__).resolve().parent.parent.parent
SHARD_ROWS, FEWEST_SHARDS = 600, 4  # five shards for each of two processes: after more, img2dataset starts new ones
FASTER = 10  # all time limits and waits are divided by this
WAIT_SECONDS = 5.0  # of a slow server after each piece: below the limit for one piece


@dataclass(frozen=True)
class Case:
    """A list of addresses and how it is downloaded."""

    name: str
    target: float
    rows: int
    processes: int
    threads: int = 32
    bad_fraction: float = 0.0
    """Of the addresses, as many are dead, and as many slow."""

    @property
    def rows_per_shard(self) -> int:
        """Entries of a shard, on both sides."""
        return min(SHARD_ROWS, math.ceil(self.rows / FEWEST_SHARDS))

    @property
    def timeout(self) -> float:
        """Seconds to wait for the next piece of an answer, on both sides."""
        return 10.0 / FASTER

    @property
    def max_seconds(self) -> float:
        """Seconds for one address in all, on our side."""
        return 60.0 / FASTER


def tables(options: Options) -> Iterator[Table]:
    """Measure both cases."""
    processes = options.threads
    for case in (
        Case("every address answers", 1.0, 200 if options.small else 6000, processes),
        Case("5 % dead, 5 % slow addresses", 1.5, 100 if options.small else 1000, processes, bad_fraction=0.05),
    ):
        yield compare(case, options.pairs)


def compare(case: Case, pairs: int) -> Table:
    """Run both sides in turn."""
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "img2dataset": []}
    with tempfile.TemporaryDirectory(prefix="corgi-bench-") as folder, serve_images(WAIT_SECONDS / FASTER) as base:
        write_list(Path(folder) / "list.parquet", case, base)
        for number in range(pairs):
            for side, found in runs.items():
                found.append(run_side(side, Path(folder), f"{side}-{number}", case))
    title = f"download: {case.name}; {case.rows} addresses, {case.processes} x {case.threads} threads, {pairs} pairs"
    table = Table(title=title, title_justify="left")
    for heading in ("", "ours", "img2dataset", "ratio (range)", "target"):
        table.add_column(heading, justify="left" if not heading else "right")
    rates = {side: [run["images"] / run["seconds"] for run in found] for side, found in runs.items()}
    ratios = [one / other for one, other in zip(rates["ours"], rates["img2dataset"], strict=True)]
    shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    medians = {side: statistics.median(found) for side, found in rates.items()}
    at_least = f"at least {case.target}"
    table.add_row("images/s", f"{medians['ours']:.1f}", f"{medians['img2dataset']:.1f}", shown, at_least)
    for key in ("images", "seconds"):
        ours, theirs = (statistics.median(run[key] for run in runs[side]) for side in ("ours", "img2dataset"))
        table.add_row(key, f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.2f}", "")
    return table


def write_list(path: Path, case: Case, base: str) -> None:
    """Write addresses and captions; bad ones are spread over the list, and one slow one is its last."""
    every = round(1 / case.bad_fraction) if case.bad_fraction else case.rows
    bad = {every - 1: "slow/{:05d}.jpg", every // 2: "dead/{:05d}.gone"} if case.bad_fraction else {}
    urls = [f"{base}/{bad.get(n % every, '{:05d}.jpg').format(n)}" for n in range(case.rows)]
    pq.write_table(pa.table({"url": urls, "caption": [f"image {n}" for n in range(case.rows)]}), path)


@contextlib.contextmanager
def serve_images(wait: float) -> Iterator[str]:
    """Run the server and yield its address."""
    command = [sys.executable, "-m", "benchmarks.data.image_server", "--wait", str(wait)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def run_side(side: str, folder: Path, name: str, case: Case) -> dict[str, float]:
    """Download the list once, in a process of its own, and return what it measured."""
    task = {"side": side, "list": str(folder / "list.parquet"), "output": str(folder / name), "case": asdict(case)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.data.download_side", json.dumps(task)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
