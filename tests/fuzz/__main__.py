"""``python -m tests.fuzz``: see :mod:`tests.fuzz`."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.child import Tally
from tests.fuzz.sentry import install
from tests.fuzz.supervisor import run_targets
from tests.fuzz.target import try_input
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = 20  # inputs, the valid ones among them
MEMORY = Path("/dev/shm")  # every input is a file, and disks are slow


def main() -> int:
    """Run, print what was tried and found, and return the exit code."""
    words = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz every parser of outside data.")
    words.add_argument("--seconds", type=float, default=60.0, help="of trying, in each process; starting comes on top")
    words.add_argument("--seed", type=int, default=0, help="another seed tries other inputs")
    words.add_argument(
        "--only", action="append", default=[], metavar="TARGET", help="may be repeated; a beginning will do"
    )
    words.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    words.add_argument("--repeat", type=Path, metavar="FILE", help="try one kept input in this process")
    words.add_argument("--keep", type=Path, default=ROOT / "workspace" / "fuzz", help="folder for findings")
    given = words.parse_args()
    if given.repeat is not None:
        return _repeat(given.repeat)
    chosen = [target for name, target in TARGETS.items() if not given.only or name.startswith(tuple(given.only))]
    if not chosen:
        words.error(f"no such target; there are {', '.join(TARGETS)}")
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="corgi-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as scratch:
        folders = Path(scratch), given.keep
        tallies = run_targets(chosen, seed=given.seed, seconds=given.seconds, jobs=given.jobs, folders=folders)
    return report(tallies, given.seed, time.time() - begun)


def _repeat(file: Path) -> int:
    target = TARGETS[file.name.partition("-")[0]]
    folder = Path(tempfile.mkdtemp(prefix="corgi-fuzz-"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    install()
    try:
        begun = time.process_time()
        outcome = try_input(target.prepare(), file.read_bytes(), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{target.name}: {outcome.kind} after {time.process_time() - begun:.1f} s of a processor\n{outcome.detail}")
    return int(outcome.is_finding)


def report(tallies: dict[str, Tally], seed: int, seconds: float) -> int:
    """Print what was tried and found, and return the exit code: 1 also where a target tried or accepted nothing."""
    print(
        f"{'target':24} {'inputs':>8} {'per s':>7} {'value':>7} {'refused':>8} {'slowest':>8} {'memory':>8}  findings"
    )
    for name, tally in sorted(tallies.items()):
        rate = tally.inputs / tally.seconds if tally.seconds else 0.0
        odd = {kind: number for kind, number in tally.kinds.items() if kind not in ("value", "refused")}
        found = ", ".join(f"{kind} {number}" for kind, number in odd.items())
        values, refused, memory = (
            tally.kinds.get("value", 0),
            tally.kinds.get("refused", 0),
            max(0, tally.largest) >> 20,
        )
        figures = f"{tally.inputs:8d} {rate:7.0f} {values:7d} {refused:8d} {tally.slowest:7.2f}s {memory:5d} MB"
        print(f"{name:24} {figures}  {found}")
    files = {file: number for tally in tallies.values() for file, number in tally.findings.items()}
    for file, number in sorted(files.items()):
        where = Path(file).with_suffix(".txt").read_text(errors="replace").splitlines()
        shown = Path(file).relative_to(ROOT) if Path(file).is_relative_to(ROOT) else file
        print(f"{number} times: {where[0] if where else ''}\n  python -m tests.fuzz --repeat {shown}")
    total = sum(tally.inputs for tally in tallies.values())
    idle = [name for name, tally in tallies.items() if tally.inputs > ENOUGH and not tally.kinds.get("value")]
    if idle:
        print(f"no input was accepted by {', '.join(idle)}: its valid inputs are not valid any more")
    untried = [name for name, tally in tallies.items() if not tally.inputs]
    if untried:
        print(f"no input was tried by {', '.join(untried)}: give more --seconds, or see why its start fails")
    print(f"{total} inputs in {seconds:.0f} s with seed {seed}: {sum(files.values())} findings of {len(files)} sorts")
    return int(bool(files or idle or untried))


if __name__ == "__main__":
    sys.exit(main())
