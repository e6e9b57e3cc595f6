"""What recovery costs when nothing fails: ``python -m benchmarks.recovery [--config FILE] [--shards N]``.

Heartbeats, checksums, leases, checkpoints and syncing to the disk, whose calls are timed inside a real run; and the
same over many shards without work, in this process, where what they cost is compared with the time that a worker takes
for one shard. The checksum of a shard's files is measured on as many bytes as they have.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.recovery_sides import timing
from stages.storage.checksums import FileSum

ROOT = Path(__file__).resolve().parent.parent
_SHARD_BYTES = 220_000_000
_REPEATS = 5
_MOST_OF_RUN, _MOST_OF_SHARD = 0.02, 0.01


@dataclass
class Cost:
    """Calls of one part, and their seconds; ``aside``: of them those of our threads beside the one that works."""

    calls: int = 0
    clock: float = 0.0
    processor: float = 0.0
    aside: float = 0.0


def read_costs(file: Path) -> dict[str, Cost]:
    """Add up the calls that were timed."""
    costs: dict[str, Cost] = defaultdict(Cost, {part: Cost() for part in timing.PARTS})
    for line in file.read_text().splitlines() if file.exists() else ():
        part, _, clock, processor, thread = json.loads(line)
        cost = costs[part]
        cost.calls += 1
        cost.clock += clock
        cost.processor += processor
        cost.aside += clock * thread.startswith("corgi-")
    return dict(costs)


def measure_run(config: Path, words: list[str]) -> tuple[dict[str, Cost], float]:
    """Run an experiment from nothing; return the costs, and the seconds of the run."""
    with tempfile.TemporaryDirectory(prefix="corgi-recovery-") as folder:
        file = Path(folder) / "calls"
        path = f"{ROOT / 'benchmarks' / 'recovery_sides'}:{ROOT}"
        environment = os.environ | {"PYTHONPATH": path, "CORGI_TIMED_CALLS": str(file)}
        command = [sys.executable, "-m", "pipeline", "run", str(config), f"store={folder}/store", "--json", *words]
        begun = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        return read_costs(file), time.perf_counter() - begun


def measure_shards(num_shards: int) -> tuple[dict[str, Cost], float]:
    """Run an empty stage over so many shards in a process of its own; return the costs, and a shard's real seconds."""
    from benchmarks.scale import SHARD_SECONDS

    with tempfile.TemporaryDirectory(prefix="corgi-recovery-") as folder:
        file = Path(folder) / "calls"
        path = f"{ROOT / 'benchmarks' / 'recovery_sides'}:{ROOT}"
        environment = os.environ | {"PYTHONPATH": path, "CORGI_TIMED_CALLS": str(file)}
        code = f"from benchmarks.scale import measure; measure({num_shards}, 0)"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)
        costs = read_costs(file)
    clock, processor = _checksum_seconds(_SHARD_BYTES)
    costs["checksums of a shard's files"] = Cost(num_shards, clock * num_shards, processor * num_shards)
    return costs, SHARD_SECONDS * num_shards


def _checksum_seconds(size: int) -> tuple[float, float]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(os.urandom(size))
        file.flush()
        return min(_timed_checksum(Path(file.name)) for _ in range(_REPEATS))


def _timed_checksum(path: Path) -> tuple[float, float]:
    begun, used = time.perf_counter(), time.process_time()
    FileSum.of(path)
    return time.perf_counter() - begun, time.process_time() - used


def table_of(title: str, costs: dict[str, Cost], seconds: float, most: float) -> Table:
    """Return the costs as a table, with their sum and what it may be."""
    table = Table(title=title, title_justify="left")
    for heading in ("", "calls", "seconds", "CPU seconds", "of these aside", "of all", "CPU, of all"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, cost in costs.items():
        row = (str(cost.calls), f"{cost.clock:.3f}", f"{cost.processor:.3f}", f"{cost.aside:.3f}")
        table.add_row(name, *row, f"{cost.clock / seconds:.3%}", f"{cost.processor / seconds:.3%}")
    total = sum(cost.clock for cost in costs.values())
    used = sum(cost.processor for cost in costs.values())
    table.add_section()
    table.add_row(
        f"all of {seconds:,.0f} s",
        "",
        f"{total:.3f}",
        f"{used:.3f}",
        "",
        f"{total / seconds:.3%}",
        f"{used / seconds:.3%}",
    )
    table.caption = f"at most {most:.0%}; on a busy machine, the clock counts the work of others as well"
    return table


def main() -> None:
    """Measure both, and print a table of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "quickstart.yaml")
    parser.add_argument("--shards", type=int, default=90_000)
    parser.add_argument("words", nargs="*", help="changes of the config, as corgi run takes them")
    given = parser.parse_args()
    console = Console(width=110)
    costs, seconds = measure_run(given.config, given.words)
    console.print(table_of(f"{given.config.stem}, from nothing", costs, seconds, _MOST_OF_RUN))
    costs, seconds = measure_shards(given.shards)
    console.print(table_of(f"{given.shards:,} shards of one worker", costs, seconds, _MOST_OF_SHARD))


if __name__ == "__main__":
    main()
