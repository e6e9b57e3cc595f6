"""The process that tries inputs; what it is doing is in memory that the supervisor reads, also when it has died."""

import contextlib
import faulthandler
import gc
import hashlib
import json
import mmap
import os
import resource
import shutil
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.fuzz.sentry import install
from tests.fuzz.target import Outcome, Run, Target, try_input

SLICE_SECONDS = 0.5
MOST_MEMORY = 1 << 30
_ADDRESS_SPACE = 4 << 30  # beyond what is there: a parser that asks for more fails, and the machine does not
_STATE = struct.Struct("<Qddqq")
"""How often it was written, when the input began (0: none runs), the processor's seconds then, target, number."""
_CHECKSUM = struct.Struct("<I")
_SLOT = _STATE.size + _CHECKSUM.size


@dataclass
class Tally:
    """What became of a target's inputs."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    largest: int = 0
    """Most bytes of memory that an input took."""
    kinds: dict[str, int] = field(default_factory=dict)
    findings: dict[str, int] = field(default_factory=dict)
    """How often, by the file that repeats the first of its sort."""


class State:
    """What the child is doing, shared with the supervisor, who reads at any moment, also when half of it is written.

    Written by turns to two places, with a checksum: one of them is always whole.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(2 * _SLOT))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 2 * _SLOT)
        self._written = self._newest()[0]

    def write(self, begun: float, target: int, number: int) -> None:
        """Write that an input begins, or (0) that none runs."""
        self._written += 1
        state = _STATE.pack(self._written, begun, time.process_time(), target, number)
        first = self._written % 2 * _SLOT
        self._memory[first : first + _SLOT] = state + _CHECKSUM.pack(zlib.crc32(state))

    def read(self) -> tuple[float, float, int, int]:
        """Return when the running input began (0: none), the processor's seconds then, its target and number."""
        return self._newest()[1:]

    def _newest(self) -> tuple[int, float, float, int, int]:
        while True:
            whole = [state for first in (0, _SLOT) if (state := self._slot(first))]
            if whole:
                return max(whole)
            if not any(self._memory[:]):
                return 0, 0.0, 0.0, 0, 0  # nothing was written yet
            # else both were written while they were read: again

    def _slot(self, first: int) -> tuple[int, float, float, int, int] | None:
        slot = self._memory[first : first + _SLOT]
        state, checksum = slot[: _STATE.size], slot[_STATE.size :]
        return _STATE.unpack(state) if _CHECKSUM.unpack(checksum)[0] == zlib.crc32(state) else None


@dataclass(frozen=True)
class Job:
    """What a child has to do."""

    seed: int
    targets: Sequence[Target]
    seconds: Sequence[float]
    """What is left of each target's part of the time; its preparation is not counted."""
    numbers: Sequence[int]
    """The first input of each target."""
    folder: Path
    """The state, the input that is tried and the tally are here."""
    findings: Path


def run_child(job: Job) -> None:
    """Try inputs of each target in turn until each has had its time."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    with (job.folder / "stderr").open("ab") as log:
        os.dup2(log.fileno(), 2)
        os.dup2(log.fileno(), 1)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    install()
    state = State(job.folder / "state")
    tallies = {target.name: Tally() for target in job.targets}
    numbers, left = list(job.numbers), list(job.seconds)
    prepared: dict[int, tuple[Run, Sequence[bytes]]] = {}
    while max(left) > 0:
        for position, target in enumerate(job.targets):
            if left[position] <= 0:
                continue
            if position not in prepared:
                state.write(0.0, position, numbers[position])
                prepared[position] = _prepare(target, job.folder / "scratch")
            run, seeds = prepared[position]
            begun = time.time()
            end = begun + min(left[position], SLICE_SECONDS * target.weight)
            in_bounds = True
            with _BoundedMemory() as used:
                while in_bounds and time.time() < end:
                    in_bounds = _try_one(
                        job, state, position, numbers[position], (run, seeds, tallies[target.name], used)
                    )
                    numbers[position] += 1
            left[position] -= time.time() - begun
            _write_tallies(job, tallies, numbers, left)
            if not in_bounds:
                os._exit(3)  # to go on with little memory again


def _prepare(target: Target, scratch: Path) -> tuple[Run, Sequence[bytes]]:
    """Return the parser and the valid inputs; the first ones are tried without limits, as they import what they use."""
    run, seeds = target.prepare(), target.seeds()
    for data in seeds[:2]:
        scratch.mkdir(exist_ok=True)
        with contextlib.suppress(Exception):  # if they fail, they will again
            run(data, scratch)
        shutil.rmtree(scratch, ignore_errors=True)
    gc.freeze()
    return run, seeds


def _try_one(
    job: Job, state: State, position: int, number: int, with_what: tuple[Run, Sequence[bytes], Tally, int]
) -> bool:
    """Try one input; return whether its memory was in bounds."""
    run, seeds, tally, baseline = with_what
    target = job.targets[position]
    data = target.input(seeds, job.seed, number)
    current = job.folder / "current"
    current.write_bytes(data)
    scratch = job.folder / "scratch"
    scratch.mkdir(exist_ok=True)
    begun = time.time()
    state.write(begun, position, number)
    outcome = try_input(run, data, scratch)
    seconds = time.time() - begun
    state.write(0.0, position, number)
    shutil.rmtree(scratch, ignore_errors=True)
    taken = _peak() - baseline
    if taken > MOST_MEMORY:
        outcome = Outcome("memory", f"{taken >> 20} MB", outcome.where)
    count(tally, outcome, seconds, taken)
    if outcome.is_finding:
        keep_finding(job.findings, target.name, data, outcome, tally)
    return taken <= MOST_MEMORY


def count(tally: Tally, outcome: Outcome, seconds: float, taken: int) -> None:
    """Count an input."""
    tally.inputs += 1
    tally.seconds += seconds
    tally.slowest, tally.largest = max(tally.slowest, seconds), max(tally.largest, taken)
    tally.kinds[outcome.kind] = tally.kinds.get(outcome.kind, 0) + 1


def keep_finding(folder: Path, target: str, data: bytes, outcome: Outcome, tally: Tally) -> None:
    """Write the first finding of its sort, so that it can be repeated; count the others."""
    sort = hashlib.sha256(f"{outcome.kind}{outcome.where}".encode()).hexdigest()[:10]
    file = folder / f"{target}-{outcome.kind}-{sort}.bin"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.with_suffix(".txt").write_text(f"{outcome.where}\n{outcome.detail}\n", errors="backslashreplace")
    tally.findings[str(file)] = tally.findings.get(str(file), 0) + 1


def _write_tallies(job: Job, tallies: dict[str, Tally], numbers: Sequence[int], left: Sequence[float]) -> None:
    counted = {name: asdict(tally) for name, tally in tallies.items()}
    content = {"tallies": counted, "numbers": numbers, "left": left}
    partial = job.folder / "tallies.tmp"
    partial.write_text(json.dumps(content))
    partial.replace(job.folder / "tallies.json")


class _BoundedMemory:
    """Limit the address space; give the resident memory at the beginning."""

    def __enter__(self) -> int:
        self._before = resource.getrlimit(resource.RLIMIT_AS)
        sizes = Path("/proc/self/statm")
        if not sizes.exists():
            return _peak()
        pages = [int(number) * mmap.PAGESIZE for number in sizes.read_text().split()]
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
        resource.setrlimit(resource.RLIMIT_AS, (pages[0] + _ADDRESS_SPACE, self._before[1]))
        return pages[1]

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, self._before)


def _peak() -> int:
    """Return the most resident memory so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
